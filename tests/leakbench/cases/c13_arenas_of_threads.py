"""Threads that allocate much and end: glibc gives each an arena and gives little back. Must not be called a leak."""

from __future__ import annotations

import asyncio
import threading

from tests.leakbench.case import NONE, Case, Operation

CASE = Case(id="C13", title="glibc arenas of many threads", kinds=(NONE,), per_second=10)


def work(number: int) -> None:
    """Allocates in the thread's own arena."""
    blocks = [bytearray(20_000) for _ in range(20)]
    del blocks[number % 20 :]


def setup(fixed: bool) -> Operation:
    async def operation(number: int) -> None:
        threads = [threading.Thread(target=work, args=(number + each,)) for each in range(4)]
        for thread in threads:
            thread.start()
        await asyncio.sleep(0)
        for thread in threads:
            thread.join()

    return operation
