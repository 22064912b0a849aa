"""What holds a loop is named, with its line, while it does; and the threads that look never get in the way."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import CodeType
from typing import NamedTuple

import pytest
from glassbottom import _native

from tests.support.forking import last_act
from tests.support.stepping import line, loops, run, steps, taken, watchdog


class Block(NamedTuple):
    at_ns: int
    thread: int
    code: CodeType
    duration_ns: int
    stack: list[tuple[CodeType, int]]
    gil_held: bool
    late: bool
    ended: bool
    label: int

    @property
    def places(self) -> list[tuple[str, int | None]]:
        return [(code.co_name, line(code, offset)) for code, offset in self.stack]


def blocks(name: str) -> list[Block]:
    """Those of this coroutine function, taken now; a busy machine may make others."""
    return [block for block in map(Block._make, _native.blocks_take()) if block.code.co_name == name]


def waited_for(name: str, condition: Callable[[Block], bool]) -> Block:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for block in blocks(name):
            if condition(block):
                return block
        time.sleep(0.005)
    raise AssertionError(f"no such block of {name}")


def marked(function: Callable[..., object]) -> int:
    """The number of the line that ends in `# here`."""
    source, first = inspect.getsourcelines(function)
    return next(first + i for i, text in enumerate(source) if text.rstrip().endswith("# here"))


@functools.cache
def letters_for(seconds: float) -> int:
    """How many letters keep that regular expression busy so long, on a processor of its own: one more doubles it."""
    letters = 14
    while True:
        began = time.thread_time()
        re.match(r"(a+)+$", "a" * letters + "b")
        if time.thread_time() - began > seconds:
            return letters
        letters += 1


# ---- where ----------------------------------------------------------------------------------------------------------


async def by_sleeping() -> None:
    time.sleep(0.3)  # here


async def by_computing() -> None:
    end = time.monotonic() + 0.3
    while time.monotonic() < end: pass  # fmt: skip # noqa: E701 # here


async def by_matching(letters: int) -> None:
    re.match(r"(a+)+$", "a" * letters + "b")  # here


async def by_summing(numbers: range) -> None:
    sum(numbers)  # here


async def in_passing(letters: int) -> None:
    """The step ends in the same instant as the call."""
    await asyncio.sleep(0)
    return re.match(r"(a+)+$", "a" * letters + "b")  # here


@loops
@pytest.mark.parametrize("held", [by_sleeping, by_computing])
def test_a_loop_blocked_by_python_or_by_waiting_is_named_with_its_line(held: Callable[[], object], loop: str) -> None:
    before = time.time_ns()
    with watchdog():
        run(loop, held)
        (block,) = blocks(held.__name__)
        counted = taken()[held.__name__]
    assert (held.__name__, marked(held)) in block.places
    assert block.thread == threading.get_ident()
    assert block.ended
    assert block.duration_ns == counted.step_ns_max >= 0.29e9
    assert before - 1e6 <= block.at_ns <= time.time_ns() - block.duration_ns + 1e6


@loops
@pytest.mark.parametrize("held", [by_matching, in_passing])
def test_a_call_that_holds_the_gil_is_named_with_its_line(held: Callable[[int], object], loop: str) -> None:
    """Nobody can look before it lets go, and that is in the instruction that called."""
    letters = letters_for(0.4)
    with watchdog():
        run(loop, lambda: held(letters))
        (block,) = blocks(held.__name__)
    assert block.places[0][0] == "match"
    assert (held.__name__, marked(held)) in block.places
    assert block.gil_held
    assert block.late
    assert block.ended


def test_so_is_a_function_of_the_interpreter() -> None:
    count = 4_000_000
    while True:
        began = time.thread_time()
        sum(range(count))
        if time.thread_time() - began > 0.4:
            break
        count *= 2
    with watchdog():
        run("asyncio", lambda: by_summing(range(count)))
        (block,) = blocks("by_summing")
    assert block.places[0] == ("by_summing", marked(by_summing))
    assert block.gil_held
    assert block.late


def test_a_loop_in_another_thread_is_named_too_and_its_gil_is_free() -> None:
    with watchdog():
        free = []
        for _ in range(5):  # the machine may be too busy to run the clock for 50 ms
            thread = threading.Thread(target=run, args=("asyncio", by_sleeping))
            thread.start()
            ident = thread.ident
            thread.join()
            (block,) = blocks("by_sleeping")
            assert block.thread == ident
            assert block.places[0] == ("by_sleeping", marked(by_sleeping))
            free.append(not block.gil_held and not block.late)
            if free[-1]:
                break
    assert any(free)


def test_what_blocks_after_an_exception_came_in_is_seen_too() -> None:
    async def recovering() -> None:
        try:
            async with asyncio.timeout(0.001):
                await asyncio.sleep(60)
        except TimeoutError:
            time.sleep(0.3)

    with watchdog():
        asyncio.run(recovering())
        (block,) = blocks("recovering")
    assert block.places[0][0] == "recovering"


def test_a_block_carries_the_route_it_is_for() -> None:
    route: contextvars.ContextVar[int] = contextvars.ContextVar("route", default=0)
    label = _native.label("GET /blocked")

    async def handler() -> None:
        route.set(label)
        time.sleep(0.3)

    _native.set_label_variable(route)
    try:
        with watchdog():
            asyncio.run(handler())
            (block,) = blocks("handler")
    finally:
        _native.set_label_variable(None)
    assert block.label == label


# ---- while ----------------------------------------------------------------------------------------------------------


def test_a_block_is_told_while_it_goes_on_and_again_when_it_has_ended() -> None:
    leave = threading.Event()

    async def held() -> None:
        leave.wait()

    with watchdog():
        thread = threading.Thread(target=asyncio.run, args=(held(),))
        thread.start()
        first = waited_for("held", lambda block: bool(block.stack))
        assert not first.ended
        assert first.duration_ns >= 100e6
        assert ("held", marked_line(held)) in first.places
        again = waited_for("held", lambda block: True)
        assert not again.ended
        leave.set()
        thread.join()
        last = waited_for("held", lambda block: block.ended)
        assert blocks("held") == []
    assert first.at_ns == again.at_ns == last.at_ns
    assert first.duration_ns < again.duration_ns < last.duration_ns
    assert first.stack == last.stack


def marked_line(function: Callable[..., object]) -> int:
    """The last line of a function."""
    source, first = inspect.getsourcelines(function)
    return first + len(source) - 1


def test_stopping_while_a_step_is_held_tells_of_it_once_more() -> None:
    inside, leave = threading.Event(), threading.Event()

    async def held() -> None:
        inside.set()
        leave.wait()

    with watchdog(blocked_ms=1.0):
        thread = threading.Thread(target=asyncio.run, args=(held(),))
        thread.start()
        inside.wait()
        waited_for("held", lambda block: not block.ended)
        _native.steps_stop()
        (last,) = blocks("held")
        assert not last.ended
        assert blocks("held") == []
        leave.set()
        thread.join()
        assert blocks("held") == []


def test_short_steps_are_no_blocks_and_the_threshold_can_be_set() -> None:
    async def quick() -> None:
        time.sleep(0.02)

    with watchdog(blocked_ms=60_000.0):
        asyncio.run(quick())
        assert _native.blocks_take() == []
        _native.set_clock(blocked_ms=10.0)
        asyncio.run(quick())
        assert [block.duration_ns >= 20e6 for block in blocks("quick")] == [True]


def test_a_block_that_nobody_could_look_into_is_told_without_a_stack() -> None:
    with watchdog(clock=False):
        asyncio.run(by_sleeping())
        (block,) = blocks("by_sleeping")
    assert block.stack == []
    assert block.ended
    assert not block.gil_held  # nobody tried


def test_more_blocks_than_are_kept_are_counted() -> None:
    async def main() -> None:
        for _ in range(300):
            await asyncio.sleep(0)
            time.sleep(0.002)

    with watchdog(blocked_ms=1.0):
        before = _native.clock_statistics()
        asyncio.run(main())
        told = _native.blocks_take()
        after = _native.clock_statistics()
    opened = after["blocks"] - before["blocks"]
    assert opened >= 300
    assert len(told) == after["blocks_max"] == 256
    assert after["blocks_dropped"] - before["blocks_dropped"] == opened - 256


# ---- the two threads ------------------------------------------------------------------------------------------------


def test_each_runs_once_at_a_time_and_ends_when_it_is_told() -> None:
    began = time.monotonic()
    with watchdog():
        for again in (_native.run_watchdog, _native.run_clock):
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:  # until the other thread is in it
                try:
                    again(0.001)
                except RuntimeError as error:
                    assert "running in another thread already" in str(error)
                    break
            else:
                raise AssertionError("both ran")
    assert time.monotonic() - began < 60
    _native.clock_interrupt()  # shortly before
    _native.run_watchdog(3600.0)
    _native.run_clock(3600.0)


def test_the_watchdog_ends_with_the_steps() -> None:
    with steps():
        thread = threading.Thread(target=_native.run_watchdog, args=(3600.0,))
        thread.start()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                _native.run_watchdog(0.0)
            except RuntimeError:
                break
        _native.steps_stop()
        thread.join(60)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    "wrong", [{"blocked_ms": 0.5}, {"blocked_ms": 60_001.0}, {"sample_hz": -1.0}, {"sample_hz": 101.0}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        _native.set_clock(**wrong)
    for run_it in (_native.run_clock, _native.run_watchdog):
        with pytest.raises(ValueError, match="not negative"):
            run_it(-1.0)


def test_the_clock_tells_how_long_it_waited_for_the_gil() -> None:
    letters = letters_for(0.4)
    with watchdog():
        before = _native.clock_statistics()
        asyncio.run(by_matching(letters))
        after, deadline = before, time.monotonic() + 60
        while after["gil_wait_ns"] < before["gil_wait_ns"] + 50e6 and time.monotonic() < deadline:
            time.sleep(0.001)  # until the clock, too, has had the GIL again
            after = _native.clock_statistics()
    assert after["gil_wait_ns"] - before["gil_wait_ns"] >= 50e6
    assert after["gil_waits"] > before["gil_waits"]
    assert before["gil_wait_ns_max"] <= after["gil_wait_ns_max"] <= after["gil_wait_ns"]


def test_a_forked_child_forgets_its_parents_blocks_and_can_watch_its_own() -> None:
    async def child() -> None:
        time.sleep(0.3)

    def check() -> None:
        assert _native.blocks_take() == []
        assert _native.clock_statistics()["blocks"] == 0
        with watchdog():
            thread = threading.Thread(target=asyncio.run, args=(child(),))
            thread.start()
            thread.join()
            (block,) = blocks("child")
            assert block.places[0][0] == "child"

    async def parent() -> int:
        time.sleep(0.2)
        pid = os.fork()  # in the middle of a block
        if pid == 0:
            with last_act():
                check()
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    with watchdog():
        assert asyncio.run(parent()) == 0
        (block,) = blocks("parent")
    assert block.ended
    assert block.duration_ns >= 0.5e9


EXITING = """
import asyncio, threading, time
from glassbottom import _native

def start(target):
    threading.Thread(target=target, daemon=True).start()

_native.steps_start()
_native.set_clock(blocked_ms=1.0, sample_hz=100.0)
start(lambda: _native.run_watchdog(3600.0))
start(lambda: _native.run_clock(3600.0))

async def held(call):
    while True:
        call()
        await asyncio.sleep(0)

start(lambda: asyncio.run(held(lambda: time.sleep(0.01))))
start(lambda: asyncio.run(held(lambda: sum(range(300_000)))))
while len(_native.blocks_take()) < 3:
    time.sleep(0.01)
"""


def test_a_process_ends_whatever_these_threads_are_doing() -> None:
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", EXITING], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
