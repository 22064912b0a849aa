"""What the tests of a store tell it about time, with every column in use, and how two answers are compared."""

from __future__ import annotations

from glassbottom_collector.model.code import Frame, Stack, stack_id
from glassbottom_collector.model.heap import Definitions
from glassbottom_collector.model.process import Span
from glassbottom_collector.model.timing import (
    EMPTY,
    Loop,
    Observation,
    Observations,
    Operation,
    OperationKind,
    Operations,
    TaskGroup,
    Tasks,
    ThreadTime,
)

from tests.support.store_agent import DAY, MINUTE, NOON, S, histogram, operation

HOUR = Span(NOON, NOON + 60 * MINUTE)
EVER = Span(NOON - DAY, NOON + 2 * DAY)

FRAME = Frame("Cart.add", "/srv/app/cart.py", 42)
STACK = stack_id((FRAME.id,), "GET /cart/{id}")
DEFINED = Definitions({FRAME.id: FRAME}, {STACK: Stack(STACK, (FRAME.id,), False, "GET /cart/{id}")}, {})

FULL = operation(
    "Cart.add",
    0.0,
    0.0021,
    0.9,
    kind=OperationKind.STEP,
    span_kind="SERVER",
    status="error",
    frame=2**64 - 1,
    route="GET /cart/{id}",
    target="postgresql",
    self_s=0.5,
    cpu_user_s=0.25,
    cpu_system_s=0.125,
    cpu_count=3,
    busy_s=0.75,
    alloc_bytes=4096.5,
    bare_yields=7,
)
LOOK = Tasks(
    at_ns=NOON,
    loops=[
        Loop(2**64 - 1, "MainThread", "uvloop.Loop", histogram(0.001, 0.2), -1, -1, 5),
        Loop(2, "worker", "asyncio.unix_events._UnixSelectorEventLoop", EMPTY, 3, 17, 1),
    ],
    groups=[
        TaskGroup(0, (2**64 - 1, 5), "waiting", "asyncio.Lock", 4, 9.5, 3.25, 8.0, 17, 0.5, 2, "Task-9"),
        TaskGroup(1, (), "created", "", 1, 0.0, 0.0, 0.0, 0, 0.0, 0, ""),
    ],
    edges=[(0, 1, 3), (1, 0, 1)],
    tasks=12,
    tasks_examined=5,
)
SEEN = Observation(NOON, "loop.blocked", "handler", FRAME.id, STACK, 1.5, 3, {"thread.name": "MainThread"})


def interval(to_ns: int, *rows: Operation, from_ns: int | None = None) -> Operations:
    """Ten seconds until then."""
    return Operations(to_ns - 10 * S if from_ns is None else from_ns, to_ns, rows)


def noticed(at_ns: int, *rows: Observation, defined: Definitions | None = None) -> Observations:
    """Told at that time."""
    return Observations(at_ns, rows, 0, defined or Definitions({}, {}, {}))


def plain(content: object) -> object:
    """Comparable: arrays as lists, definitions left out."""
    if isinstance(content, Operations):
        return content.from_ns, content.to_ns, sorted((plain(row) for row in content.rows), key=repr)
    if isinstance(content, Operation):
        return {**vars(content), "duration": plain(content.duration)}
    if isinstance(content, Tasks):
        loops = [{**vars(loop), "lag": plain(loop.lag)} for loop in content.loops]
        rest = content.tasks, content.tasks_examined
        return content.at_ns, loops, list(content.groups), sorted(content.edges), *rest
    if isinstance(content, ThreadTime):
        names = ("stack", "thread", "task", "samples", "wall_s", "cpu_s")
        return sorted(zip(*(getattr(content, name).tolist() for name in names), strict=True))
    assert not hasattr(content, "duration")
    counts = {place: count for place, count in enumerate(content.counts.tolist(), content.offset) if count}  # type: ignore[attr-defined]
    return {**vars(content), "counts": counts, "offset": 0}
