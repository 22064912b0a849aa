"""docs/collector.md says what is true."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from glassbottom_collector.config import CollectorConfig, load

from tests.support.collector_thread import collector_thread


@pytest.fixture
def page(root: Path) -> str:
    return (root / "docs" / "collector.md").read_text()


def keys(section: object, prefix: str = "") -> Iterator[str]:
    """Every option by its dotted name."""
    for field in dataclasses.fields(section):  # type: ignore[arg-type]
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from keys(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


def test_the_example_has_every_option_with_its_default(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    found = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert found is not None
    path = tmp_path / "collector.yaml"
    path.write_text(found[1])
    assert load(path) == CollectorConfig()
    for key in keys(CollectorConfig()):
        assert re.search(rf"^\s*{key.rsplit('.', 1)[-1]}:", found[1], re.MULTILINE), key


def test_every_counter_is_explained(page: str, tmp_path: Path) -> None:
    with collector_thread(tmp_path) as running:
        names = set(running.statistics())
    explained = set(re.findall(r"`((?:ingest|store|captures|heap_dumps|incidents?|history)_\w+)`", page))
    for family in ("ingest_pending_bytes", "store_queue_bytes"):
        explained |= {f"{family}_high", f"{family}_max"}
    assert names == explained
