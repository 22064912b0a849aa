"""Wire to model for what tells of time: operations, tasks, samples of threads, observations. As distrustful as decode.

Rows come as messages here and not as columns, so whatever can be checked for all rows at once is: a batch of two
hundred operations takes a millisecond or two. That a frame or stack is known is not asked: its definition may come
with another batch, or may have been refused.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

import numpy as np
from glassbottom.wire.v1 import observations_pb2, operations_pb2, profile_pb2, tasks_pb2

from ..config import IngestConfig
from ..model.timing import (
    Histogram,
    Loop,
    Observation,
    Observations,
    Operation,
    OperationKind,
    Operations,
    TaskGroup,
    Tasks,
    ThreadProfile,
)
from ..storage import EARLY_S_MAX, INTERVAL_S_MAX
from .checks import (
    NAME_CHARS_MAX,
    TEXT_CHARS_MAX,
    VALUE_MAX,
    Malformed,
    check_attributes,
    check_number,
    check_text,
    check_time,
    parse,
    read_columns,
    read_definitions,
)

OPERATIONS_PER_BATCH_MAX = 10_000
SCALE_MIN, SCALE_MAX = -10, 20
BUCKETS_MAX = 1024
COUNT_MAX = 2**48
"""Of one bucket; no sum of buckets over a day reaches 2^63, and none over an interval 2^58."""
OCTAVES_MAX = 64
"""Buckets lie between 2^-64 and 2^64 seconds; what lies outside is no duration."""
LOOPS_MAX = 256
GROUPS_MAX = 10_000
AWAITS_PER_PATH_MAX = 32
STATE_CHARS_MAX = 32
NAMES_MAX = 20_000
OBSERVATIONS_PER_BATCH_MAX = 2_000
OBSERVATION_ATTRIBUTES_MAX = 32
KIND_CHARS_MAX = 64

_KINDS = {int(kind): kind for kind in OperationKind}
_SUMS = ("self_s", "cpu_user_s", "cpu_system_s", "busy_s", "alloc_bytes")
_AGES = ("age_oldest_s", "age_mean_s", "wait_longest_s", "busy_s")
_SAMPLES = {
    "stack": "<u8",
    "thread": "<u4",
    "task": "<u4",
    "samples": "<u4",
    "wall_s": "<f8",
    "cpu_s": "<f8",
}


def operations_of(body: bytes, limits: IngestConfig, now_ns: int, known: Container[int] = frozenset()) -> Operations:
    """Operations of one interval. known: as in heap_of."""
    message = operations_pb2.OperationsSnapshot()
    parse(message, body)
    _check_interval(message.from_ns, message.to_ns, now_ns)
    sent = message.operations
    _check_rows("operations", len(sent), min(OPERATIONS_PER_BATCH_MAX, limits.rows_per_batch_max))
    names = [one.name for one in sent]
    texts = [(one.span_kind, one.status, one.route, one.target) for one in sent]
    if not all(names):
        raise Malformed("An operation has no name.")
    _check_texts("a text of an operation", {*names, *(text for some in texts for text in some)}, NAME_CHARS_MAX)
    sums = [[one.self_s, one.cpu_user_s, one.cpu_system_s, one.busy_s, one.alloc_bytes] for one in sent]
    _check_amounts("an operation", _SUMS, sums)
    durations = _histograms("the durations of an operation", [one.duration for one in sent])
    rows = []
    for one, name, (span_kind, status, route, target), duration, some in zip(
        sent, names, texts, durations, sums, strict=True
    ):
        kind = _KINDS.get(one.kind)
        if kind is None:
            raise Malformed(f"Operations of kind {one.kind} are not known here; update the collector.")
        cpu_count, bare_yields = one.cpu_count, one.bare_yields
        if cpu_count > COUNT_MAX or bare_yields > COUNT_MAX:
            raise Malformed(f"A count of an operation is above {COUNT_MAX}.")
        self_s, user_s, system_s, busy_s, alloc_bytes = some
        rows.append(
            Operation(
                kind,
                name,
                span_kind,
                status,
                one.frame,
                route,
                target,
                duration,
                self_s,
                user_s,
                system_s,
                cpu_count,
                busy_s,
                alloc_bytes,
                bare_yields,
            )
        )
    defined = read_definitions(message.definitions, limits.definitions_per_batch_max, known)
    return Operations(message.from_ns, message.to_ns, rows, defined)


def tasks_of(body: bytes, limits: IngestConfig, now_ns: int, known: Container[int] = frozenset()) -> Tasks:
    """One look at all tasks. known: as in heap_of."""
    message = tasks_pb2.TasksSnapshot()
    parse(message, body)
    check_time(message.at_ns, now_ns)
    _check_rows("loops", len(message.loops), LOOPS_MAX)
    _check_rows("groups of tasks", len(message.groups), min(GROUPS_MAX, limits.rows_per_batch_max))
    _check_rows("edges between groups of tasks", len(message.edges), limits.rows_per_batch_max)
    if message.tasks_examined > message.tasks:
        raise Malformed(f"{message.tasks_examined} tasks were examined, of {message.tasks}.")
    lags = _histograms("the lag of a loop", [loop.lag for loop in message.loops])
    loops = []
    for loop, lag in zip(message.loops, lags, strict=True):
        _check_texts("a text of a loop", (loop.thread, loop.implementation), TEXT_CHARS_MAX)
        if min(loop.ready, loop.ready_max) < -1:
            raise Malformed("A loop has fewer than no callbacks ready; -1 says that it does not tell.")
        loops.append(Loop(loop.id, loop.thread, loop.implementation, lag, loop.ready, loop.ready_max, loop.tasks))
    edges = [(edge.waiter, edge.awaited, edge.count) for edge in message.edges]
    if any(max(waiter, awaited) >= len(message.groups) for waiter, awaited, _ in edges):
        raise Malformed(f"An edge refers to a group of tasks beyond the {len(message.groups)} there are.")
    return Tasks(
        at_ns=message.at_ns,
        loops=loops,
        groups=_groups(message.groups, len(loops)),
        edges=edges,
        tasks=message.tasks,
        tasks_examined=message.tasks_examined,
        definitions=read_definitions(message.definitions, limits.definitions_per_batch_max, known),
    )


def profile_of(body: bytes, limits: IngestConfig, now_ns: int, known: Container[int] = frozenset()) -> ThreadProfile:
    """Samples of threads of one interval. known: as in heap_of."""
    message = profile_pb2.ProfileSnapshot()
    parse(message, body)
    _check_interval(message.from_ns, message.to_ns, now_ns)
    samples = read_columns("samples", message, _SAMPLES, limits.rows_per_batch_max)
    _check_rows("names", len(message.names), min(NAMES_MAX, 2 * limits.rows_per_batch_max))
    names = list(message.names)
    _check_texts("the name of a thread or task", names, TEXT_CHARS_MAX)
    for part in ("thread", "task"):
        if len(samples[part]) and int(samples[part].max()) >= len(names):
            raise Malformed(f"samples.{part} refers to a name beyond the {len(names)} there are.")
    if max(message.ticks, message.dropped) > COUNT_MAX:
        raise Malformed(f"ticks or dropped is above {COUNT_MAX}.")
    return ThreadProfile(
        from_ns=message.from_ns,
        to_ns=message.to_ns,
        ticks=message.ticks,
        dropped=message.dropped,
        **samples,
        names=names,
        definitions=read_definitions(message.definitions, limits.definitions_per_batch_max, known),
    )


def observations_of(
    body: bytes, limits: IngestConfig, now_ns: int, known: Container[int] = frozenset()
) -> Observations:
    """What a process noticed. known: as in heap_of."""
    message = observations_pb2.ObservationsSnapshot()
    parse(message, body)
    check_time(message.at_ns, now_ns)
    count_max = min(OBSERVATIONS_PER_BATCH_MAX, limits.rows_per_batch_max)
    _check_rows("observations", len(message.observations), count_max)
    rows = []
    for one in message.observations:
        if not one.kind:
            raise Malformed("An observation has no kind.")
        check_text("the kind of an observation", one.kind, KIND_CHARS_MAX)
        check_text(f"the name of an observation of {one.kind!r}", one.name, NAME_CHARS_MAX)
        check_number(f"the value of an observation of {one.kind!r}", one.value, -VALUE_MAX, VALUE_MAX)
        check_attributes(f"an observation of {one.kind!r}", one.attributes, TEXT_CHARS_MAX, OBSERVATION_ATTRIBUTES_MAX)
        if not 1 <= one.count <= COUNT_MAX:
            raise Malformed(f"An observation of {one.kind!r} stands for {one.count}; at least 1 is meant.")
        # It may have begun days ago, as a connection that now ended; but not after it was told.
        if one.at_ns > message.at_ns + EARLY_S_MAX * 10**9:
            raise Malformed(f"An observation of {one.kind!r} lies after the batch that tells it: set the clock.")
        rows.append(
            Observation(one.at_ns, one.kind, one.name, one.frame, one.stack, one.value, one.count, dict(one.attributes))
        )
    if message.dropped > COUNT_MAX:
        raise Malformed(f"dropped is above {COUNT_MAX}.")
    defined = read_definitions(message.definitions, limits.definitions_per_batch_max, known)
    return Observations(message.at_ns, rows, message.dropped, defined)


def _groups(sent: Sequence[tasks_pb2.TaskGroup], loops: int) -> list[TaskGroup]:
    ages = [[group.age_oldest_s, group.age_mean_s, group.wait_longest_s, group.busy_s] for group in sent]
    _check_amounts("a group of tasks", _AGES, ages)
    _check_texts("a text of a group of tasks", {text for one in sent for text in (one.awaits, one.task_name)}, 1024)
    _check_texts("the state of a group of tasks", {one.state for one in sent}, STATE_CHARS_MAX)
    groups = []
    for one, (oldest_s, mean_s, longest_s, busy_s) in zip(sent, ages, strict=True):
        path = tuple(one.path)
        if len(path) > AWAITS_PER_PATH_MAX:
            raise Malformed(f"The path of a task has {len(path)} frames; at most {AWAITS_PER_PATH_MAX} are accepted.")
        if one.loop >= loops:
            raise Malformed(f"A group of tasks refers to a loop beyond the {loops} there are.")
        if max(one.steps, one.bare_yields) > COUNT_MAX:
            raise Malformed(f"A count of a group of tasks is above {COUNT_MAX}.")
        groups.append(
            TaskGroup(
                one.loop,
                path,
                one.state,
                one.awaits,
                one.count,
                oldest_s,
                mean_s,
                longest_s,
                one.steps,
                busy_s,
                one.bare_yields,
                one.task_name,
            )
        )
    return groups


def _histograms(what: str, sent: Sequence[operations_pb2.Histogram]) -> list[Histogram]:
    """All of them, checked together."""
    if not sent:
        return []
    listed = [list(one.counts) for one in sent]
    lengths = np.array([len(counts) for counts in listed], dtype=np.int64)
    if lengths.max() > BUCKETS_MAX:
        raise Malformed(f"The histogram of {what} has {lengths.max()} buckets; at most {BUCKETS_MAX} are accepted.")
    heads = [(one.scale, one.offset, one.zero_count, one.sum_s, one.min_s, one.max_s) for one in sent]
    _check_amounts(f"the histogram of {what}", ("sum_s", "min_s", "max_s"), [head[3:] for head in heads])
    scales = np.array([head[0] for head in heads], dtype=np.int64)
    if scales.min() < SCALE_MIN or scales.max() > SCALE_MAX:
        raise Malformed(f"The scale of the histogram of {what} is not between {SCALE_MIN} and {SCALE_MAX}.")
    counts = np.array([count for some in listed for count in some], dtype=np.uint64)
    zeros = np.array([head[2] for head in heads], dtype=np.uint64)
    if (len(counts) and counts.max() > COUNT_MAX) or zeros.max() > COUNT_MAX:
        raise Malformed(f"The histogram of {what} has a count above {COUNT_MAX}.")
    reach = np.maximum(1.0, OCTAVES_MAX * 2.0**scales)
    offsets = np.array([head[1] for head in heads], dtype=np.int64)
    if np.any((lengths > 0) & ((offsets < -reach) | (offsets + lengths > reach))):
        raise Malformed(f"The histogram of {what} has buckets that are no durations.")
    ends = np.cumsum(lengths)
    until = np.concatenate((np.zeros(1, dtype=np.uint64), np.cumsum(counts)))
    totals = (until[ends] - until[ends - lengths] + zeros).astype(np.float64)
    sums, least, most = np.array([head[3:] for head in heads], dtype=np.float64).T
    # Nanoseconds were rounded on the way.
    slack = 1e-6 * np.abs(sums) + 1e-9 * (totals + 1)
    right = (least <= most) & (sums >= totals * least - slack) & (sums <= totals * most + slack)
    right &= (totals > 0) | ((sums == 0) & (most == 0))
    if not np.all(right):
        one = int(np.flatnonzero(~right)[0])
        raise Malformed(
            f"The histogram of {what} contradicts itself: {totals[one]:.0f} values between {least[one]:g} s and "
            f"{most[one]:g} s do not make {sums[one]:g} s."
        )
    parts = np.split(counts, ends[:-1])
    return [
        Histogram(scale, zero_count, offset, part, sum_s, min_s, max_s)
        for (scale, offset, zero_count, sum_s, min_s, max_s), part in zip(heads, parts, strict=True)
    ]


def _check_interval(from_ns: int, to_ns: int, now_ns: int) -> None:
    check_time(to_ns, now_ns)
    if to_ns <= from_ns:
        raise Malformed(f"Its interval ends ({to_ns}) before it begins ({from_ns}).")
    if to_ns - from_ns > INTERVAL_S_MAX * 10**9:
        hours = (to_ns - from_ns) / 3.6e12
        raise Malformed(f"Its interval is {hours:.1f} h long; at most {INTERVAL_S_MAX // 3600} h are accepted.")


def _check_rows(what: str, count: int, count_max: int) -> None:
    if count > count_max:
        raise Malformed(f"The batch has {count} {what}; at most {count_max} are accepted.")


def _check_texts(what: str, texts: Iterable[str], chars_max: int) -> None:
    for text in texts:
        check_text(what, text, chars_max)


def _check_amounts(what: str, names: Sequence[str], rows: Sequence[Sequence[float]]) -> None:
    if not rows:
        return
    amounts = np.array(rows, dtype=np.float64)
    # Written so that NaN fails too.
    wrong = ~((amounts >= 0.0) & (amounts <= VALUE_MAX))
    if wrong.any():
        row, place = np.argwhere(wrong)[0].tolist()
        raise Malformed(f"{names[place]} of {what} is {rows[row][place]}, which is negative, infinite or no number.")
