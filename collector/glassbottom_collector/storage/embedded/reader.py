"""Answers from the day files. Any thread; never waits for the writer.

A snapshot lists what changed since the one before it, so the state at a moment is put together from the last
complete snapshot on. Agents send a complete one at least every twenty intervals and after every reconnect, and an
interval is at most five minutes: LOOKBACK_S covers that and a lost one. A heap whose last complete snapshot lies
further back is shown from what there is.

What tells of time is in reader_time.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...model.code import Frame, Stack
from ...model.heap import HeapSeries, HeapState, LabelledSnapshot, MetricPoint, SnapshotHeader
from ...model.process import Process, ProcessSeen, Span
from .arrays import Columns, ids, text, unpacked_ids
from .carry import latest, matrices
from .columns import SITE, TYPE
from .reader_time import TimeReader

ALIVE_S = 600
"""A process without a snapshot for so long is not part of the heap at a moment."""

LOOKBACK_S = 2 * 20 * 300
"""How far before a moment its last complete snapshot is looked for."""

SERIES_CELLS_MAX = 2_000_000
"""Snapshots times stacks of one series; a longer one is thinned evenly, each point still being exact."""

_ROWS_AT_ONCE = 1_500_000


@dataclass(frozen=True)
class _Heads:
    """Heads of snapshots of one service, by instance, epoch and time; `day` says which file `batch` counts in."""

    days: Sequence[str]
    columns: Mapping[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.columns["batch"])

    def groups(self) -> list[slice]:
        """One per instance and epoch."""
        if not len(self):
            return []
        instance, epoch = self.columns["instance_id"], self.columns["epoch"]
        cuts = np.flatnonzero((instance[1:] != instance[:-1]) | (epoch[1:] != epoch[:-1])) + 1
        edges = [0, *cuts.tolist(), len(self)]
        return [slice(start, end) for start, end in pairwise(edges)]

    def header(self, index: int) -> SnapshotHeader:
        """As the model has it."""
        columns = self.columns
        return SnapshotHeader(
            instance_id=str(columns["instance_id"][index]),
            epoch=int(columns["epoch"][index]),
            at_ns=int(columns["at_ns"][index]),
            complete=bool(columns["complete"][index]),
            interval_bytes=float(columns["interval_bytes"][index]),
            window_share=float(columns["window_share"][index]),
            live_bytes=float(columns["live_bytes"][index]),
            live_bytes_variance=float(columns["live_bytes_variance"][index]),
        )


class EmbeddedReader(TimeReader):
    """The `Reader` of the embedded store. Raises StorageError when a file cannot be opened now."""

    def services(self, within: Span) -> Sequence[str]:
        """Names of services with data in the range, sorted."""
        names: set[str] = set()
        for _, rows in self._each_day(
            within,
            "SELECT DISTINCT service FROM {day}.process WHERE instance_id IN "
            "(SELECT instance_id FROM {day}.batch WHERE at_ns >= ? AND at_ns < ?)",
            [within.from_ns, within.to_ns],
        ):
            names.update(rows["service"].tolist())
        return sorted(names)

    def processes(self, service: str, within: Span) -> Sequence[ProcessSeen]:
        """Processes with data in the range, oldest first; first and last seen are those inside the range."""
        seen: dict[str, ProcessSeen] = {}
        for _, rows in self._each_day(
            within,
            "SELECT p.*, b.first, b.last FROM (SELECT instance_id, min(at_ns) AS first, max(at_ns) AS last "
            "FROM {day}.batch WHERE at_ns >= ? AND at_ns < ? GROUP BY instance_id) b "
            "JOIN {day}.process p USING (instance_id) WHERE p.service = ?",
            [within.from_ns, within.to_ns, service],
        ):
            for index in range(len(rows["instance_id"])):
                found = _process_seen(rows, index)
                known = seen.get(found.process.instance_id, found)
                seen[found.process.instance_id] = ProcessSeen(
                    found.process,
                    found.agent_version or known.agent_version,
                    min(known.first_seen_ns, found.first_seen_ns),
                    max(known.last_seen_ns, found.last_seen_ns),
                )
        return sorted(seen.values(), key=lambda one: (one.first_seen_ns, one.process.instance_id))

    def headers(self, service: str, within: Span) -> Sequence[SnapshotHeader]:
        """Snapshots taken in the range, by instance and time."""
        heads = self._heads(service, within, None)
        order = np.lexsort((heads.columns["batch"], heads.columns["at_ns"], heads.columns["instance_id"].astype(str)))
        return [heads.header(index) for index in order.tolist()]

    def labelled(self, service: str, within: Span, instance_id: str | None = None) -> Sequence[LabelledSnapshot]:
        """Snapshots of the range that have a name, by time; one that has several is there once for each."""
        found: list[LabelledSnapshot] = []
        for _, rows in self._each_day(
            within,
            "SELECT l.label, s.* FROM {day}.heap_label l JOIN {day}.heap_snapshot s USING (batch) "
            "WHERE s.at_ns >= ? AND s.at_ns < ? "
            "AND s.instance_id IN (SELECT instance_id FROM {day}.process WHERE service = ?) "
            "AND (? IS NULL OR s.instance_id = ?) ORDER BY s.at_ns, s.instance_id, l.label",
            [within.from_ns, within.to_ns, service, instance_id, instance_id],
        ):
            heads = _Heads((), rows)
            found.extend(LabelledSnapshot(str(label), heads.header(at)) for at, label in enumerate(rows["label"]))
        return found

    def heap_at(self, service: str, at_ns: int, instance_id: str | None = None) -> Sequence[HeapState]:
        """The heap of each process alive at that moment (last snapshot no older than ALIVE_S), by instance.

        A stack that holds nothing and has not been listed since the last complete snapshot is left out.
        """
        # Nearly always the last complete snapshot is minutes away; only an agent with long intervals needs more.
        for back_s in (ALIVE_S, LOOKBACK_S):
            heads = self._heads(service, Span(max(0, at_ns - back_s * 10**9), at_ns + 1), instance_id)
            groups = _newest(heads, at_ns - ALIVE_S * 10**9)
            if all(heads.columns["complete"][group.start] for group in groups):
                break
        states: list[HeapState] = []
        for some in _portions(groups, heads):
            sites = self._rows("heap_site", SITE, heads, some)
            types = self._rows("heap_type", TYPE, heads, some)
            for group in some:
                found = latest(_within(sites, group), _within(types, group))
                states.append(HeapState(heads.header(group.stop - 1), *found))
        return states

    def heap_series(self, service: str, within: Span, instance_id: str | None = None) -> Iterator[HeapSeries]:
        """One series per process and epoch with snapshots in the range, values carried forward.

        At most SERIES_CELLS_MAX cells per series: of more, snapshots are left out evenly, never the first or last.
        """
        before = Span(max(0, within.from_ns - LOOKBACK_S * 10**9), within.to_ns)
        heads = self._heads(service, before, instance_id)
        groups: list[slice] = []
        for group in heads.groups():
            first = group.start + int(np.searchsorted(heads.columns["at_ns"][group], within.from_ns))
            if first < group.stop:
                groups.append(slice(_since_complete(heads, group, max(group.start, first - 1)).start, group.stop))
        for some in _portions(groups, heads):
            sites = self._rows("heap_site", SITE, heads, some)
            for group in some:
                yield _series(heads, group, _within(sites, group), within.from_ns)

    def first_held(self, service: str, stacks: Iterable[int]) -> Mapping[int, tuple[int, str]]:
        """When each of these call paths was first seen to hold memory, and in which instance."""
        missing = set(stacks)
        found: dict[int, tuple[int, str]] = {}
        for day in self._files.days():
            if not missing:
                break
            # The oldest day comes first: what is found in one need not be looked for in those after it.
            rows = self._query(
                day,
                "SELECT s.stack, min(b.at_ns) AS at_ns, arg_min(b.instance_id, b.at_ns) AS instance_id "
                "FROM {day}.heap_site s JOIN {day}.heap_snapshot b USING (batch) "
                "WHERE s.stack IN (SELECT stack FROM wanted) AND s.live_bytes > 0 "
                "AND b.instance_id IN (SELECT instance_id FROM {day}.process WHERE service = ?) GROUP BY s.stack",
                [service],
                wanted={"stack": ids(missing)},
            )
            if rows is not None:
                for stack, at_ns, instance in zip(
                    *(rows[name].tolist() for name in ("stack", "at_ns", "instance_id")), strict=True
                ):
                    found[stack] = (at_ns, instance)
                missing.difference_update(found)
        return found

    def metrics(
        self, service: str, within: Span, names: Sequence[str], instance_id: str | None = None
    ) -> Mapping[str, Sequence[MetricPoint]]:
        """Readings of the named metrics in the range by instance id, each by time."""
        points: dict[str, list[MetricPoint]] = {}
        for _, rows in self._each_day(
            within,
            "SELECT b.instance_id, b.at_ns, m.name, m.value, m.attributes FROM {day}.metric m "
            "JOIN {day}.batch b USING (batch) WHERE b.at_ns >= ? AND b.at_ns < ? "
            "AND m.name IN (SELECT name FROM wanted) "
            "AND b.instance_id IN (SELECT instance_id FROM {day}.process WHERE service = ?) "
            "AND (? IS NULL OR b.instance_id = ?) ORDER BY b.at_ns, b.batch",
            [within.from_ns, within.to_ns, service, instance_id, instance_id],
            wanted={"name": text(names)},
        ):
            for instance, at_ns, name, value, attributes in zip(
                *(rows[name].tolist() for name in ("instance_id", "at_ns", "name", "value", "attributes")), strict=True
            ):
                points.setdefault(instance, []).append(MetricPoint(at_ns, name, value, _attributes(attributes)))
        return points

    def stacks(self, ids: Iterable[int]) -> Mapping[int, Stack]:
        """Definitions of the call paths that are known."""
        rows = self._meta("stack", ids)
        return {
            identity: Stack(identity, unpacked_ids(frames), truncated, label)
            for identity, frames, truncated, label in zip(
                *(rows[name].tolist() for name in ("id", "frames", "truncated", "label")), strict=True
            )
        }

    def frames(self, ids: Iterable[int]) -> Mapping[int, Frame]:
        """Definitions of the frames that are known."""
        rows = self._meta("frame", ids)
        names = ("id", "function", "file", "line")
        return {
            identity: Frame(function, file, line)
            for identity, function, file, line in zip(*(rows[name].tolist() for name in names), strict=True)
        }

    def types(self, ids: Iterable[int]) -> Mapping[int, str]:
        """Names of the types that are known."""
        rows = self._meta("type", ids)
        return dict(zip(rows["id"].tolist(), rows["name"].tolist(), strict=True))

    def _heads(self, service: str, within: Span, instance_id: str | None) -> _Heads:
        days: list[str] = []
        parts: list[Columns] = []
        for day, rows in self._each_day(
            within,
            "SELECT * FROM {day}.heap_snapshot WHERE at_ns >= ? AND at_ns < ? "
            "AND instance_id IN (SELECT instance_id FROM {day}.process WHERE service = ?) "
            "AND (? IS NULL OR instance_id = ?)",
            [within.from_ns, within.to_ns, service, instance_id, instance_id],
        ):
            rows["day"] = np.full(len(rows["batch"]), len(days))
            days.append(day)
            parts.append(rows)
        if not parts:
            empty = {name: np.empty(0) for name in ("batch", "at_ns", "epoch")}
            return _Heads((), {**empty, "instance_id": np.empty(0, dtype=object)})
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        keys = (columns["batch"], columns["day"], columns["at_ns"], columns["epoch"])
        order = np.lexsort((*keys, columns["instance_id"].astype(str)))
        return _Heads(days, {name: column[order] for name, column in columns.items()})

    def _rows(self, table: str, names: Sequence[str], heads: _Heads, groups: Sequence[slice]) -> Columns:
        """Rows of the snapshots of some groups, by place among the heads, which is added as `at`."""
        parts: list[Columns] = []
        places = np.concatenate([np.arange(group.start, group.stop) for group in groups])
        for number, day in enumerate(heads.days):
            here = places[heads.columns["day"][places] == number]
            if not len(here):
                continue
            batches = heads.columns["batch"][here]
            order = np.argsort(batches)
            found = self._query(
                day,
                f"SELECT batch, {', '.join(names)} FROM {{day}}.{table} "
                "WHERE batch BETWEEN ? AND ? AND batch IN (SELECT batch FROM wanted)",
                [int(batches.min()), int(batches.max())],
                wanted={"batch": batches},
            )
            if found is not None:
                found["at"] = here[order][np.searchsorted(batches[order], found.pop("batch"))]
                parts.append(found)
        if not parts:
            return {name: np.empty(0, dtype=_KINDS.get(name, np.float64)) for name in (*names, "at")}
        rows = {name: np.concatenate([part[name] for part in parts]) for name in (*names, "at")}
        # Sorting by 16 bits is ten times as fast as by 64.
        narrow = np.uint16 if len(heads) <= 2**16 else np.intp
        order = np.argsort(rows["at"].astype(narrow), kind="stable")
        return {name: column[order] for name, column in rows.items()}


_KINDS = {
    "at": np.intp,
    "stack": np.uint64,
    "type": np.uint64,
    "samples": np.uint32,
    "birth_minutes": np.uint32,
    "birth_oldest_ms": np.int64,
    "birth_mean_ms": np.int64,
}


def _newest(heads: _Heads, alive_ns: int) -> list[slice]:
    """Of each instance whose last snapshot is at least so new, its last epoch from the last complete snapshot on."""
    newest: dict[str, slice] = {}
    at_ns = heads.columns["at_ns"]
    for group in heads.groups():
        instance = str(heads.columns["instance_id"][group.start])
        last_ns = at_ns[group.stop - 1]
        if last_ns >= alive_ns and (instance not in newest or last_ns >= at_ns[newest[instance].stop - 1]):
            newest[instance] = _since_complete(heads, group, group.stop - 1)
    return list(newest.values())


def _since_complete(heads: _Heads, group: slice, index: int) -> slice:
    """From the last complete snapshot of the group up to index, to index; from the group's start without one."""
    complete = np.flatnonzero(heads.columns["complete"][group.start : index + 1])
    return slice(group.start + (int(complete[-1]) if len(complete) else 0), index + 1)


def _portions(groups: Sequence[slice], heads: _Heads) -> Iterator[list[slice]]:
    """Groups in portions of which each is loaded with one query and fits in memory."""
    portion: list[slice] = []
    rows = 0
    for group in groups:
        size = int(heads.columns["site_rows"][group].sum() + heads.columns["type_rows"][group].sum())
        if portion and rows + size > _ROWS_AT_ONCE:
            yield portion
            portion, rows = [], 0
        portion.append(group)
        rows += size
    if portion:
        yield portion


def _within(rows: Columns, group: slice) -> Columns:
    start, stop = np.searchsorted(rows["at"], (group.start, group.stop))
    return {name: column[start:stop] for name, column in rows.items()}


def _series(heads: _Heads, group: slice, sites: Columns, from_ns: int) -> HeapSeries:
    first = int(np.searchsorted(heads.columns["at_ns"][group], from_ns))
    complete = heads.columns["complete"][group].astype(bool)
    stacks, kept, values = matrices({**sites, "at": sites["at"] - group.start}, complete, first, SERIES_CELLS_MAX)
    return HeapSeries(
        instance_id=str(heads.columns["instance_id"][group.start]),
        epoch=int(heads.columns["epoch"][group.start]),
        headers=tuple(heads.header(group.start + index) for index in kept.tolist()),
        stacks=stacks,
        **values,
    )


def _process_seen(rows: Columns, index: int) -> ProcessSeen:
    process = Process(
        service=str(rows["service"][index]),
        instance_id=str(rows["instance_id"][index]),
        pid=int(rows["pid"][index]),
        started_at_ns=int(rows["started_at_ns"][index]),
        attributes=json.loads(rows["attributes"][index]),
    )
    return ProcessSeen(process, str(rows["agent_version"][index]), int(rows["first"][index]), int(rows["last"][index]))


@lru_cache(maxsize=1024)
def _attributes(packed: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(json.loads(packed).items()))
