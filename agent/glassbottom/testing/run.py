"""Carries out what rounds.py asks for: calls a function, or awaits a coroutine function, and says what came of it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable

from .rounds import Calls, Limits, Pause, Plan, decide
from .verdict import Verdict


def measure(
    operation: Callable[[], object],
    *,
    bytes_per_call: float = 16.0,
    seconds: float = 30.0,
    warm_up_calls: int = 1,
    tidy: Callable[[], object] | None = None,
) -> Verdict:
    """Calls operation until it is clear whether calls leave memory behind, in the calling thread.

    bytes_per_call: what a call may keep. seconds: when to give up. warm_up_calls: not looked at. tidy: called before
    each reading, to let go of what is not the operation's. Raises what operation raises, and ValueError for a limit
    that makes no sense.
    """
    plan = decide(Limits(bytes_per_call, seconds, warm_up_calls), time.perf_counter)
    try:
        step = _advance(plan)
        while not isinstance(step, Verdict):
            if isinstance(step, Calls):
                for _ in range(step.count):
                    operation()
            elif threading.active_count() > 1:
                time.sleep(step.seconds)
            if tidy is not None:
                tidy()
            step = _advance(plan)
    finally:
        plan.close()
    return step


async def measure_async(
    operation: Callable[[], Awaitable[object]],
    *,
    bytes_per_call: float = 16.0,
    seconds: float = 30.0,
    warm_up_calls: int = 1,
    tidy: Callable[[], object] | None = None,
) -> Verdict:
    """The same for a coroutine function, which is awaited call by call in this task of the running loop."""
    plan = decide(Limits(bytes_per_call, seconds, warm_up_calls), time.perf_counter)
    try:
        step = _advance(plan)
        while not isinstance(step, Verdict):
            if isinstance(step, Calls):
                for _ in range(step.count):
                    await operation()
                # What calls have left to callbacks of the loop is done before memory is read.
                for _ in range(3):
                    await asyncio.sleep(0)
            elif threading.active_count() > 1 or _has_plans(asyncio.get_running_loop()):
                await asyncio.sleep(step.seconds)
            if tidy is not None:
                tidy()
            step = _advance(plan)
    finally:
        plan.close()
    return step


def _advance(plan: Plan) -> Calls | Pause | Verdict:
    try:
        return next(plan)
    except StopIteration as end:
        verdict: Verdict = end.value
        return verdict


def _has_plans(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether something is to happen later, as far as the loop lets us know."""
    return bool(getattr(loop, "_scheduled", True)) or len(asyncio.all_tasks(loop)) > 1
