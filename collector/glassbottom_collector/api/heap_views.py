"""Heaps as tables: who holds memory, and what changed. Pure functions from heap states to wire messages.

Standard errors. Call paths caught by the same sampling window share its luck, so the variances of a group's paths do
not simply add; shared windows only make covariances positive. The variance of a group therefore lies between the
sum of its variances and the square of the sum of its standard errors, and never above that of the whole heap, which
the agent computes over windows. The upper bound is shown. Processes are sampled independently: their variances add.

Types have no variance of their own; each gets its share of its call path's, which is right for independent samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np
from glassbottom.wire.v1 import common_pb2, query_pb2
from numpy.typing import NDArray

from ..model.code import Frame, Stack
from ..model.heap import F64, HeapState, SiteColumns, TypeColumns

TYPES_MAX = 10
ROUTES_MAX = 10
PATH_MAX = 128
SIGNIFICANT_ERRORS = 3.0
UNKNOWN = Frame("<unknown>", "<unknown>", 0)
UNKNOWN_TYPE = "<unknown>"
WHOLE = -1
"""A grouping of our own: everything is one group."""

Index = NDArray[np.intp]
Columns = TypeVar("Columns", SiteColumns, TypeColumns)


@dataclass(frozen=True)
class Names:
    """Definitions of everything the states refer to."""

    stacks: Mapping[int, Stack]
    frames: Mapping[int, Frame]
    types: Mapping[int, str]

    def innermost(self, stack: int) -> Frame:
        """The line that allocated."""
        known = self.stacks.get(stack)
        return self.frames.get(known.frames[0], UNKNOWN) if known is not None and known.frames else UNKNOWN

    def path(self, stack: int) -> list[Frame]:
        """The call path, innermost first."""
        known = self.stacks.get(stack)
        return [] if known is None else [self.frames.get(frame, UNKNOWN) for frame in known.frames[:PATH_MAX]]

    def route(self, stack: int) -> str:
        """The route that was served; empty when none was known."""
        known = self.stacks.get(stack)
        return "" if known is None else known.label


@dataclass(frozen=True)
class Group:
    """What one row stands for: a place, or a type or route by its name."""

    frame: Frame
    name: str = ""


@dataclass(frozen=True)
class Cells:
    """One process's heap as cells to be grouped: per call path, or per call path and type. Arrays (n,)."""

    stack: NDArray[np.uint64]
    type: NDArray[np.uint64] | None
    live_bytes: F64
    bytes_variance: F64
    live_objects: F64
    objects_variance: F64
    alloc_bytes: F64
    samples: F64
    heap_variance: float


def totals(states: Sequence[HeapState], resident_bytes: float) -> query_pb2.Totals:
    """Sums over heaps; live bytes and their variance as the agents reported them for the whole."""
    return query_pb2.Totals(
        live_bytes=sum(state.header.live_bytes for state in states),
        live_bytes_stderr=sum(state.header.live_bytes_variance for state in states) ** 0.5,
        live_objects=float(sum(state.sites.live_objects.sum() for state in states)),
        resident_bytes=resident_bytes,
        samples=int(sum(state.sites.samples.sum() for state in states)),
        instances=len({state.header.instance_id for state in states}),
        at_ns=min((state.header.at_ns for state in states), default=0),
    )


def top(states: Sequence[HeapState], names: Names, group_by: int, limit: int) -> list[query_pb2.Site]:
    """The largest groups, by live bytes."""
    table = Table(states, names, group_by)
    order = np.argsort(-table.live_bytes, kind="stable")
    return [table.site(int(row)) for row in order[:limit] if table.live_bytes[row] > 0]


def diff(
    before: Sequence[HeapState], after: Sequence[HeapState], names: Names, group_by: int, limit: int
) -> list[query_pb2.SiteChange]:
    """The groups that changed most, by absolute change of live bytes."""
    groups: dict[Group, int] = {}
    old, new = Table(before, names, group_by, groups), Table(after, names, group_by, groups)
    count = len(groups)
    old_bytes, new_bytes = _widened(old.live_bytes, count), _widened(new.live_bytes, count)
    delta = new_bytes - old_bytes
    delta_objects = _widened(new.live_objects, count) - _widened(old.live_objects, count)
    error = np.sqrt(_change_variance(old, new, count))
    changes = []
    for row in np.argsort(-np.abs(delta), kind="stable")[:limit].tolist():
        if delta[row] == 0 and delta_objects[row] == 0:
            continue
        changes.append(
            query_pb2.SiteChange(
                site=(new if new_bytes[row] > 0 or row >= old.count else old).site(row),
                delta_bytes=delta[row],
                delta_bytes_stderr=error[row],
                delta_objects=delta_objects[row],
                significant=bool(abs(delta[row]) > SIGNIFICANT_ERRORS * error[row]),
            )
        )
    return changes


def total_change(before: Sequence[HeapState], after: Sequence[HeapState]) -> tuple[float, float]:
    """Live bytes of all sites, after minus before, and the standard error of that."""
    groups: dict[Group, int] = {}
    names = Names({}, {}, {})
    old, new = Table(before, names, WHOLE, groups), Table(after, names, WHOLE, groups)
    delta = sum(state.header.live_bytes for state in after) - sum(state.header.live_bytes for state in before)
    return delta, float(_change_variance(old, new, len(groups)).sum() ** 0.5)


class Table:
    """Heaps summed by group. Arrays have one entry per group known when it was built."""

    def __init__(
        self, states: Sequence[HeapState], names: Names, group_by: int, groups: dict[Group, int] | None = None
    ) -> None:
        self.by_type = group_by == query_pb2.GROUP_BY_TYPE
        self._by_route = group_by == query_pb2.GROUP_BY_ROUTE
        self._names = names
        self._groups: dict[Group, int] = {} if groups is None else groups
        self._key = _key_of(group_by)
        self._known: dict[tuple[int, int], int] = {}
        self._list: list[Group] | None = None
        self.states = states
        self.cells = [_by_type(state) if self.by_type else _by_path(state) for state in states]
        self.index = [self._group(each) for each in self.cells]
        self.count = len(self._groups)
        self.live_bytes = self._sum("live_bytes")
        self.live_objects = self._sum("live_objects")
        self._alloc_bytes = self._sum("alloc_bytes")
        self._samples = self._sum("samples")
        self._bytes_variance, self._objects_variance = self._variances()
        self._order = (
            np.argsort(np.concatenate(self.index), kind="stable") if self.index else np.zeros(0, dtype=np.intp)
        )
        self._sorted = np.concatenate(self.index)[self._order] if self.index else np.zeros(0, dtype=np.intp)
        self._all_stacks = np.concatenate([each.stack for each in self.cells]) if self.cells else np.zeros(0, np.uint64)
        self._all_live = np.concatenate([each.live_bytes for each in self.cells]) if self.cells else np.zeros(0)

    def site(self, row: int) -> query_pb2.Site:
        """One group as a message, with its types and routes and the call path that holds most."""
        if self._list is None:
            self._list = list(self._groups)
        group = self._list[row]
        path = self._largest_path(row)
        stacks = self.stacks(row)
        return query_pb2.Site(
            frame=None if self.by_type or self._by_route else frame_message(group.frame),
            type=group.name,
            live_bytes=self.live_bytes[row],
            live_bytes_stderr=self._bytes_variance[row] ** 0.5,
            live_objects=self.live_objects[row],
            live_objects_stderr=self._objects_variance[row] ** 0.5,
            alloc_bytes=self._alloc_bytes[row],
            samples=round(self._samples[row]),
            types=[] if self.by_type else self.types(stacks),
            path=[frame_message(frame) for frame in path],
            # By type a call path is in as many groups as it holds types, and its routes are not known by type.
            routes=[] if self.by_type or self._by_route else route_shares(self.states, stacks, self._names),
        )

    def largest(self, limit: int) -> list[tuple[int, Frame]]:
        """Rows and frames of the groups that hold most."""
        order = np.argsort(-self.live_bytes, kind="stable")[:limit].tolist()
        groups = list(self._groups)
        return [(row, groups[row].frame) for row in order if self.live_bytes[row] > 0]

    def stacks(self, row: int) -> set[int]:
        """Call paths of a group."""
        return set(self._all_stacks[self._cells_of(row)].tolist())

    def types(self, stacks: set[int]) -> list[query_pb2.TypeShare]:
        """What these call paths hold, largest first."""
        return type_shares(self.states, stacks, self._names)

    def _cells_of(self, row: int) -> Index:
        start, end = np.searchsorted(self._sorted, [row, row + 1])
        return self._order[start:end]

    def _largest_path(self, row: int) -> list[Frame]:
        cells = self._cells_of(row)
        if not len(cells):
            return []
        stacks, index = np.unique(self._all_stacks[cells], return_inverse=True)
        held = np.bincount(index, weights=self._all_live[cells])
        return self._names.path(int(stacks[held.argmax()]))

    def _group(self, cells: Cells) -> Index:
        kinds = np.zeros(len(cells.stack), dtype=np.uint64) if cells.type is None else cells.type
        index = np.empty(len(kinds), dtype=np.intp)
        for position, key in enumerate(zip(cells.stack.tolist(), kinds.tolist(), strict=True)):
            if key not in self._known:
                group = self._key(self._names, *key)
                self._known[key] = self._groups.setdefault(group, len(self._groups))
            index[position] = self._known[key]
        return index

    def _sum(self, name: str) -> F64:
        total: F64 = np.zeros(self.count)
        for cells, index in zip(self.cells, self.index, strict=True):
            total += np.bincount(index, weights=getattr(cells, name), minlength=self.count)
        return total

    def _variances(self) -> tuple[F64, F64]:
        of_bytes, of_objects = np.zeros(self.count), np.zeros(self.count)
        for cells, index in zip(self.cells, self.index, strict=True):
            apart = np.bincount(index, weights=cells.bytes_variance, minlength=self.count)
            bound = group_variance(cells.bytes_variance, index, self.count, cells.heap_variance)
            of_bytes += bound
            # For objects there is no figure for the whole heap; they are caught and missed with their bytes.
            raised = np.divide(bound, apart, out=np.ones(self.count), where=apart > 0)
            of_objects += raised * np.bincount(index, weights=cells.objects_variance, minlength=self.count)
        return of_bytes, of_objects


def group_variance(variance: F64, index: Index, count: int, heap_variance: float) -> F64:
    """Upper bound of the variance of sums by group: see the top of this file."""
    apart = np.bincount(index, weights=variance, minlength=count)
    together = np.bincount(index, weights=np.sqrt(variance), minlength=count) ** 2
    bound: F64 = np.maximum(apart, np.minimum(together, heap_variance))
    return bound


def type_shares(states: Sequence[HeapState], stacks: set[int], names: Names) -> list[query_pb2.TypeShare]:
    """What some call paths hold, largest first, at most TYPES_MAX."""
    held: dict[int, list[float]] = {}
    wanted = np.fromiter(stacks, dtype=np.uint64, count=len(stacks))
    for state in states:
        rows = np.flatnonzero(np.isin(state.types.stack, wanted))
        for row in rows.tolist():
            share = held.setdefault(int(state.types.type[row]), [0.0, 0.0])
            share[0] += float(state.types.live_bytes[row])
            share[1] += float(state.types.live_objects[row])
    largest = sorted(held.items(), key=lambda item: -item[1][0])[:TYPES_MAX]
    return [
        query_pb2.TypeShare(type=names.types.get(kind, UNKNOWN_TYPE), live_bytes=size, live_objects=objects)
        for kind, (size, objects) in largest
    ]


def route_shares(states: Sequence[HeapState], stacks: set[int], names: Names) -> list[query_pb2.RouteShare]:
    """Under which routes what these call paths hold was allocated, largest first, at most ROUTES_MAX; without the
    part of no route."""
    labelled = {stack: route for stack in stacks if (route := names.route(stack))}
    held: dict[str, list[float]] = {}
    wanted = np.fromiter(labelled, dtype=np.uint64, count=len(labelled))
    for state in states if labelled else ():
        sites = state.sites
        for row in np.flatnonzero(np.isin(sites.stack, wanted) & (sites.live_bytes > 0)).tolist():
            share = held.setdefault(labelled[int(sites.stack[row])], [0.0, 0.0])
            share[0] += float(sites.live_bytes[row])
            share[1] += float(sites.live_objects[row])
    largest = sorted(held.items(), key=lambda item: -item[1][0])[:ROUTES_MAX]
    return [
        query_pb2.RouteShare(route=route, live_bytes=size, live_objects=objects) for route, (size, objects) in largest
    ]


def of_route(states: Sequence[HeapState], names: Names, route: str) -> list[HeapState]:
    """The same heaps with only what was allocated under one route; their headers say what that holds."""
    found = []
    for state in states:
        sites = np.array([names.route(stack) == route for stack in state.sites.stack.tolist()], dtype=bool)
        types = np.array([names.route(stack) == route for stack in state.types.stack.tolist()], dtype=bool)
        kept = _rows(state.sites, sites)
        variance = group_variance(
            kept.live_bytes_variance, np.zeros(len(kept), dtype=np.intp), 1, state.header.live_bytes_variance
        )
        header = replace(state.header, live_bytes=float(kept.live_bytes.sum()), live_bytes_variance=float(variance[0]))
        found.append(HeapState(header, kept, _rows(state.types, types)))
    return found


def live_bytes_by_route(states: Sequence[HeapState], names: Names) -> dict[str, float]:
    """Estimated live bytes under each route, over processes; without the part of no route."""
    held: dict[str, float] = {}
    for state in states:
        for stack, live in zip(state.sites.stack.tolist(), state.sites.live_bytes.tolist(), strict=True):
            if live > 0 and (route := names.route(stack)):
                held[route] = held.get(route, 0.0) + live
    return held


def _rows(columns: Columns, chosen: NDArray[np.bool_]) -> Columns:
    return replace(columns, **{field.name: getattr(columns, field.name)[chosen] for field in fields(columns)})


def frame_message(frame: Frame) -> common_pb2.Frame:
    """As the wire has it; parts of frames (a file without a line) have ids of their own."""
    return common_pb2.Frame(id=frame.id, function=frame.function, file=frame.file, line=frame.line)


# --- Grouping ---


def _key_of(group_by: int) -> Callable[[Names, int, int], Group]:
    def of_line(names: Names, stack: int, _kind: int) -> Group:
        return Group(names.innermost(stack))

    def of_function(names: Names, stack: int, _kind: int) -> Group:
        frame = names.innermost(stack)
        return Group(Frame(frame.function, frame.file, 0))

    def of_file(names: Names, stack: int, _kind: int) -> Group:
        return Group(Frame("", names.innermost(stack).file, 0))

    def of_type(names: Names, _stack: int, kind: int) -> Group:
        return Group(Frame("", "", 0), names.types.get(kind, UNKNOWN_TYPE))

    def of_route(names: Names, stack: int, _kind: int) -> Group:
        return Group(Frame("", "", 0), names.route(stack))

    def of_all(_names: Names, _stack: int, _kind: int) -> Group:
        return Group(Frame("", "", 0))

    if group_by == WHOLE:
        return of_all
    return {
        query_pb2.GROUP_BY_ROUTE: of_route,
        query_pb2.GROUP_BY_FUNCTION: of_function,
        query_pb2.GROUP_BY_FILE: of_file,
        query_pb2.GROUP_BY_TYPE: of_type,
    }.get(query_pb2.GroupBy.ValueType(group_by), of_line)


def _by_path(state: HeapState) -> Cells:
    sites = state.sites
    return Cells(
        stack=sites.stack,
        type=None,
        live_bytes=sites.live_bytes,
        bytes_variance=sites.live_bytes_variance,
        live_objects=sites.live_objects,
        objects_variance=sites.live_objects_variance,
        alloc_bytes=sites.alloc_bytes,
        samples=sites.samples.astype(float),
        heap_variance=state.header.live_bytes_variance,
    )


def _by_type(state: HeapState) -> Cells:
    """Cells per call path and type, and one of unknown type for what the types of a call path do not cover."""
    sites, types = state.sites, state.types
    order = np.argsort(sites.stack)
    position = np.searchsorted(sites.stack, types.stack, sorter=order)
    known = position < len(order)
    known[known] = sites.stack[order[position[known]]] == types.stack[known]
    site = np.zeros(len(types.stack), dtype=np.intp)
    site[known] = order[position[known]]
    covered = {
        name: np.bincount(site[known], weights=getattr(types, name)[known].astype(float), minlength=len(sites.stack))
        for name in ("live_bytes", "live_objects", "samples")
    }
    left = {name: np.maximum(getattr(sites, name) - value, 0.0) for name, value in covered.items()}
    rest = np.flatnonzero(left["live_bytes"] > 1e-6 * np.maximum(sites.live_bytes, 1.0))
    owner = np.concatenate([site, rest])
    live = np.concatenate([types.live_bytes, left["live_bytes"][rest]])
    objects = np.concatenate([types.live_objects, left["live_objects"][rest]])
    counted = np.concatenate([known, np.ones(len(rest), dtype=bool)])
    return Cells(
        stack=np.concatenate([types.stack, sites.stack[rest]]),
        type=np.concatenate([types.type, np.zeros(len(rest), dtype=np.uint64)]),
        live_bytes=live,
        bytes_variance=_shared(sites.live_bytes_variance, sites.live_bytes, owner, live, counted),
        live_objects=objects,
        objects_variance=_shared(sites.live_objects_variance, sites.live_objects, owner, objects, counted),
        alloc_bytes=np.zeros(len(owner)),
        samples=np.concatenate([types.samples.astype(float), left["samples"][rest]]),
        heap_variance=state.header.live_bytes_variance,
    )


def _shared(variance: F64, amount: F64, owner: Index, part: F64, known: NDArray[np.bool_]) -> F64:
    """Each part's share of its owner's variance; an owner that is not known lends none."""
    if not len(amount):
        return np.zeros(len(part))
    whole = np.where(known, amount[owner], 0.0)
    share = np.clip(np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0), 0.0, 1.0)
    result: F64 = share * variance[owner]
    return result


# --- Change ---


def _change_variance(old: Table, new: Table, count: int) -> F64:
    """Variance of the change of each group.

    A sample that is there at both moments contributes to neither side's error. How much of the earlier heap is still
    there is not recorded, but at least what is there now and was not allocated in between: a lower bound, which makes
    this an upper one.
    """
    result: F64 = np.zeros(count)
    remaining = {(state.header.instance_id, state.header.epoch): number for number, state in enumerate(old.states)}
    for number, state in enumerate(new.states):
        earlier = remaining.pop((state.header.instance_id, state.header.epoch), None)
        if earlier is None:
            result += _one_sided(new, number, count)
            continue
        before, after = old.cells[earlier], new.cells[number]
        keys = np.concatenate([_cell_ids(before), _cell_ids(after)])
        _, cell = np.unique(keys, return_inverse=True)
        cells = int(cell.max()) + 1 if len(cell) else 0
        split = len(before.stack)

        def spread(values: F64, where: Index, cells: int = cells) -> F64:
            return np.bincount(where, weights=values, minlength=cells)

        was, now = spread(before.live_bytes, cell[:split]), spread(after.live_bytes, cell[split:])
        variance_was = spread(before.bytes_variance, cell[:split])
        variance_now = spread(after.bytes_variance, cell[split:])
        born = spread(after.alloc_bytes, cell[split:]) - spread(before.alloc_bytes, cell[:split])
        stayed = np.zeros(cells) if new.by_type else np.clip(now - np.maximum(born, 0.0), 0.0, was)
        share = np.divide(stayed, was, out=np.zeros(cells), where=was > 0)
        common = np.minimum(share * variance_was, variance_now)
        variance = np.maximum(variance_was + variance_now - 2 * common, 0.0)
        group = np.zeros(cells, dtype=np.intp)
        group[cell[:split]] = old.index[earlier]
        group[cell[split:]] = new.index[number]
        result += group_variance(variance, group, count, before.heap_variance + after.heap_variance)
    for number in remaining.values():
        result += _one_sided(old, number, count)
    return result


def _one_sided(table: Table, number: int, count: int) -> F64:
    cells = table.cells[number]
    return group_variance(cells.bytes_variance, table.index[number], count, cells.heap_variance)


def _cell_ids(cells: Cells) -> NDArray[np.uint64]:
    if cells.type is None:
        return cells.stack
    # Ids are hashes already; a product with an odd number keeps (stack, type) pairs apart.
    mixed: NDArray[np.uint64] = cells.stack ^ (cells.type * np.uint64(0x9E3779B97F4A7C15))
    return mixed


def _widened(values: F64, count: int) -> F64:
    return np.pad(values, (0, count - len(values)))
