"""asyncio tasks kept in a set so that they are not collected early, and never taken out of it when they are done.

Mended: each takes itself out.
"""

from __future__ import annotations

import asyncio

from tests.leakbench.case import Case, Operation, kept

CASE = Case(
    id="T1",
    title="asyncio tasks kept in a set after they are done",
    sites=kept(__file__),
    holder="set",
    bytes_per_operation=600,
)


async def notify(number: int) -> list[int]:
    """What the task is for; its result stays with it."""
    await asyncio.sleep(0)
    return [number * 1000 + each for each in range(10)]  # kept


def setup(fixed: bool) -> Operation:
    tasks: set[asyncio.Task[list[int]]] = set()

    async def operation(number: int) -> None:
        task = asyncio.create_task(notify(number))  # kept
        tasks.add(task)  # kept
        if fixed:
            task.add_done_callback(tasks.discard)
        await asyncio.sleep(0)

    return operation
