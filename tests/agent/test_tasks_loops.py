"""Heartbeats: how late a loop is, whatever happens to the loop, and never in its way."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import pytest
import uvloop
from glassbottom._guard import Guard
from glassbottom.probes import loops as loops_module
from glassbottom.probes.durations import Durations
from glassbottom.probes.loops import Heartbeat, Loops

PERIOD_S = 0.02


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops_module, "PERIOD_S", PERIOD_S)
    monkeypatch.setattr(loops_module, "PERIOD_NS", int(PERIOD_S * 1e9))


@pytest.fixture(params=["asyncio", "uvloop"])
def new_loop(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    return asyncio.new_event_loop if request.param == "asyncio" else uvloop.new_event_loop


@pytest.fixture
def loops() -> Iterator[Loops]:
    loops = Loops(Guard())
    yield loops
    loops.end()
    assert loops.guard.errors == 0


async def beats(beat: Heartbeat, number: int) -> None:
    """Returns after so many more."""
    wanted = beat.beats + number
    while beat.beats < wanted:
        await asyncio.sleep(PERIOD_S / 4)


def test_a_blocked_loop_is_late_by_as_long_as_it_was_blocked(new_loop, loops: Loops):
    async def main() -> None:
        beat = loops.number(asyncio.get_running_loop())
        await beats(beat, 2)
        beat.lag.take()
        time.sleep(0.3)
        await beats(beat, 1)
        lag = beat.lag.take()
        assert lag.max_ns >= 0.25e9
        assert beat.thread() == threading.current_thread().name

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


def test_ready_callbacks_are_told_where_the_loop_tells(new_loop, loops: Loops):
    async def main() -> None:
        loop = asyncio.get_running_loop()
        beat = loops.number(loop)
        await beats(beat, 1)
        assert beat.ready_max == -1 if isinstance(loop, uvloop.Loop) else beat.ready_max >= 0

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


def test_time_in_which_a_loop_did_not_run_is_not_lag(new_loop, loops: Loops):
    loop = new_loop()
    beat = loops.number(loop)
    loop.run_until_complete(beats(beat, 2))
    beat.lag.take()
    time.sleep(0.3)
    loop.run_until_complete(beats(beat, 2))
    assert beat.lag.take().max_ns < 0.25e9
    loop.close()


def test_a_loop_may_be_closed_with_a_heartbeat_pending_and_is_forgotten(new_loop, loops: Loops, caplog):
    loop = new_loop()
    beat = loops.number(loop)
    loop.run_until_complete(beats(beat, 1))
    reference = weakref.ref(loop)
    loop.close()
    assert list(loops.running()) == []
    assert len(loops) == 0
    assert loops.beats() == beat.beats >= 1
    del loop, beat
    gc.collect()
    assert reference() is None
    assert caplog.text == ""


def test_a_loop_that_was_closed_before_it_was_met_has_none(new_loop, loops: Loops):
    loop = new_loop()
    loop.close()
    assert loops.number(loop) is None
    assert loops.number(object()) is None
    assert len(loops) == 0


def test_a_heartbeat_is_no_task_and_keeps_no_program_alive(new_loop, loops: Loops):
    async def main() -> set[asyncio.Task]:
        beat = loops.number(asyncio.get_running_loop())
        await beats(beat, 2)
        return asyncio.all_tasks() - {asyncio.current_task()}

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(main()) == set()


def test_a_loop_in_debug_mode_has_nothing_to_complain_of(new_loop, loops: Loops, caplog):
    async def main() -> None:
        beat = loops.number(asyncio.get_running_loop())
        await beats(beat, 3)

    with caplog.at_level(logging.DEBUG), asyncio.Runner(loop_factory=new_loop, debug=True) as runner:
        runner.run(main())
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_loops_in_threads_and_one_after_another_are_each_met(new_loop, loops: Loops):
    seen: list[tuple[int, str]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        beat = loops.number(loop)
        assert loops.number(loop) is beat
        await beats(beat, 1)
        assert loop in [each for each, _ in loops.running()]
        seen.append((beat.number, beat.thread()))

    def run() -> None:
        for _ in range(2):
            with asyncio.Runner(loop_factory=new_loop) as runner:
                runner.run(main())

    threads = [threading.Thread(target=run, name=f"loop-{i}") for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({number for number, _ in seen}) == 6
    assert sorted(name for _, name in seen) == ["loop-0", "loop-0", "loop-1", "loop-1", "loop-2", "loop-2"]


def test_when_the_agent_stops_heartbeats_end(new_loop, loops: Loops):
    async def main() -> None:
        beat = loops.number(asyncio.get_running_loop())
        await beats(beat, 1)
        loops.end()
        before = beat.beats
        await asyncio.sleep(PERIOD_S * 4)
        assert beat.beats == before
        if not isinstance(asyncio.get_running_loop(), uvloop.Loop):
            assert [each for each in asyncio.get_running_loop()._scheduled if not each._cancelled] == []

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


def test_of_too_many_loops_the_last_are_counted(monkeypatch: pytest.MonkeyPatch, loops: Loops):
    monkeypatch.setattr(loops_module, "LOOPS_MAX", 2)
    made = [asyncio.new_event_loop() for _ in range(3)]
    assert [loops.number(loop) is None for loop in made] == [False, False, True]
    assert loops.dropped == 1
    made[0].close()
    assert loops.number(made[2]) is not None
    for loop in made[1:]:
        loop.close()


def test_durations_agree_with_the_native_histogram():
    from glassbottom._native import OperationTable

    table, durations = OperationTable(1), Durations()
    slot = table.add()
    for exponent in range(400):
        for duration_ns in (int(1.09**exponent), int(1.09**exponent) + 1):
            if duration_ns < 2**44:
                table.record(slot, duration_ns)
                durations.record(duration_ns)
    ((_, count, duration_ns, *_, min_ns, max_ns, offset, counts),) = table.take()
    taken = durations.take()
    assert (taken.number, taken.sum_ns, taken.min_ns, taken.max_ns) == (count, duration_ns, min_ns, max_ns)
    native = {offset + i: n for i, n in enumerate(memoryview(counts).cast("I"))}
    ours = {taken.offset + i: n for i, n in enumerate(memoryview(taken.counts).cast("I"))}
    assert sum(ours.values()) == sum(native.values()) == count
    # At the edge of a bucket the last digit may fall either way.
    assert sum(abs(ours.get(i, 0) - native.get(i, 0)) for i in {*ours, *native}) <= 4
    assert durations.take() == (0, 0, 0, 0, 0, b"")
