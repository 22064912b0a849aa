"""add_done_callback on a future that lasts as long as the process: every request leaves a callback behind.

Mended: the callback is removed when the request is over.
"""

from __future__ import annotations

import asyncio
import functools

from tests.leakbench.case import Case, Operation, kept

CASE = Case(
    id="S10",
    title="add_done_callback on a process-long future",
    sites=kept(__file__),
    holder="Future",
    bytes_per_operation=690,
)


class Request:
    """What is to be told when the process shuts down."""

    def __init__(self, number: int) -> None:
        self.rows = [number * 1000 + each for each in range(8)]  # kept

    def aborted(self, _future: object) -> None:
        self.rows.clear()


def setup(fixed: bool) -> Operation:
    stopping: list[asyncio.Future[None]] = []

    async def operation(number: int) -> None:
        if not stopping:
            stopping.append(asyncio.get_running_loop().create_future())
        request = Request(number)  # kept
        callback = functools.partial(request.aborted)  # kept
        stopping[0].add_done_callback(callback)  # kept
        await asyncio.sleep(0)
        if fixed:
            stopping[0].remove_done_callback(callback)

    return operation
