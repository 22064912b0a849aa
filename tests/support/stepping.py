"""Counts the steps of coroutines for a while, and reads them back as plain numbers."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import CodeType

import pytest
import uvloop
from glassbottom import _native

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
loops = pytest.mark.parametrize("loop", LOOPS)


@dataclass(frozen=True)
class Function:
    """What was counted of one coroutine function; `ended` by status."""

    steps: int
    bare_yields: int
    busy_ns: int
    step_ns_max: int
    ended: dict[str, int]
    lifetime_ns: dict[str, int]
    in_histogram: int


@contextlib.contextmanager
def steps() -> Iterator[None]:
    """Counting, from nothing."""
    _native.steps_start()
    try:
        yield
    finally:
        _native.steps_stop()
        _native.steps_take()


def _running(run: Callable[[float], None]) -> threading.Thread:
    """A thread that is about to enter: one that has only been started may get the GIL when the block is over."""
    entering = threading.Event()

    def enter() -> None:
        entering.set()
        run(3600.0)

    thread = threading.Thread(target=enter, name=run.__name__)
    thread.start()
    entering.wait()
    return thread


@contextlib.contextmanager
def watchdog(*, blocked_ms: float = 100.0, clock: bool = True) -> Iterator[None]:
    """Counting, with the two threads that the agent has for blocks."""
    for run in (_native.run_watchdog, _native.run_clock):
        run(0.0)  # an interrupt that an earlier test made while nobody waited would end the next one at once
    _native.blocks_take()
    _native.set_clock(blocked_ms=blocked_ms)
    runs = [_native.run_watchdog, _native.run_clock] if clock else [_native.run_watchdog]
    with steps():
        threads = [_running(run) for run in runs]
        try:
            yield
        finally:
            _native.clock_interrupt()
            for thread in threads:
                thread.join()
    if not clock:  # what nobody waited for belongs to nobody
        _native.run_clock(3600.0)
    _native.set_clock()
    _native.blocks_take()


def taken() -> dict[str, Function]:
    """steps_take() by name of the function."""
    rows = {}
    for code, count, bare, busy, _, counts, longest, ended in _native.steps_take():
        rows[code.co_name] = Function(
            steps=count,
            bare_yields=bare,
            busy_ns=busy,
            step_ns_max=longest,
            ended={row[0]: row[1] for row in ended},
            lifetime_ns={row[0]: row[2] for row in ended},
            in_histogram=sum(memoryview(counts).cast("I")),
        )
        for status, number, _, _, shortest, most, _, lives in ended:
            assert sum(memoryview(lives).cast("I")) == number, status
            assert shortest <= most
    return rows


def line(code: CodeType, offset: int) -> int | None:
    """The line of an instruction."""
    return next((number for start, end, number in code.co_lines() if start <= offset < end), None)


def run(loop_name: str, main: Callable[[], object]) -> object:
    """main() on a new loop of that kind, in this thread."""
    loop = LOOPS[loop_name]()
    try:
        return loop.run_until_complete(main())  # type: ignore[arg-type]
    finally:
        loop.close()


async def yielding(times: int) -> int:
    for _ in range(times):
        await asyncio.sleep(0)
    return times


async def waiting(future: asyncio.Future[int]) -> int:
    return await future
