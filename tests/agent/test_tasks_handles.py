"""Where the coroutine type cannot be watched, steps are counted around asyncio's Handle._run, with the same answers."""

from __future__ import annotations

import asyncio
import asyncio.events
import gc
from collections.abc import Iterator

import pytest
from glassbottom import _native
from glassbottom.probes.asyncio_objects import coroutine_of
from glassbottom.probes.steps import HandleSteps


@pytest.fixture
def steps() -> Iterator[HandleSteps]:
    steps = HandleSteps()
    steps.steps_start()
    yield steps
    steps.steps_stop()
    assert steps.errors == 0


async def good() -> int:
    await asyncio.sleep(0)
    await asyncio.sleep(0.001)
    return 1


async def bad() -> None:
    await asyncio.sleep(0)
    raise ValueError


async def endless() -> None:
    await asyncio.sleep(60)


async def program() -> None:
    task = asyncio.create_task(endless())
    await asyncio.gather(*(good() for _ in range(10)), bad(), return_exceptions=True)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_it_counts_as_the_native_counter_does(steps: HandleSteps):
    asyncio.run(program())
    steps.steps_stop()
    _native.steps_start()
    asyncio.run(program())
    native = {row[0].co_name: row for row in _native.steps_take()}
    _native.steps_stop()
    ours = {row[0].co_name: row for row in steps.steps_take()}
    for name in ("good", "bad", "program"):
        assert ours[name][1:3] == native[name][1:3], name
        assert [each[:2] for each in ours[name][7]] == [each[:2] for each in native[name][7]]
    assert [each[:2] for each in ours["endless"][7]] == [("cancelled", 1)]
    assert sum(memoryview(ours["good"][5]).cast("I")) == ours["good"][1]
    assert ours["good"][3] >= ours["good"][6] > 0
    assert steps.steps_take() == []


def test_a_task_can_be_asked_for_and_its_loop_is_met(steps: HandleSteps):
    async def main() -> None:
        task = asyncio.create_task(endless())
        await asyncio.sleep(0)
        first_ns, start_ns, end_ns, number, bare_yields, busy_ns = steps.steps_of(coroutine_of(task))
        assert first_ns == start_ns < end_ns
        assert (number, bare_yields, busy_ns) == (1, 0, end_ns - start_ns)
        assert steps.steps_loops() == [asyncio.get_running_loop()]
        assert steps.steps_loops() == []
        assert steps.steps_statistics()["coroutines"] >= 1
        assert steps.steps_reconcile([coroutine_of(task), coroutine_of(asyncio.current_task())]) == 0
        assert steps.steps_reconcile([], 0) == 0, "what ran since the list was begun stays"
        assert steps.steps_reconcile([coroutine_of(asyncio.current_task())]) == 1
        assert steps.steps_of(coroutine_of(task)) is None
        task.cancel()

    asyncio.run(main())


def test_exceptions_stay_unretrieved(steps: HandleSteps, caplog: pytest.LogCaptureFixture):
    async def main() -> None:
        task = asyncio.create_task(bad())
        await asyncio.sleep(0.01)
        del task
        gc.collect()

    asyncio.run(main())
    assert "never retrieved" in caplog.text


def test_the_method_is_restored_unless_somebody_wrapped_it(monkeypatch: pytest.MonkeyPatch):
    original = asyncio.events.Handle._run
    steps = HandleSteps()
    steps.steps_start()
    ours = asyncio.events.Handle._run
    assert ours is not original
    steps.steps_stop()
    assert asyncio.events.Handle._run is original

    steps.steps_start()
    monkeypatch.setattr(asyncio.events.Handle, "_run", lambda handle: ours(handle))
    steps.steps_stop()
    asyncio.run(program())
    assert steps.steps_take() == []
    monkeypatch.setattr(asyncio.events.Handle, "_run", original)


def test_of_too_many_functions_and_coroutines_the_last_are_counted(steps: HandleSteps, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("glassbottom.probes.steps.FUNCTIONS_MAX", 1)
    monkeypatch.setattr("glassbottom.probes.steps.COROUTINES_MAX", 1)
    asyncio.run(program())
    statistics = steps.steps_statistics()
    assert statistics["functions"] == 1
    assert statistics["functions_dropped"] > 0
