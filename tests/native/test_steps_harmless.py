"""Counting the steps of coroutines changes nothing of a program, leaves no trace, and ends at its bounds."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import sys
import textwrap
import threading
import traceback
import types
import weakref

import pytest
from glassbottom import _native

from tests.support.forking import last_act
from tests.support.stepping import loops, run, steps, taken, waiting, yielding

# ---- nothing changes ------------------------------------------------------------------------------------------------

PROGRAM = """
import asyncio, contextvars, traceback
log = []
place = contextvars.ContextVar("place", default=0)

class Odd:
    def __await__(self):
        got = yield
        log.append(("sent", got))
        return "odd"

async def inner(n):
    place.set(n)
    try:
        await asyncio.sleep(0)
        if n % 3 == 0:
            raise ValueError(n)
        return n, place.get(), await Odd()
    finally:
        log.append(("left", n))

async def outer(n):
    try:
        return await inner(n)
    except ValueError as error:
        raise RuntimeError("outer") from error

async def stubborn():
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError as error:
            log.append(("refused", error.args))
            return "stayed"

async def main():
    results = await asyncio.gather(*(outer(n) for n in range(7)), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            result = traceback.format_exception(result)
        log.append(result)
    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    task.cancel("go")
    log.append(await task)
    try:
        async with asyncio.timeout(0.001):
            await asyncio.sleep(60)
    except TimeoutError as error:
        log.append((repr(error), repr(error.__cause__), repr(error.__context__)))
    done = asyncio.create_task(inner(1)).get_coro()
    await asyncio.sleep(0)
    for wrong in (lambda: done.throw(1), lambda: done.throw(), lambda: done.send(1)):
        try:
            log.append(wrong())
        except BaseException as error:
            log.append(traceback.format_exception(error))
    again = inner(2)
    await again
    try:
        await again
    except RuntimeError as error:
        log.append(traceback.format_exception(error))
    return 1

async def exiting():
    await asyncio.sleep(0)
    raise SystemExit(3)
"""


@loops
def test_results_exceptions_and_tracebacks_are_the_same_with_and_without(loop: str) -> None:
    def once() -> list[object]:
        scope: dict[str, object] = {}
        exec(compile(PROGRAM, "program.py", "exec"), scope)
        log: list[object] = scope["log"]  # type: ignore[assignment]
        log.append(run(loop, scope["main"]))  # type: ignore[arg-type]
        try:
            run(loop, scope["exiting"])  # type: ignore[arg-type]
        except SystemExit as error:
            log.append(traceback.format_exception(error)[-3:])
        return log

    without = once()
    with steps():
        counted = once()
        assert taken()["outer"].ended == {"ok": 4, "error": 3}
    assert counted == without
    assert len(without) > 15


def test_an_own_interpreter_has_its_coroutines_to_itself(counting: None) -> None:
    """Its GIL may be another, and then nothing here may be touched."""
    name = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
    interpreters = __import__(name)
    there = interpreters.create()
    reading, writing = os.pipe()
    program = f"""
        import os
        async def deep(n):
            return n and await deep(n - 1)
        class Driver:
            async def __aenter__(self): return 1
        coroutine = deep(50)
        try:
            coroutine.send(None)
        except StopIteration:
            pass
        import asyncio
        async def main():
            return [await asyncio.sleep(0) for _ in range(10)]
        loop = asyncio.new_event_loop()
        os.write({writing}, str(len(loop.run_until_complete(main()))).encode())
        loop.close()
    """
    try:
        wrong = interpreters.run_string(there, textwrap.dedent(program))
        assert wrong is None
    finally:
        interpreters.destroy(there)
    assert os.read(reading, 10) == b"10"
    os.close(reading)
    os.close(writing)
    assert taken() == {}
    assert asyncio.run(yielding(1)) == 1
    assert taken()["yielding"].steps == 2


# ---- the slot -------------------------------------------------------------------------------------------------------


def slot() -> ctypes.c_void_p:
    """am_send of the coroutine type, in place: the fourth function of what its tp_as_async points to."""
    tp_as_async = ctypes.c_void_p.from_address(id(types.CoroutineType) + 80)
    return ctypes.c_void_p.from_address(tp_as_async.value + 3 * ctypes.sizeof(ctypes.c_void_p))


def test_stop_leaves_no_trace_and_start_can_be_repeated() -> None:
    original, throw = slot().value, types.CoroutineType.throw
    for _ in range(3):
        with steps():
            _native.steps_start()
            assert slot().value != original
            asyncio.run(yielding(1))
            assert taken()["yielding"].steps == 2
        assert slot().value == original
        assert types.CoroutineType.throw is throw
        asyncio.run(yielding(1))
        assert taken() == {}
        assert _native.steps_statistics()["state"] == 0
    _native.steps_stop()


def test_stopping_within_a_step_loses_that_step_only() -> None:
    async def main() -> int:
        await asyncio.sleep(0)
        _native.steps_stop()
        await asyncio.sleep(0)
        _native.steps_start()
        await asyncio.sleep(0)
        return 1

    with steps():
        assert asyncio.run(main()) == 1
        row = taken()["main"]
        assert row.steps == 1
        assert row.ended == {}


def test_what_was_counted_can_be_taken_after_the_end() -> None:
    _native.steps_start()
    asyncio.run(yielding(2))
    _native.steps_stop()
    assert taken()["yielding"].steps == 3
    assert _native.steps_statistics()["functions"] == 0


def test_another_tool_in_the_slot_is_respected() -> None:
    original = slot().value
    kind = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    calls = [0]

    def on_top_of(address: int):  # type: ignore[no-untyped-def]
        below = kind(address)

        def theirs(coroutine: int, argument: int, result: int) -> int:
            calls[0] += 1
            return below(coroutine, argument, result)

        return kind(theirs)

    try:
        before_us = on_top_of(original)
        slot().value = ctypes.cast(before_us, ctypes.c_void_p).value
        with pytest.raises(RuntimeError, match="Another tool has replaced am_send"):
            _native.steps_start()
        slot().value = original
        with steps():
            above_us = on_top_of(slot().value)
            slot().value = ctypes.cast(above_us, ctypes.c_void_p).value
            loop = asyncio.new_event_loop()
            loop.run_until_complete(asyncio.sleep(0))
        assert slot().value == ctypes.cast(above_us, ctypes.c_void_p).value
        calls[0] = 0
        loop.run_until_complete(asyncio.sleep(0, 5))
        assert calls[0] >= 2
        assert taken() == {}
        with steps():  # in the chain as before
            loop.run_until_complete(asyncio.sleep(0))
            assert taken()["sleep"].steps == 2
        loop.close()
    finally:
        slot().value = original


def test_a_child_forked_within_a_step_counts_nothing_until_it_starts_again(counting: None) -> None:
    async def child() -> None:
        state = _native.steps_statistics()
        assert state["state"] == state["coroutines"] == state["functions"] == state["steps"] == 0
        assert _native.steps_running() == []
        await asyncio.sleep(0)
        _native.steps_start()
        await asyncio.sleep(0)
        thread = threading.Thread(target=asyncio.run, args=(yielding(4),))  # asyncio knows this loop is the parent's
        thread.start()
        thread.join()

    async def main() -> int:
        await asyncio.sleep(0)
        pid = os.fork()
        if pid == 0:
            with last_act():
                await child()
                rows = taken()
                assert rows["yielding"].steps == 5
                assert rows["yielding"].ended == {"ok": 1}
                assert "main" not in rows  # one step began before, the other still runs
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert asyncio.run(main()) == 0
    assert taken()["main"].steps == 2


# ---- bounds ---------------------------------------------------------------------------------------------------------


def test_functions_that_come_and_go_do_not_stay(counting: None) -> None:
    """As many as an application that makes them while it runs: their code is let go, and none is refused."""
    codes = []
    for turn in range(4):
        for i in range(400):
            scope: dict[str, object] = {}
            exec(f"async def made_{turn}_{i}(): pass", scope)
            made = scope[f"made_{turn}_{i}"]
            codes.append(weakref.ref(made.__code__))  # type: ignore[attr-defined]
            with pytest.raises(StopIteration):
                ctypes_send(made())  # type: ignore[operator]
            del made, scope
        assert len(taken()) == 400
        assert taken() == {}
        assert taken() == {}
    gc.collect()
    assert sum(code() is not None for code in codes) <= 512
    statistics = _native.steps_statistics()
    assert statistics["functions_dropped"] == 0
    assert statistics["functions"] <= 512


def ctypes_send(coroutine: object) -> None:
    """One step, as C code takes it; raises StopIteration when it returns."""
    send = ctypes.pythonapi.PyIter_Send
    send.argtypes = [ctypes.py_object, ctypes.py_object, ctypes.POINTER(ctypes.py_object)]
    result = ctypes.py_object()
    if send(coroutine, None, ctypes.byref(result)) == 0:
        raise StopIteration


@pytest.mark.once
def test_more_coroutines_than_the_table_holds_run_all_the_same(counting: None) -> None:
    async def main() -> int:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        tasks = [asyncio.create_task(waiting(future)) for _ in range(13_000)]
        await asyncio.sleep(0)
        state = _native.steps_statistics()
        assert state["coroutines"] == state["coroutines_max"] == 12_288
        assert state["coroutines_dropped"] >= 13_000 - 12_288
        future.set_result(1)
        return sum([await task for task in tasks])

    assert asyncio.run(main()) == 13_000
    row = taken()["waiting"]
    assert row.steps == 26_000
    assert 12_287 <= row.ended["ok"] <= 12_288  # main() has a row, too
    assert _native.steps_statistics()["coroutines"] == 0


@pytest.mark.once
def test_more_threads_than_there_are_records_run_all_the_same(counting: None) -> None:
    together = threading.Barrier(270)
    results = []

    async def main() -> None:
        await asyncio.sleep(0)
        together.wait()
        await asyncio.sleep(0)
        results.append(1)

    threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(270)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 270
    state = _native.steps_statistics()
    assert state["threads_dropped"] > 0
    assert 250 <= taken()["main"].ended["ok"] <= 256
