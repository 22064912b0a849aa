"""Timers of an hour, cancelled at once: asyncio keeps them for a while, then sweeps. Must not be called a leak."""

from __future__ import annotations

import asyncio

from tests.leakbench.case import NONE, Case, Operation

CASE = Case(id="C2", title="cancelled call_later timers", kinds=(NONE,), per_second=100)


def setup(fixed: bool) -> Operation:
    async def operation(number: int) -> None:
        rows = [number * 1000 + each for each in range(8)]
        asyncio.get_running_loop().call_later(3600, rows.clear).cancel()

    return operation
