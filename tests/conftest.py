"""What every test may rely on: nothing of the developer's environment, and no trace of one test in the next.

Fixtures of one part live in that part's conftest.py; helpers shared by several in tests/support.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.postgres import Cluster

ROOT = Path(__file__).resolve().parent.parent
PREPARED = ("test_behaviours.py", "test_packaging.py", "test_testing_plugin.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first, so that the last minute has work for every process. Before them those that prepare one
    thing for a whole file: xdist takes work away from the end of what a process has, and it would be prepared twice."""
    items.sort(key=lambda item: (item.path.name not in PREPARED, item.get_closest_marker("once") is None))


def pytest_collection_finish() -> None:
    """What pytest and the modules of all tests hold is a million objects, and none of it any test's: set aside, it does
    not make each of the thousands of collections in tests take a fifth of a second."""
    gc.collect()
    gc.freeze()


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


@pytest.fixture
def nothing_frozen() -> Iterator[None]:
    """For tests of readings that count what is frozen, which takes a time that grows with it."""
    gc.unfreeze()
    yield
    gc.freeze()
