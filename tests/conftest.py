"""What every test may rely on: nothing of the developer's environment, and no trace of one test in the next.

Fixtures of one part live in that part's conftest.py; helpers shared by several in tests/support.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.postgres import Cluster

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first, so that the last minute has work for every process."""
    items.sort(key=lambda item: item.get_closest_marker("once") is None)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own GLASSBOTTOM_* or OTEL_* settings must not decide whether a test passes."""
    for name in list(os.environ):
        if name.startswith(("GLASSBOTTOM_", "OTEL_")):
            monkeypatch.delenv(name)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture(scope="session")
def root() -> Path:
    """The top of the source tree."""
    return ROOT


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A real PostgreSQL primary and its streaming replica, started when the first test of this process wants them."""
    from tests.support.postgres import postgres_cluster  # late: it needs psycopg, and most tests do not

    with postgres_cluster() as cluster:
        yield cluster
