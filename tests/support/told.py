"""What agents tell about time, in the words of the model and in seconds from a fixed start: short enough for a test."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from glassbottom_collector.model.code import Frame, Stack, stack_id
from glassbottom_collector.model.heap import Definitions, MetricPoint
from glassbottom_collector.model.process import Process, Span
from glassbottom_collector.model.timing import (
    EMPTY,
    Histogram,
    Loop,
    Observation,
    Observations,
    Operation,
    OperationKind,
    Operations,
    TaskGroup,
    Tasks,
)

from tests.support.memory_reader import MemoryReader

SECOND = 10**9
START = 1_700_000_000 * SECOND
A, B = "aa1" + "0" * 29, "aa2" + "0" * 29
SLEEP = Frame("sleep", "/usr/lib/python3.12/asyncio/tasks.py", 665)
ACQUIRE = Frame("Lock.acquire", "/usr/lib/python3.12/asyncio/locks.py", 113)
HANDLER = Frame("Orders.fetch", "/srv/shop/orders.py", 88)
WORKER = Frame("Worker.run", "/srv/shop/worker.py", 12)
MAIN = Frame("main", "/srv/shop/main.py", 3)
FRAMES = (SLEEP, ACQUIRE, HANDLER, WORKER, MAIN)


def at(seconds: float) -> int:
    return START + round(seconds * SECOND)


def between(from_s: float, to_s: float) -> Span:
    return Span(at(from_s), at(to_s))


def stack(*frames: Frame, label: str = "") -> Stack:
    ids = tuple(frame.id for frame in frames)
    return Stack(stack_id(ids, label), ids, label=label)


def defined(*stacks: Stack, frames: Sequence[Frame] = FRAMES) -> Definitions:
    return Definitions({frame.id: frame for frame in frames}, {each.id: each for each in stacks}, {})


def histogram(*values: float, scale: int = 4) -> Histogram:
    """Of values in seconds."""
    positive = [value for value in values if value > 0]
    if not values:
        return EMPTY
    buckets = Counter(math.ceil(math.log2(value) * 2.0**scale) - 1 for value in positive)
    first = min(buckets, default=0)
    counts = [buckets[first + place] for place in range(max(buckets, default=-1) - first + 1)] if positive else []
    zeros = len(values) - len(positive)
    return Histogram(
        scale, zeros, first, np.array(counts, dtype=np.uint64), sum(values), float(min(values)), float(max(values))
    )


def operation(
    name: str,
    *values: float,
    kind: OperationKind = OperationKind.SPAN,
    span_kind: str = "",
    status: str = "ok",
    frame: Frame | None = None,
    route: str = "",
    target: str = "",
    self_s: float | None = None,
    cpu_s: float = 0.0,
    busy_s: float = 0.0,
    alloc_bytes: float = 0.0,
    bare_yields: int = 0,
    scale: int = 4,
) -> Operation:
    """values: durations in seconds. self_s: all of them unless given."""
    return Operation(
        kind=kind,
        name=name,
        span_kind=span_kind,
        status=status,
        frame=0 if frame is None else frame.id,
        route=route,
        target=target,
        duration=histogram(*values, scale=scale),
        self_s=sum(values) if self_s is None else self_s,
        cpu_user_s=cpu_s / 2,
        cpu_system_s=cpu_s / 2,
        cpu_count=len(values) if cpu_s else 0,
        busy_s=busy_s,
        alloc_bytes=alloc_bytes,
        bare_yields=bare_yields,
    )


def operations(from_s: float, to_s: float, *rows: Operation, frames: Sequence[Frame] = FRAMES) -> Operations:
    return Operations(at(from_s), at(to_s), rows, defined(frames=frames))


def loop(identity: int = 1, thread: str = "MainThread", lag: Histogram = EMPTY, ready: int = 0, tasks: int = 1) -> Loop:
    return Loop(identity, thread, "uvloop.Loop", lag, ready, ready, tasks)


def group(*path: Frame, count: int = 1, oldest_s: float = 1.0, mean_s: float | None = None, **more) -> TaskGroup:
    fields = {
        "loop": 0,
        "state": "waiting",
        "awaits": "Future",
        "wait_longest_s": oldest_s,
        "steps": count,
        "busy_s": 0.0,
        "bare_yields": 0,
        "task_name": "Task-1",
    } | more
    return TaskGroup(
        path=tuple(frame.id for frame in path),
        count=count,
        age_oldest_s=oldest_s,
        age_mean_s=oldest_s / 2 if mean_s is None else mean_s,
        **fields,
    )


def look(
    at_s: float, *groups: TaskGroup, loops: Sequence[Loop] = (), edges=(), frames: Sequence[Frame] = FRAMES
) -> Tasks:
    tasks = sum(each.count for each in groups)
    return Tasks(at(at_s), loops or (loop(tasks=tasks),), groups, edges, tasks, tasks, defined(frames=frames))


def seen(
    at_s: float,
    kind: str,
    name: str,
    value: float = 0.0,
    count: int = 1,
    frame: Frame | None = None,
    path: Sequence[Frame] = (),
    attributes: Mapping[str, str] | None = None,
) -> Observation:
    identity = stack(*path).id if path else 0
    return Observation(at(at_s), kind, name, 0 if frame is None else frame.id, identity, value, count, attributes or {})


def blocked(
    at_s: float,
    name: str,
    value: float,
    *path: Frame,
    ended: bool = True,
    gil_held: bool = False,
    late: bool = False,
    thread: str = "MainThread",
) -> Observation:
    words = {True: "true", False: "false"}
    attributes = {"thread.name": thread, "gil_held": words[gil_held], "late": words[late], "ended": words[ended]}
    return seen(at_s, "loop.blocked", name, value, path=path, attributes=attributes)


def observations(at_s: float, *rows: Observation, paths: Sequence[Sequence[Frame]] = ()) -> Observations:
    """paths: those that rows refer to."""
    frames = {*FRAMES, *(frame for path in paths for frame in path)}
    return Observations(at(at_s), rows, 0, defined(*(stack(*path) for path in paths), frames=tuple(frames)))


def point(at_s: float, name: str, value: float, **attributes: str) -> MetricPoint:
    """Attribute names have `_` for `.`."""
    pairs = tuple(sorted((key.replace("_", "."), text) for key, text in attributes.items()))
    return MetricPoint(at(at_s), name, value, pairs)


def service(*contents, instances: Sequence[str] = (A,), started_s: float = -3600.0) -> MemoryReader:
    """A reader with processes of `shop`, and the contents told by the first of them."""
    reader = MemoryReader()
    for instance in instances:
        reader.add_process(Process("shop", instance, 7, at(started_s)))
    for content in contents:
        reader.add(instances[0], content)
    return reader
