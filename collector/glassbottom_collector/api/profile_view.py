"""Whole call paths with values, in pieces that fit a message: what flame graphs and pprof are made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from glassbottom.wire.v1 import query_pb2

from ..model.heap import F64, HeapState
from .heap_views import Names, frame_message

PIECE_BYTES_MAX = 512 * 1024
"""gRPC's ordinary limit is 4 MiB; a smaller piece keeps both ends' memory low and lets a caller cancel."""
_STACK_BYTES = 80
_FRAME_BYTES = 40


def pieces(
    states: Sequence[HeapState],
    before: Sequence[HeapState],
    names: Names,
    totals: query_pb2.Totals,
    totals_before: query_pb2.Totals | None,
) -> Iterator[query_pb2.ProfileResponse]:
    """Processes are summed by call path; only paths that hold or have allocated something are given."""
    values = _values(states, before)
    piece = query_pb2.ProfileResponse(totals=totals, before=totals_before, interval_bytes=_interval(states))
    size = 0
    sent: set[int] = set()
    for stack, row in values.items():
        path = names.path(stack)
        new = {frame.id: frame for frame in path if frame.id not in sent}
        weight = _STACK_BYTES + 9 * len(path)
        weight += sum(_FRAME_BYTES + 3 * (len(frame.function) + len(frame.file)) for frame in new.values())
        if size and size + weight > PIECE_BYTES_MAX:
            yield piece
            piece, size = query_pb2.ProfileResponse(interval_bytes=_interval(states)), 0
        size += weight
        sent.update(new)
        piece.frames.extend(frame_message(frame) for frame in new.values())
        piece.stacks.add(
            frames=[frame.id for frame in path],
            live_bytes=row[0],
            live_objects=row[1],
            alloc_bytes=row[2],
            alloc_objects=row[3],
            before_live_bytes=row[4],
            before_live_objects=row[5],
        )
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
