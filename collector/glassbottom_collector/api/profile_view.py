"""Whole call paths with values, in pieces that fit a message: what flame graphs and pprof are made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from glassbottom.wire.v1 import query_pb2

from ..model.code import Frame
from ..model.heap import F64, HeapState
from ..model.timing import ThreadTime
from .heap_views import Names, frame_message

PIECE_BYTES_MAX = 512 * 1024
"""gRPC's ordinary limit is 4 MiB; a smaller piece keeps both ends' memory low and lets a caller cancel."""
_STACK_BYTES = 80
_FRAME_BYTES = 40


@dataclass(frozen=True)
class _Row:
    """One call path: its frames, innermost first, and the other fields of ProfileStack by name."""

    path: Sequence[Frame]
    texts: Mapping[str, str]
    values: Mapping[str, float]


def heap_pieces(
    states: Sequence[HeapState],
    before: Sequence[HeapState],
    names: Names,
    totals: query_pb2.Totals,
    totals_before: query_pb2.Totals | None,
) -> Iterator[query_pb2.ProfileResponse]:
    """Processes are summed by call path and route; only paths that hold or have allocated something are given."""
    fields = ("live_bytes", "live_objects", "alloc_bytes", "alloc_objects", "before_live_bytes", "before_live_objects")
    rows = (
        _Row(names.path(stack), {"route": names.route(stack)}, dict(zip(fields, values, strict=True)))
        for stack, values in _values(states, before).items()
    )
    first = query_pb2.ProfileResponse(totals=totals, before=totals_before, interval_bytes=_interval(states))
    return _pieces(first, rows)


def time_pieces(
    time: ThreadTime, names: Names, totals: query_pb2.Totals, route: str = "", thread: str = ""
) -> Iterator[query_pb2.ProfileResponse]:
    """CPU and wall time by call path, route, thread and task; only of one route or thread when they are given."""
    rows = (
        _Row(
            names.path(stack),
            {"route": names.route(stack), "thread": in_thread, "task": task},
            {"cpu_s": cpu_s, "wall_s": wall_s, "samples": samples},
        )
        for stack, in_thread, task, samples, wall_s, cpu_s in zip(
            time.stack.tolist(),
            time.thread.tolist(),
            time.task.tolist(),
            time.samples.tolist(),
            time.wall_s.tolist(),
            time.cpu_s.tolist(),
            strict=True,
        )
        if (not route or names.route(stack) == route) and thread in ("", in_thread)
    )
    return _pieces(query_pb2.ProfileResponse(totals=totals), rows)


def _pieces(piece: query_pb2.ProfileResponse, rows: Iterable[_Row]) -> Iterator[query_pb2.ProfileResponse]:
    """Fills the first piece, and as many more as are needed; a frame is told with the first path it is on."""
    interval = piece.interval_bytes
    size = 0
    sent: set[int] = set()
    for row in rows:
        new = {frame.id: frame for frame in row.path if frame.id not in sent}
        weight = _STACK_BYTES + 9 * len(row.path) + 3 * sum(len(text) for text in row.texts.values())
        weight += sum(_FRAME_BYTES + 3 * (len(frame.function) + len(frame.file)) for frame in new.values())
        if size and size + weight > PIECE_BYTES_MAX:
            yield piece
            piece, size = query_pb2.ProfileResponse(interval_bytes=interval), 0
        size += weight
        sent.update(new)
        piece.frames.extend(frame_message(frame) for frame in new.values())
        piece.stacks.add(frames=[frame.id for frame in row.path], **row.texts, **row.values)
    yield piece


def _values(states: Sequence[HeapState], before: Sequence[HeapState]) -> dict[int, list[float]]:
    """In the order of ProfileStack's fields."""
    values: dict[int, list[float]] = {}
    for state in states:
        sites = state.sites
        _add(values, state, (sites.live_bytes, sites.live_objects, sites.alloc_bytes, sites.alloc_objects), 0)
    for state in before:
        _add(values, state, (state.sites.live_bytes, state.sites.live_objects), 4)
    return {stack: row for stack, row in values.items() if any(row)}


def _add(values: dict[int, list[float]], state: HeapState, columns: Sequence[F64], first: int) -> None:
    for stack, *row in zip(state.sites.stack.tolist(), *(column.tolist() for column in columns), strict=True):
        held = values.setdefault(stack, [0.0] * 6)
        for position, value in enumerate(row, first):
            held[position] += value


def _interval(states: Sequence[HeapState]) -> float:
    """Mean over processes: each may have thinned its samples."""
    return sum(state.header.interval_bytes for state in states) / len(states) if states else 0.0
