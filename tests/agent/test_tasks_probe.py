"""What the tasks probe tells of steps, and of what Python complains of; and where it refuses to look."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
import warnings
from typing import Any

import pytest
from glassbottom.probes.operations import COROUTINE, STEP

from tests.support.tasks_rig import Rig, Run, ended, group_at, line_of, steps

# Steps


def test_steps_and_lives_of_coroutines_become_operations(rig: Rig, run: Run):
    async def good() -> None:
        await asyncio.sleep(0)

    async def bad() -> None:
        await asyncio.sleep(0)
        raise ValueError

    async def main() -> None:
        await asyncio.gather(*(good() for _ in range(5)), bad(), return_exceptions=True)
        tasks = [asyncio.create_task(asyncio.sleep(60))]
        await steps(2)
        await ended(tasks)
        await rig.reading()

    run(main())
    lives, held = rig.rows(COROUTINE), rig.rows(STEP)
    assert lives["good", "ok"].count == 5
    assert lives["bad", "error"].count == 1
    assert held["good", "ok"].count == 10
    assert held["good", "ok"].bare_yields == 5
    assert lives["good", "ok"].duration_ns >= lives["good", "ok"].busy_ns > 0
    (key,) = [key for key, _ in rig.operations._added if key.name.endswith("good") and key.kind == STEP]
    assert key.place == (good.__qualname__, __file__, good.__code__.co_firstlineno)
    rig.operations.read()  # they can be sent


def test_functions_made_anew_each_time_are_one_row(rig: Rig, run: Run):
    source = "import asyncio\nasync def made():\n    await asyncio.sleep(0)\n"

    async def main() -> None:
        for _ in range(3):
            namespace: dict[str, Any] = {}
            exec(compile(source, "made.py", "exec"), namespace)
            await asyncio.create_task(namespace["made"]())
        await rig.reading()

    run(main())
    assert len([key for key, _ in rig.operations._added if key.name == "made"]) == 2
    held = rig.rows(STEP)["made", "ok"]
    assert held.count == sum(memoryview(held.counts).cast("I")) == 6
    assert rig.rows(COROUTINE)["made", "ok"].count == 3


def test_a_step_of_a_second_or_more_never_yields(rig: Rig, run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("glassbottom.probes.tasks.NEVER_YIELDED_NS", 20_000_000)

    async def hog() -> None:
        threading.Event().wait(0.03)

    async def main() -> None:
        await asyncio.create_task(hog())
        await rig.reading()

    run(main())
    (seen,) = [each for each in rig.observed if each.kind == "task.never_yielded"]
    assert seen.name.endswith("hog")
    assert seen.value >= 0.03
    assert seen.place == (hog.__qualname__, __file__, hog.__code__.co_firstlineno)


def test_a_task_that_only_asks_to_be_run_again_is_spinning(rig: Rig, run: Run):
    async def spinner(stop: asyncio.Event) -> None:
        while not stop.is_set():
            await asyncio.sleep(0)

    async def main() -> None:
        stop = asyncio.Event()
        task = asyncio.create_task(spinner(stop))
        while not rig.probe._steps.steps_statistics()["steps"] > 2000:
            await asyncio.sleep(0.01)
        await rig.reading()
        stop.set()
        await task

    run(main())
    (seen,) = [each for each in rig.observed if each.kind == "task.spinning"]
    assert seen.name.endswith("spinner")
    code, offset = seen.path[0]
    lines = {line for start, end, line in code.co_lines() if start <= offset < end}
    assert lines == {line_of(spinner, 2)}


# What Python complains of


@pytest.mark.filterwarnings("ignore:coroutine")
def test_coroutines_nobody_awaited_are_counted_and_warned_of_as_before(rig: Rig, run: Run):
    async def forgotten() -> None:
        pass

    async def main() -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(3):
                forgotten()
        assert [warning.lineno for warning in caught] == [line_of(main, 4)] * 3
        assert {warning.filename for warning in caught} == {__file__}
        await rig.reading()

    run(main())
    (seen,) = rig.observed
    assert (seen.kind, seen.count) == ("coroutine.never_awaited", 3)
    assert seen.place == (forgotten.__qualname__, __file__, forgotten.__code__.co_firstlineno)


def test_exceptions_nobody_retrieved_are_counted_with_where_they_were_raised(
    rig: Rig, run: Run, caplog: pytest.LogCaptureFixture
):
    def deeper() -> None:
        raise KeyError("secret")

    async def failing() -> None:
        deeper()

    async def main() -> None:
        task = asyncio.create_task(failing())
        await steps(2)
        del task
        gc.collect()
        await rig.reading()

    run(main())
    assert "Task exception was never retrieved" in caplog.text, "the application's log has it as before"
    (seen,) = rig.observed
    assert (seen.kind, seen.count, dict(seen.attributes)) == (
        "task.exception_never_retrieved",
        1,
        {"exception.type": "KeyError"},
    )
    assert [code.co_name for code, _ in seen.path] == ["deeper", "failing"]


def test_hooks_are_gone_when_the_probe_has_stopped():
    warn, filters, step = warnings._warn_unawaited_coroutine, list(logging.getLogger("asyncio").filters), None
    rig = Rig()
    assert warnings._warn_unawaited_coroutine is not warn
    rig.probe.stop(1.0)
    assert warnings._warn_unawaited_coroutine is warn
    assert logging.getLogger("asyncio").filters == filters
    assert step is None


def test_a_wrapper_put_over_ours_meanwhile_stays(monkeypatch: pytest.MonkeyPatch):
    rig = Rig()
    ours = warnings._warn_unawaited_coroutine
    told: list[object] = []

    def theirs(coroutine: object) -> None:
        told.append(1)
        ours(coroutine)

    monkeypatch.setattr(warnings, "_warn_unawaited_coroutine", theirs)
    rig.probe.stop(1.0)

    async def forgotten() -> None:
        pass

    with pytest.warns(RuntimeWarning, match="never awaited"):
        forgotten()
    assert told == [1]


# Refusals


def test_under_gevent_the_layer_is_off_and_says_so(monkeypatch: pytest.MonkeyPatch):
    import types

    monkey = types.ModuleType("gevent.monkey")
    monkey.saved = {"socket": {}}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gevent.monkey", monkey)
    rig = Rig()
    assert rig.probe.state().state == "refused"
    assert "gevent" in rig.probe.state().reason
    assert rig.read() is None
    rig.probe.stop(1.0)


def test_greenlets_that_come_later_turn_the_layer_off(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    import types

    patcher = types.ModuleType("eventlet.patcher")
    patcher.already_patched = {"socket": True}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "eventlet.patcher", patcher)
    assert rig.read() is None
    assert rig.probe.state().state == "refused"
    assert rig.probe.statistics() == {}


def test_where_the_coroutine_type_is_taken_steps_are_counted_by_handles(monkeypatch: pytest.MonkeyPatch):
    from glassbottom import _native

    def refuse() -> None:
        raise RuntimeError("Another tool has changed am_send of the coroutine type.")

    monkeypatch.setattr(_native, "steps_start", refuse)
    rig = Rig()

    async def worker() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(60)

    async def main() -> None:
        tasks = [asyncio.create_task(worker()) for _ in range(3)]
        await steps(3)
        snapshot = await rig.reading()
        await ended(tasks)
        group = group_at(rig, snapshot, "worker")
        assert (group.count, group.state, group.steps, group.bare_yields) == (3, "waiting", 6, 3)

    asyncio.run(main())
    state = rig.probe.state()
    assert state.state == "running"
    assert "Another tool" in state.reason
    assert rig.rows(STEP)["worker", "ok"].count == 6
    rig.probe.stop(1.0)
    assert rig.guard.errors == 0
