"""Small programs that leak, beside others that look as if they did: `python -m tests.support.leak_cases NAME…`.

Prints one line of JSON per case: the verdict of glassbottom.testing. In a process of its own, whose heap is small.
"""

from __future__ import annotations

import asyncio
import collections
import ctypes
import functools
import gc
import itertools
import json
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from glassbottom.testing import Verdict, measure, measure_async

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

numbers = itertools.count()
CACHE: dict[int, bytearray] = {}
KEPT: list[object] = []
RING = collections.deque([bytearray(1000) for _ in range(5000)], maxlen=5000)


class Node:
    """An object that can refer to itself."""


class Store:
    """Holds rows in an attribute."""

    def __init__(self) -> None:
        self.rows: list[object] = []


STORE = Store()


def remember() -> None:
    CACHE[next(numbers)] = bytearray(1000)


def remember_for_a_while() -> None:
    number = next(numbers)
    CACHE[number] = bytearray(1000)
    CACHE.pop(number - 100, None)


def keep_an_object() -> None:
    KEPT.append(object())


def keep_a_row() -> None:
    STORE.rows.append({"price": float(next(numbers))})


@functools.lru_cache(400)
def page(number: int) -> bytearray:
    return bytearray(500)


@functools.lru_cache(1_000_000)
def large_page(number: int) -> bytearray:
    return bytearray(500)


@functools.lru_cache(None)
def endless_page(number: int) -> bytearray:
    return bytearray(500)


def make_a_cycle() -> None:
    node = Node()
    node.me = node  # type: ignore[attr-defined]
    node.payload = bytearray(300)  # type: ignore[attr-defined]


def allocate_in_c() -> None:
    libc.malloc(4000)


def allocate_in_c_and_free() -> None:
    libc.free(libc.malloc(4000))


@functools.cache
def table() -> list[int]:
    return list(range(200_000))


def intern_names() -> None:
    sys.intern(f"a_name_of_a_field_{next(numbers) % 300}")


def start_a_timer() -> None:
    timer = threading.Timer(0.05, table)
    timer.daemon = True
    timer.start()


async def keep_callbacks() -> None:
    process_long().add_done_callback(functools.partial(print, next(numbers)))


async def remove_callbacks() -> None:
    callback = functools.partial(print, next(numbers))
    process_long().add_done_callback(callback)
    process_long().remove_done_callback(callback)


def process_long() -> asyncio.Future[None]:
    loop = asyncio.get_running_loop()
    if not FUTURES or FUTURES[0].get_loop() is not loop:
        FUTURES[:] = [loop.create_future()]
    return FUTURES[0]


FUTURES: list[asyncio.Future[None]] = []


async def cancel_a_timer() -> None:
    asyncio.get_running_loop().call_later(60, table).cancel()


async def wait_for_a_timer() -> None:
    asyncio.get_running_loop().call_later(3600, table)


FUNCTIONS: dict[str, Callable[[], object]] = {
    "unbounded dict": remember,
    "trimmed dict": remember_for_a_while,
    "objects in a list": keep_an_object,
    "rows in an attribute": keep_a_row,
    "lru_cache(400)": lambda: page(next(numbers)),
    "lru_cache(1000000)": lambda: large_page(next(numbers)),
    "lru_cache(None)": lambda: endless_page(next(numbers)),
    "cycles": make_a_cycle,
    "cycles, gc off": make_a_cycle,
    "malloc": allocate_in_c,
    "malloc and free": allocate_in_c_and_free,
    "first call": lambda: table(),
    "interning": intern_names,
    "ring that is full": lambda: RING.append(bytearray(1000)),
    "threading.Timer": start_a_timer,
}
COROUTINES: dict[str, Callable[[], Awaitable[object]]] = {
    "callbacks kept": keep_callbacks,
    "callbacks removed": remove_callbacks,
    "timers cancelled": cancel_a_timer,
    "timers not yet due": wait_for_a_timer,
}


def verdict(name: str) -> Verdict:
    if name in COROUTINES:
        return asyncio.run(measure_async(COROUTINES[name]))
    if name.endswith("gc off"):
        gc.disable()
    try:
        return measure(FUNCTIONS[name])
    finally:
        gc.enable()
        for kept in (CACHE, KEPT, STORE.rows):
            kept.clear()
        endless_page.cache_clear()
        large_page.cache_clear()


def main() -> None:
    for name in sys.argv[1:] or [*FUNCTIONS, *COROUTINES]:
        found = verdict(name)
        line: dict[str, Any] = {**asdict(found), "outcome": found.outcome.value, "report": found.report(name)}
        print(json.dumps({"name": name, **line}), flush=True)


if __name__ == "__main__":
    main()
