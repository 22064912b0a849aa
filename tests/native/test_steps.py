"""Every step of every coroutine is counted once, whatever drives it, and so is its life."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
import types
import weakref

from glassbottom import _native

from tests.support.stepping import LOOPS, loops, run, steps, taken, waiting, yielding


def turn(loop: asyncio.AbstractEventLoop) -> None:
    """Everything that is ready, once."""
    loop.call_soon(loop.stop)
    loop.run_forever()


# ---- counts ---------------------------------------------------------------------------------------------------------


@loops
def test_steps_yields_and_ends_are_exact(loop: str, counting: None) -> None:
    async def main() -> list[int]:
        return await asyncio.gather(*(asyncio.create_task(yielding(n)) for n in range(50)))

    began = time.monotonic_ns()
    assert run(loop, main) == list(range(50))
    passed = time.monotonic_ns() - began
    row = taken()["yielding"]
    assert row.steps == sum(range(50)) + 50
    assert row.bare_yields == sum(range(50))
    assert row.in_histogram == row.steps
    assert row.ended == {"ok": 50}
    assert 0 < row.step_ns_max <= row.busy_ns <= row.lifetime_ns["ok"]
    assert row.lifetime_ns["ok"] <= 50 * (passed + 1_000_000)  # one clock's second against the other's
    assert taken() == {}
    statistics = _native.steps_statistics()
    assert statistics["coroutines"] == 0
    assert statistics["coroutines_dropped"] == statistics["functions_dropped"] == statistics["threads_dropped"] == 0


@loops
def test_ends_are_told_apart_also_when_an_exception_comes_in_from_outside(loop: str, counting: None) -> None:
    async def raising() -> None:
        await asyncio.sleep(0)
        raise ValueError

    async def giving_up() -> None:
        await asyncio.sleep(0)
        raise asyncio.CancelledError

    async def recovering(future: asyncio.Future[int]) -> int:
        try:
            return await future
        except KeyError:
            await asyncio.sleep(0)
            return 1

    async def main() -> list[object]:
        at = asyncio.get_running_loop()
        bad: asyncio.Future[int] = at.create_future()
        never: asyncio.Future[int] = at.create_future()
        tasks = [
            asyncio.create_task(x) for x in (raising(), giving_up(), recovering(bad), waiting(bad), waiting(never))
        ]
        await asyncio.sleep(0)
        bad.set_exception(KeyError())
        tasks[-1].cancel()
        return [type(x) for x in await asyncio.gather(*tasks, return_exceptions=True)]

    cancelled = asyncio.CancelledError
    assert run(loop, main) == [ValueError, cancelled, int, KeyError, cancelled]
    rows = taken()
    assert rows["raising"].ended == {"error": 1}
    assert rows["giving_up"].ended == {"cancelled": 1}
    assert rows["recovering"].ended == {"ok": 1}
    assert rows["recovering"].steps == 3  # to the future, its exception, and after the yield
    assert rows["recovering"].bare_yields == 1
    assert rows["waiting"].ended == {"error": 1, "cancelled": 1}


@loops
def test_a_task_group_that_fails_cancels_the_others_and_that_is_what_is_counted(loop: str, counting: None) -> None:
    async def failing() -> None:
        await asyncio.sleep(0)
        raise LookupError

    async def main() -> str:
        never: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(5):
                    group.create_task(waiting(never))
                group.create_task(failing())
        except* LookupError as errors:
            told = repr(errors.exceptions)
        return told

    assert run(loop, main) == "(LookupError(),)"
    rows = taken()
    assert rows["waiting"].ended == {"cancelled": 5}
    assert rows["failing"].ended == {"error": 1}
    assert rows["main"].ended == {"ok": 1}


def test_what_a_step_awaits_in_turn_is_part_of_it(counting: None) -> None:
    """On 3.11 every nested await comes by the wrapper, too."""

    async def numbers(n: int):  # type: ignore[no-untyped-def]
        for i in range(n):
            await asyncio.sleep(0)
            yield i

    async def deep(n: int) -> int:
        return await deep(n - 1) + 1 if n else await yielding(3)

    async def main() -> tuple[list[int], int]:
        return [i async for i in numbers(4) if await yielding(1)], await deep(30)

    assert run("asyncio", main) == ([0, 1, 2, 3], 33)
    rows = taken()
    assert set(rows) == {"main"}
    assert rows["main"].steps == 1 + 4 + 4 + 3


if sys.version_info >= (3, 12):

    @loops
    def test_an_eager_task_begins_within_the_step_around_it(loop: str, counting: None) -> None:
        async def at_once() -> int:
            return 7

        async def main() -> list[int]:
            # Not asyncio.eager_task_factory: before 3.13.3 it does not know what uvloop passes on.
            asyncio.get_running_loop().set_task_factory(
                lambda at, coroutine, **_: asyncio.Task(coroutine, loop=at, eager_start=True)
            )
            tasks = [asyncio.create_task(x) for x in (at_once(), yielding(0), yielding(3))]
            return [await task for task in tasks]

        assert run(loop, main) == [7, 0, 3]
        rows = taken()
        assert rows["at_once"].steps == 0
        assert rows["at_once"].ended == {"ok": 1}
        assert rows["yielding"].steps == 3  # its first was main()'s
        assert rows["yielding"].ended == {"ok": 2}


def test_loops_in_several_threads_are_counted_each_and_their_records_come_back(counting: None) -> None:
    before = _native.steps_statistics()["threads"]
    together = threading.Barrier(8)

    async def main() -> int:
        await asyncio.to_thread(together.wait)
        return await yielding(20)

    threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = taken()
    assert rows["main"].ended == {"ok": 8}
    assert rows["main"].bare_yields == 8 * 20
    # A thread's last act comes a moment after join().
    deadline = time.monotonic() + 20
    while _native.steps_statistics()["threads"] != before and time.monotonic() < deadline:
        time.sleep(0.001)
    assert _native.steps_statistics()["threads"] == before


def test_a_loop_run_from_a_step_of_another_is_counted_on_its_own_thread(counting: None) -> None:
    async def main() -> int:
        return await asyncio.to_thread(lambda: asyncio.run(yielding(5)))

    assert asyncio.run(main()) == 5
    rows = taken()
    assert rows["yielding"].steps == 6
    assert rows["main"].ended == {"ok": 1}


# ---- lives ----------------------------------------------------------------------------------------------------------


def test_a_coroutine_at_the_address_of_another_has_a_life_of_its_own(counting: None) -> None:
    async def left() -> None:
        await asyncio.sleep(0)

    addresses = set()
    loop = asyncio.new_event_loop()
    for _ in range(20):
        assert loop.run_until_complete(yielding(2)) == 2
        coroutine = left()
        addresses.add(id(coroutine))
        task = loop.create_task(coroutine)
        turn(loop)
        assert _native.steps_of(coroutine)[3] == 1
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        coroutine.close()
        del task, coroutine
        loop._ready.clear()  # type: ignore[attr-defined]
        gc.collect()
    loop.close()
    assert len(addresses) < 20
    assert _native.steps_reconcile([]) == len(addresses)  # the others were noticed as the next one began there
    rows = taken()
    assert rows["yielding"].ended == {"ok": 20}
    assert rows["yielding"].steps == 60
    assert rows["left"].ended == {"thrown": 20}
    assert _native.steps_statistics()["thrown"] == 20


def test_a_coroutine_that_began_before_counting_has_steps_but_no_lifetime() -> None:
    loop = asyncio.new_event_loop()
    task = loop.create_task(yielding(3))
    turn(loop)
    with steps():
        assert loop.run_until_complete(task) == 3
        row = taken()["yielding"]
        assert row.steps == 3
        assert row.ended == {}
        assert _native.steps_statistics()["coroutines"] == 0
    loop.close()


def test_the_times_of_a_coroutine_are_on_the_monotonic_clock(counting: None) -> None:
    loop = asyncio.new_event_loop()
    seen = []

    async def looking() -> None:
        await asyncio.sleep(0)
        seen.append(_native.steps_of(coroutine))
        await future

    future: asyncio.Future[int] = loop.create_future()
    coroutine = looking()
    assert _native.steps_of(coroutine) is None
    before = time.monotonic_ns()
    task = loop.create_task(coroutine)
    for _ in range(3):
        loop.run_until_complete(asyncio.sleep(0))
    after = time.monotonic_ns()
    first, start, end, count, bare, busy = seen[0]
    assert end < start
    assert (count, bare) == (1, 1)
    later = _native.steps_of(coroutine)
    assert later[0] == first
    assert later[1] == start
    assert later[3:5] == (2, 1)
    apart = 100_000  # the processor's counter is set by that clock once a second
    assert before - apart <= first <= end <= start <= later[2] <= after + apart
    assert busy <= later[5] <= after - before + apart
    future.set_result(1)
    loop.run_until_complete(task)
    assert _native.steps_of(coroutine) is None
    loop.close()


def test_reconciling_ends_what_is_gone_and_nothing_else(counting: None) -> None:
    ended = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int] = loop.create_future()
        coroutines = [waiting(future) for _ in range(3)]
        kept = asyncio.create_task(coroutines[0])
        gone = [asyncio.create_task(c) for c in coroutines[1:]]
        await asyncio.sleep(0)
        listed = time.monotonic_ns()
        newer = asyncio.create_task(yielding(2))
        await asyncio.sleep(0.001)
        for coroutine in coroutines[1:]:
            coroutine.close()
        ended.append(_native.steps_reconcile([coroutines[0]], listed - 1_000_000))
        ended.append(_native.steps_reconcile([coroutines[0]]))  # main() itself runs, and stays
        for task in gone:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        future.set_result(5)
        assert await kept == 5
        await newer

    asyncio.run(main())
    rows = taken()
    # Within a millisecond of the list nothing is sure.
    assert sum(ended) == 2
    assert rows["waiting"].ended == {"thrown": 2, "ok": 1}
    assert rows["main"].ended == {"ok": 1}
    assert rows["yielding"].ended == {"ok": 1}


def test_what_runs_now_is_named_on_every_thread(counting: None) -> None:
    inside, leave = threading.Event(), threading.Event()

    async def held() -> None:
        inside.set()
        leave.wait()

    thread = threading.Thread(target=asyncio.run, args=(held(),))
    thread.start()
    inside.wait()

    async def looking() -> list[tuple[int, types.CodeType, int]]:
        return _native.steps_running()

    running = asyncio.run(looking())
    leave.set()
    thread.join()
    assert {(ident, code.co_name) for ident, code, _ in running} == {
        (threading.get_ident(), "looking"),
        (thread.ident, "held"),
    }
    assert all(0 <= time.monotonic_ns() - start < 60e9 for _, _, start in running)
    assert _native.steps_running() == []


# ---- loops ----------------------------------------------------------------------------------------------------------


@loops
def test_a_loop_is_met_once_and_not_kept_alive(loop: str, counting: None) -> None:
    met = []

    def in_thread() -> None:
        at = LOOPS[loop]()
        at.run_until_complete(yielding(1))
        found = _native.steps_loops()
        met.append(found == [at] and _native.steps_loops() == [])
        at.close()
        gone.append(weakref.ref(at))

    gone: list[weakref.ref[asyncio.AbstractEventLoop]] = []
    for _ in range(5):  # at the same address, as likely as not
        thread = threading.Thread(target=in_thread)
        thread.start()
        thread.join()
        gc.collect()
    assert met == [True] * 5
    assert all(reference() is None for reference in gone)
