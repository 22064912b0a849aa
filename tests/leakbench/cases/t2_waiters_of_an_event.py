"""Every request starts a task that waits for an event nobody sets: tasks, their frames and the event's waiters pile up.

Mended: the task is cancelled when the request is over.
"""

from __future__ import annotations

import asyncio

from tests.leakbench.case import Case, Operation, kept

CASE = Case(
    id="T2",
    title="asyncio.Event with waiters nobody wakes",
    sites=kept(__file__),
    holder="_waiters",
    bytes_per_operation=1500,
    per_second=25,
)


async def announce(changed: asyncio.Event, number: int) -> int:
    """Tells a client once something has changed."""
    rows = [number * 1000 + each for each in range(12)]  # kept
    await changed.wait()  # kept
    return len(rows)


def setup(fixed: bool) -> Operation:
    changed = asyncio.Event()

    async def operation(number: int) -> None:
        task = asyncio.create_task(announce(changed, number))  # kept
        await asyncio.sleep(0)
        if fixed:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    return operation
