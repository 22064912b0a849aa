"""Functions under `glassbottom.profile`: of every sort, for a while, and what a recorder took of them."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import AsyncIterator, Iterator
from typing import Any

import glassbottom
from glassbottom import _native
from glassbottom.probes.operations import Key, Recorder


class Recorded:
    """What a Recorder took, by name and status."""

    def __init__(self) -> None:
        self.recorder = Recorder(_native.OperationTable(256))
        self.rows: dict[tuple[str, str], Any] = {}

    def take(self) -> dict[tuple[str, str], Row]:
        return {(key.name, key.status): Row(key, row) for key, row in self.recorder.take()}


class Row:
    def __init__(self, key: Key, row: Any) -> None:
        self.key = key
        _, self.count, self.duration_ns, self.self_ns, self.user_ns, self.system_ns, self.cpu_count = row[:7]
        self.busy_ns, self.alloc_bytes = row[7:9]


def frames(error: BaseException) -> list[tuple[str, int]]:
    """(function, line) of the traceback below the test's own function."""
    return [(frame.name, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)][1:]


def spin(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def example(a: int, /, b: str = "x", *rest: int, key: bool = False, **more: Any) -> str:
    """Documented."""
    return f"{a}{b}{rest}{key}{more}"


async def example_coroutine(a: int) -> int:
    """Waits."""
    await asyncio.sleep(0)
    return a


def example_generator(n: int) -> Iterator[int]:
    yield from range(n)


async def example_async_generator(n: int) -> AsyncIterator[int]:
    for i in range(n):
        await asyncio.sleep(0)
        yield i


@glassbottom.profile
def of_the_module(a: int) -> int:
    return a + 1
