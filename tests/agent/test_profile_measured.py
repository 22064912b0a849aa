"""What `glassbottom.profile` says of a call is true: how long, whose time, how it ended; and it is sent."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import glassbottom
import pytest
from glassbottom import _native, _profile
from glassbottom.probes.operations import FUNCTION, OTHER, Key, Recorder
from glassbottom.wire.v1 import ingest_pb2, operations_pb2

from tests.support.ingest_double import IngestDouble, body_of
from tests.support.profiled import (
    Recorded,
    example,
    example_async_generator,
    example_coroutine,
    example_generator,
    of_the_module,
    spin,
)
from tests.support.programs import python

# ---- times and counts -----------------------------------------------------------------------------------------------


def test_a_call_is_recorded_with_its_name_place_and_times(recorded: Recorded) -> None:
    @glassbottom.profile("checkout.total")
    def total() -> bytes:
        spin(0.02)
        time.sleep(0.02)
        return b""

    total()
    row = recorded.take()["checkout.total", "ok"]
    assert row.key.kind == FUNCTION
    assert row.key.place == (total.__qualname__, __file__, total.__code__.co_firstlineno)
    assert row.count == row.cpu_count == 1
    assert row.duration_ns >= 38e6
    assert row.self_ns == row.duration_ns
    assert 18e6 <= row.user_ns + row.system_ns <= row.duration_ns - 15e6
    assert row.busy_ns == 0


def test_the_time_of_profiled_callees_is_not_the_callers_own(recorded: Recorded) -> None:
    @glassbottom.profile
    def outer() -> None:
        spin(0.01)
        for _ in range(2):
            middle()

    def middle() -> None:
        inner()

    @glassbottom.profile
    def inner() -> None:
        spin(0.02)

    outer()
    rows = {name.rpartition(".")[2]: row for (name, _), row in recorded.take().items()}
    assert rows["inner"].count == 2
    assert rows["inner"].self_ns == rows["inner"].duration_ns
    assert rows["outer"].self_ns == rows["outer"].duration_ns - rows["inner"].duration_ns
    assert rows["outer"].self_ns >= 9e6


def test_an_error_is_an_error_and_a_cancellation_is_none(recorded: Recorded, run: Any) -> None:
    @glassbottom.profile("f")
    def f() -> None:
        raise LookupError

    @glassbottom.profile("c")
    async def c() -> None:
        await asyncio.sleep(60)

    with pytest.raises(LookupError):
        f()

    async def main() -> None:
        task = asyncio.create_task(c())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    run(main())
    assert set(recorded.take()) == {("f", "error"), ("c", "cancelled")}


def test_a_coroutine_is_busy_only_while_it_runs(recorded: Recorded, run: Any) -> None:
    @glassbottom.profile("waits")
    async def waits() -> None:
        spin(0.01)
        await asyncio.sleep(0.05)
        spin(0.01)

    async def main() -> None:
        await asyncio.gather(waits(), other())

    async def other() -> None:
        await asyncio.sleep(0.01)
        spin(0.02)

    run(main())
    row = recorded.take()["waits", "ok"]
    # uvloop counts the sleep from the beginning of its round, so that the first spin is part of it.
    assert row.duration_ns >= 55e6
    assert 19e6 <= row.busy_ns <= row.duration_ns - 30e6
    assert row.cpu_count == 1
    # getrusage() may leave out what a thread used since the kernel's last tick, up to 10 ms, when a piece begins: that
    # is told as the piece's. What the other task used is not.
    assert 18e6 <= row.user_ns + row.system_ns <= row.busy_ns + 10e6


def test_an_awaited_coroutine_counts_whole_and_one_beside_does_not(recorded: Recorded, run: Any) -> None:
    @glassbottom.profile("parent")
    async def parent() -> None:
        task = asyncio.create_task(child("beside"))
        await child("awaited")
        await task

    async def child(name: str) -> None:
        await glassbottom.profile(name)(sleeper)()

    async def sleeper() -> None:
        await asyncio.sleep(0.04)
        spin(0.001)

    run(parent())
    rows = recorded.take()
    awaited = rows["awaited", "ok"].duration_ns
    assert rows["parent", "ok"].self_ns == rows["parent", "ok"].duration_ns - awaited


def test_a_function_in_another_thread_has_no_caller_here(recorded: Recorded, run: Any) -> None:
    @glassbottom.profile("caller")
    async def caller() -> None:
        await asyncio.to_thread(callee)

    @glassbottom.profile("callee")
    def callee() -> None:
        time.sleep(0.02)

    run(caller())
    rows = recorded.take()
    assert rows["callee", "ok"].duration_ns >= 20e6
    assert rows["caller", "ok"].self_ns == rows["caller", "ok"].duration_ns


def test_a_generator_takes_as_long_as_it_runs(recorded: Recorded) -> None:
    @glassbottom.profile("consumer")
    def consumer() -> None:
        for _ in producer():
            spin(0.01)

    @glassbottom.profile("producer")
    def producer() -> Iterator[int]:
        for i in range(3):
            spin(0.005)
            yield i

    consumer()
    rows = recorded.take()
    assert rows["producer", "ok"].duration_ns >= 15e6
    assert rows["consumer", "ok"].self_ns == rows["consumer", "ok"].duration_ns - rows["producer", "ok"].duration_ns
    assert rows["consumer", "ok"].self_ns >= 29e6


def test_a_generator_left_early_is_no_error(recorded: Recorded, run: Any) -> None:
    wrapped = glassbottom.profile("g")(example_generator)
    for _ in wrapped(10):
        break

    async def main() -> None:
        generator = glassbottom.profile("a")(example_async_generator)(10)
        async for _ in generator:
            break
        await generator.aclose()

    run(main())
    assert {key: row.count for key, row in recorded.take().items()} == {("g", "ok"): 1, ("a", "ok"): 1}


def test_an_async_generator_waits_but_not_for_its_consumer(recorded: Recorded, run: Any) -> None:
    @glassbottom.profile("items")
    async def items() -> AsyncIterator[int]:
        for i in range(2):
            await asyncio.sleep(0.02)
            spin(0.005)
            yield i

    async def main() -> None:
        async for _ in items():
            await asyncio.sleep(0.1)

    run(main())
    row = recorded.take()["items", "ok"]
    assert 40e6 <= row.duration_ns <= 190e6
    assert 9e6 <= row.busy_ns <= row.duration_ns - 25e6


def test_every_call_of_many_threads_is_counted(recorded: Recorded) -> None:
    @glassbottom.profile("counted")
    def counted() -> None:
        pass

    def calls() -> None:
        for _ in range(2000):
            counted()

    threads = [threading.Thread(target=calls) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    row = recorded.take()["counted", "ok"]
    assert row.count == 8000
    # Short calls are asked for their CPU time at random, one in eight.
    assert 400 <= row.cpu_count <= 4000


def test_bytes_allocated_by_the_thread_are_counted_while_the_heap_is_sampled(recorded: Recorded) -> None:
    @glassbottom.profile("allocates")
    def allocates() -> bytes:
        return bytes(3_000_000)

    allocates()
    assert recorded.take()["allocates", "ok"].alloc_bytes == 0
    _native.start(interval_bytes=65536.0, window_share=0.1, seed=1)
    try:
        allocates()
        assert 3_000_000 <= recorded.take()["allocates", "ok"].alloc_bytes < 3_200_000
    finally:
        _native.stop()


def test_another_recorder_gets_slots_of_its_own_and_none_gets_nothing() -> None:
    first, second = Recorded(), Recorded()
    second.recorder.slot(Key(FUNCTION, "before"))
    _profile.attach(first.recorder)
    of_the_module(1)
    _profile.attach(second.recorder)
    of_the_module(1)
    _profile.detach()
    of_the_module(1)
    assert [row.count for row in first.take().values()] == [1]
    assert {name: row.count for (name, _), row in second.take().items()} == {"of_the_module": 1}


def test_a_call_that_outlives_the_agent_is_not_recorded(recorded: Recorded) -> None:
    @glassbottom.profile
    def ends_it() -> None:
        _profile.detach()

    ends_it()
    assert recorded.take() == {}


def test_names_beyond_the_recorders_bound_are_counted_together() -> None:
    found = Recorded()
    found.recorder = Recorder(_native.OperationTable(128), slots_max=80)
    _profile.attach(found.recorder)
    try:
        for i in range(40):
            with glassbottom.profile(f"block {i}"):
                pass
    finally:
        _profile.detach()
    rows = found.take()
    assert len(rows) == 17
    assert rows[OTHER, "ok"].count == 24


def test_a_context_that_is_run_elsewhere_has_callers_of_its_own(recorded: Recorded) -> None:
    @glassbottom.profile("callee")
    def callee() -> None:
        spin(0.01)

    @glassbottom.profile("caller")
    def caller() -> None:
        contextvars.copy_context().run(callee)

    caller()
    rows = recorded.take()
    assert rows["caller", "ok"].duration_ns >= 10e6
    assert rows["callee", "ok"].count == 1


# ---- what is left of a call -----------------------------------------------------------------------------------------


def test_calls_are_collected_with_the_coroutines_that_held_them(recorded: Recorded, run: Any) -> None:
    @glassbottom.profile("forgotten")
    async def forgotten(held: Any) -> None:
        await asyncio.sleep(60)
        del held

    class Held:
        pass

    async def main() -> weakref.ref[Held]:
        held = Held()
        task = asyncio.ensure_future(forgotten(held))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return weakref.ref(held)

    gone = run(main())
    gc.collect()
    assert gone() is None


def test_calls_that_ended_leave_nothing_behind(recorded: Recorded, run: Any) -> None:
    def kept() -> int:
        gc.collect()
        return sum(1 for thing in gc.get_objects() if type(thing).__name__ in ("Call", "CallCell"))

    async def main() -> None:
        generator = glassbottom.profile(example_async_generator)
        for _ in range(50):
            glassbottom.profile(example)(1)
            await asyncio.create_task(glassbottom.profile(example_coroutine)(1))
            list(glassbottom.profile(example_generator)(3))
            async for _ in generator(2):
                pass
            async with glassbottom.profile("block"):
                await asyncio.sleep(0)

    before = kept()
    contextvars.Context().run(run, main())
    assert kept() <= before + 2


# ---- in a process ---------------------------------------------------------------------------------------------------


IN_A_PROCESS = """
import os
import sys
import glassbottom

@glassbottom.profile
def before(): ...

before()  # not measured yet
glassbottom.init(service="tested", spans_interval_s=0.1)
before()
child = os.fork() if "fork" in sys.argv else 0
before()
glassbottom.snapshot()
assert glassbottom.flush(20)
if child:
    assert os.waitpid(child, 0)[1] == 0
glassbottom.shutdown()
before()
"""


@pytest.mark.parametrize(("argument", "counts"), [("", [2]), ("fork", [1, 2])])
def test_the_agent_sends_what_functions_took_in_each_process(argument: str, counts: list[int]) -> None:
    with IngestDouble() as double:
        done = python(IN_A_PROCESS, double.endpoint, argument)
        assert done.returncode == 0, done.stderr
        found: dict[int, int] = {}
        for session in double.sessions:
            pid = session.hello.process.pid
            found[pid] = found.get(pid, 0) + sum(map(calls_in, session.batches))
        assert sorted(found.values()) == counts


def calls_in(batch: ingest_pb2.Batch) -> int:
    """Calls of functions that a batch tells of."""
    if batch.stream != ingest_pb2.STREAM_OPERATIONS:
        return 0
    rows = operations_pb2.OperationsSnapshot.FromString(body_of(batch)).operations
    return sum(sum(row.duration.counts) for row in rows if row.kind == FUNCTION)
