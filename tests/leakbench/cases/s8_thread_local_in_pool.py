"""A dict in a threading.local of a worker thread that lives as long as the pool: what one request puts there stays.

Mended: cleared at the end of the request.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading

from tests.leakbench.case import Case, Operation, kept

CASE = Case(
    id="S8",
    title="threading.local dict in a pool's thread",
    sites=kept(__file__),
    holder="State",
    bytes_per_operation=600,
)


class State(threading.local):
    """What the running request knows."""

    def __init__(self) -> None:
        self.seen: dict[str, list[int]] = {}


def setup(fixed: bool) -> Operation:
    pool = concurrent.futures.ThreadPoolExecutor(2, thread_name_prefix="worker")
    state = State()

    def work(number: int) -> int:
        state.seen[f"user {number}"] = [number * 1000 + each for each in range(10)]  # kept
        count = len(state.seen)
        if fixed:
            state.seen.clear()
        return count

    async def operation(number: int) -> int:
        return await asyncio.get_running_loop().run_in_executor(pool, work, number)

    return operation
