"""When a call path was first seen to hold memory: over all days, and in which process."""

from __future__ import annotations

import pytest

from tests.storage.conftest import Bench
from tests.support.store_agent import MIDNIGHT, MINUTE, NOON, S, StoreAgent

pytestmark = pytest.mark.once


def test_it_is_the_first_snapshot_in_which_the_call_path_holds_something(bench: Bench) -> None:
    agent = StoreAgent()
    agent.heap(bench.writer, NOON, {1: 10.0, 2: 0.0}, complete=True)
    agent.heap(bench.writer, NOON + 10 * S, {1: 11.0, 2: 20.0})
    agent.heap(bench.writer, NOON + 20 * S, {2: 30.0})

    assert bench.reader.first_held("checkout", [1, 2, 3]) == {
        1: (NOON, agent.instance_id),
        2: (NOON + 10 * S, agent.instance_id),
    }


def test_it_is_looked_for_in_every_day_and_every_process(bench: Bench) -> None:
    """A leak that began yesterday began in the process of yesterday, whatever runs today."""
    before, after = StoreAgent(), StoreAgent()
    before.heap(bench.writer, MIDNIGHT - MINUTE, {1: 10.0}, complete=True)
    after.heap(bench.writer, MIDNIGHT + MINUTE, {1: 10.0, 2: 5.0}, complete=True)

    assert bench.reader.first_held("checkout", [1, 2]) == {
        1: (MIDNIGHT - MINUTE, before.instance_id),
        2: (MIDNIGHT + MINUTE, after.instance_id),
    }


def test_another_service_that_runs_the_same_code_is_not_asked(bench: Bench) -> None:
    agent = StoreAgent()
    agent.heap(bench.writer, NOON, {1: 10.0}, complete=True)

    assert bench.reader.first_held("search", [1]) == {}
