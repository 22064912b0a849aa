"""A block under `glassbottom.profile` is measured wherever it is entered and left: nested, in tasks, from threads."""

from __future__ import annotations

import asyncio
import inspect
import time
import traceback
from collections.abc import Iterator
from typing import Any

import glassbottom
import pytest
from glassbottom import _native

from tests.support.profiled import Recorded, Row, spin


def test_a_block_is_measured_and_lets_errors_pass(recorded: Recorded) -> None:
    line = inspect.currentframe().f_lineno + 1  # type: ignore[union-attr]
    with glassbottom.profile("parse"):
        spin(0.01)
    with pytest.raises(LookupError) as seen, glassbottom.profile("parse"):
        raise LookupError
    assert len(traceback.extract_tb(seen.value.__traceback__)) == 1
    with glassbottom.profile():
        pass
    rows = recorded.take()
    assert rows["parse", "ok"].duration_ns >= 10e6
    assert rows["parse", "ok"].user_ns + rows["parse", "ok"].system_ns >= 9e6
    assert rows["parse", "ok"].key.place[1:] == (__file__, line)  # type: ignore[index]
    assert ("parse", "error") in rows
    assert ("test_a_block_is_measured_and_lets_errors_pass", "ok") in rows


def test_blocks_nest_and_functions_in_them_are_callees(recorded: Recorded) -> None:
    @glassbottom.profile("callee")
    def callee() -> None:
        spin(0.01)

    block = glassbottom.profile("block")
    with glassbottom.profile("around"), block, block:
        callee()
    rows = recorded.take()
    assert rows["block", "ok"].count == 2
    # Every moment is one block's or function's own.
    assert rows["around", "ok"].duration_ns == sum(row.self_ns for row in rows.values())
    assert rows["around", "ok"].self_ns < rows["around", "ok"].duration_ns - 9e6


def test_a_block_in_a_task_tells_waiting_from_working(recorded: Recorded, run: Any) -> None:
    _native.steps_start()
    try:

        async def main() -> None:
            await asyncio.gather(waits(), works())

        async def waits() -> None:
            await asyncio.sleep(0)
            async with glassbottom.profile("waits"):
                spin(0.01)
                await asyncio.sleep(0.05)

        async def works() -> None:
            await asyncio.sleep(0.001)
            with glassbottom.profile("works"):
                spin(0.02)

        run(main())
    finally:
        _native.steps_stop()
    rows = recorded.take()
    waits, works = rows["waits", "ok"], rows["works", "ok"]
    assert waits.duration_ns >= 45e6
    assert 9e6 <= waits.busy_ns <= waits.duration_ns - 30e6
    assert waits.cpu_count == 0
    assert waits.self_ns == waits.duration_ns  # what ran in between was another task's
    assert works.cpu_count == 1
    assert works.user_ns + works.system_ns >= 19e6


def test_one_block_entered_from_many_threads_and_tasks_is_told_apart(recorded: Recorded, run: Any) -> None:
    shared = glassbottom.profile("shared")

    async def one(seconds: float) -> None:
        async with shared:
            await asyncio.sleep(seconds)

    async def main() -> None:
        await asyncio.gather(one(0.06), one(0.02), asyncio.to_thread(in_thread))

    def in_thread() -> None:
        with shared:
            time.sleep(0.04)

    run(main())
    of_tasks, of_thread = sorted((Row(*found) for found in recorded.recorder.take()), key=lambda row: -row.count)
    assert (of_tasks.count, of_thread.count) == (2, 1)
    assert of_tasks.duration_ns >= 79e6
    assert of_thread.duration_ns >= 39e6


def test_a_block_opened_in_a_generator_and_closed_late_spoils_nothing(recorded: Recorded) -> None:
    def generator() -> Iterator[None]:
        with glassbottom.profile("inside"):
            yield

    held = generator()
    with glassbottom.profile("outside"):
        next(held)
    with glassbottom.profile("after"):
        pass
    held.close()
    with glassbottom.profile("last"):
        pass
    assert {name for name, _ in recorded.take()} == {"inside", "outside", "after", "last"}
