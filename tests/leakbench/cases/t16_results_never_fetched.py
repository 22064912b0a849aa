"""Results of a multiprocessing pool that are kept to be fetched later, and never are.

Mended: fetched and forgotten.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from multiprocessing.pool import AsyncResult

from tests.leakbench.case import Case, Operation, Site, kept

CASE = Case(
    id="T16",
    title="multiprocessing.Pool results never fetched",
    # The answer itself is unpickled in the pool's own thread, in the standard library.
    sites=(*kept(__file__), Site("multiprocessing/connection.py")),
    holder="ApplyResult",
    bytes_per_operation=1500,
    per_second=25,
)


def double(number: int) -> list[int]:
    """The work."""
    return [number * 2 + each for each in range(10)]


def setup(fixed: bool) -> Operation:
    pool = multiprocessing.get_context("spawn").Pool(1)
    pending: list[AsyncResult[list[int]]] = []

    async def operation(number: int) -> None:
        pending.append(pool.apply_async(double, (number,)))  # kept
        if fixed:
            await asyncio.get_running_loop().run_in_executor(None, pending.pop().get)

    return operation
