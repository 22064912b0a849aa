"""Answers about labelled snapshots: what a name means, and what changed between two moments of the same processes.

A name means, in each process, the newest snapshot of that name; `name~1` the one before it. What is compared are
processes that have both sides: only there is a difference a change of something. Where none has both, as when the
service was started anew in between, the sums are compared all the same, and the answer says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from glassbottom.wire.v1 import snapshots_pb2

from ..errors import BadRequest, NotFound
from ..model.heap import HeapState, LabelledSnapshot
from ..model.process import Span
from ..storage import Reader
from . import heap_views
from .heap_query import LIMIT, group_by_of, names_of
from .memory_split import split_at, together
from .selection import KNOWN_S, SECOND_NS, heap_at, instance_of, limit_of, no_service

LISTED = 100
OCCASION_NS = 600 * SECOND_NS
"""Snapshots of one name that lie further apart were not taken on the same occasion."""
NAMED_MAX = 20

_OLDER = re.compile(r"(?P<label>.+)~(?P<skip>\d{1,4})")


@dataclass(frozen=True)
class Side:
    """One side of a comparison: heaps by instance id, and the name they were asked for by, if any."""

    label: str
    states: Mapping[str, HeapState]


class SnapshotAnswers:
    """Raises NotFound, BadRequest, and what the reader raises. clock_ns: now."""

    def __init__(self, reader: Reader, clock_ns: Callable[[], int]) -> None:
        self._reader = reader
        self._clock_ns = clock_ns

    def listed(self, request: snapshots_pb2.ListSnapshotsRequest) -> snapshots_pb2.ListSnapshotsResponse:
        """Labelled snapshots, oldest first, each beside the first of its process."""
        now_ns = self._clock_ns()
        service = request.selector.service
        within = _lately(now_ns)
        if request.HasField("range"):
            within = Span(request.range.from_ns, request.range.to_ns)
        instance_id = instance_of(self._reader, request.selector, within, now_ns)
        found = self._reader.labelled(service, within, instance_id)
        if not found and not self._reader.processes(service, within):
            raise NotFound(no_service(self._reader, service, within, now_ns))
        shown = found[-limit_of(request.limit, LISTED) :]
        baselines: dict[str, LabelledSnapshot] = {}
        for each in found:
            baselines.setdefault(each.header.instance_id, each)
        return snapshots_pb2.ListSnapshotsResponse(
            snapshots=[self._listed(service, each, baselines[each.header.instance_id]) for each in shown],
            more=len(found) - len(shown),
        )

    def diff(self, request: snapshots_pb2.DiffSnapshotsRequest) -> snapshots_pb2.DiffSnapshotsResponse:
        """What changed between two moments, each a name, a time, the baseline (before) or now (after)."""
        now_ns = self._clock_ns()
        service = request.selector.service
        instance_id = instance_of(self._reader, request.selector, _lately(now_ns), now_ns)
        labelled = self._reader.labelled(service, _lately(now_ns), instance_id)
        notes: list[str] = []
        after = self._after(request, labelled, now_ns, notes)
        before = self._before(request, labelled, after, now_ns)
        before, after = _comparable(before, after, notes)
        old, new = list(before.states.values()), list(after.states.values())
        delta, error = heap_views.total_change(old, new)
        changes = heap_views.diff(
            old,
            new,
            names_of(self._reader, [*old, *new]),
            group_by_of(request.group_by),
            limit_of(request.limit, LIMIT),
        )
        return snapshots_pb2.DiffSnapshotsResponse(
            before=self._side(service, before),
            after=self._side(service, after),
            changes=changes,
            delta_bytes=delta,
            delta_bytes_stderr=error,
            notes=notes,
        )

    def _listed(
        self, service: str, each: LabelledSnapshot, baseline: LabelledSnapshot
    ) -> snapshots_pb2.LabelledSnapshot:
        header, first = each.header, baseline.header
        return snapshots_pb2.LabelledSnapshot(
            label=each.label,
            instance_id=header.instance_id,
            at_ns=header.at_ns,
            live_bytes=header.live_bytes,
            live_bytes_stderr=header.live_bytes_variance**0.5,
            growth_bytes=header.live_bytes - first.live_bytes,
            growth_bytes_stderr=0.0
            if each is baseline
            else (header.live_bytes_variance + first.live_bytes_variance) ** 0.5,
            baseline=each is baseline,
            memory=split_at(self._reader, service, header),
        )

    def _after(
        self,
        request: snapshots_pb2.DiffSnapshotsRequest,
        labelled: Sequence[LabelledSnapshot],
        now_ns: int,
        notes: list[str],
    ) -> Side:
        named = _named(request.after, labelled)
        if not named:
            at_ns = _moment_of(request.after, labelled) or now_ns
            states, _ = heap_at(self._reader, request.selector, at_ns, now_ns)
            return Side("", {state.header.instance_id: state for state in states})
        newest = {each.header.instance_id: each for each in _skipped(named, request.after.label)}
        last_ns = max(each.header.at_ns for each in newest.values())
        same = {key: each for key, each in newest.items() if each.header.at_ns >= last_ns - OCCASION_NS}
        if len(same) < len(newest):
            notes.append(
                f"{len(newest) - len(same)} other processes have older snapshots named {request.after.label} and are "
                "left out; --instance compares one of them."
            )
        return self._loaded(request, same.values())

    def _before(
        self,
        request: snapshots_pb2.DiffSnapshotsRequest,
        labelled: Sequence[LabelledSnapshot],
        after: Side,
        now_ns: int,
    ) -> Side:
        asked = request.before.label
        named = _named(request.before, labelled)
        at_ns = 0 if named else _moment_of(request.before, labelled)
        if at_ns:
            states, _ = heap_at(self._reader, request.selector, at_ns, now_ns)
            side = Side("", {state.header.instance_id: state for state in states})
            if min(each.header.at_ns for each in after.states.values()) <= min(
                each.header.at_ns for each in side.states.values()
            ):
                raise BadRequest("The earlier moment is not before the later one; exchange them.")
            return side
        candidates = named or labelled
        if not candidates:
            raise NotFound(
                f"No snapshot of {request.selector.service} has a name, so there is no baseline to compare with; take "
                'one with `glassbottom snapshot take --label NAME` or glassbottom.snapshot("NAME"), or name a time.'
            )
        latest_ns = max(state.header.at_ns for state in after.states.values())
        earlier = [
            each
            for each in candidates
            if each.header.at_ns
            < (
                after.states[each.header.instance_id].header.at_ns
                if each.header.instance_id in after.states
                else latest_ns
            )
        ]
        if not earlier:
            what = f"named {asked}" if named else "with a name"
            raise BadRequest(f"No snapshot {what} is older than what it is to be compared with; exchange the two.")
        chosen: Sequence[LabelledSnapshot]
        if named:
            chosen = _skipped(earlier, asked)
        else:
            first: dict[str, LabelledSnapshot] = {}
            for each in earlier:
                first.setdefault(each.header.instance_id, each)
            chosen = list(first.values())
        both = [each for each in chosen if each.header.instance_id in after.states]
        if not both:
            # Of processes that are all gone, those of the last occasion.
            last_ns = max(each.header.at_ns for each in chosen)
            both = [each for each in chosen if each.header.at_ns >= last_ns - OCCASION_NS]
        return self._loaded(request, both)

    def _loaded(self, request: snapshots_pb2.DiffSnapshotsRequest, chosen: Iterable[LabelledSnapshot]) -> Side:
        states: dict[str, HeapState] = {}
        label = ""
        for each in chosen:
            header, label = each.header, each.label
            for state in self._reader.heap_at(request.selector.service, header.at_ns, header.instance_id):
                states[header.instance_id] = state
        return Side(label, states)

    def _side(self, service: str, side: Side) -> snapshots_pb2.SnapshotSide:
        memory = together([split_at(self._reader, service, state.header) for state in side.states.values()])
        totals = heap_views.totals(list(side.states.values()), memory.resident_bytes)
        return snapshots_pb2.SnapshotSide(label=side.label, totals=totals, memory=memory)


def _lately(now_ns: int) -> Span:
    return Span(max(now_ns - KNOWN_S * SECOND_NS, 0), now_ns + 1)


def _named(reference: snapshots_pb2.SnapshotReference, labelled: Sequence[LabelledSnapshot]) -> list[LabelledSnapshot]:
    """All snapshots of the name asked for, by time; empty when there is none of it."""
    if not reference.label:
        return []
    exact = [each for each in labelled if each.label == reference.label]
    older = _OLDER.fullmatch(reference.label)
    if exact or older is None:
        return exact
    return [each for each in labelled if each.label == older["label"]]


def _skipped(named: Sequence[LabelledSnapshot], asked: str) -> list[LabelledSnapshot]:
    """Of each process the newest, or as many before it as `name~2` says. Raises NotFound where none has so many."""
    older = _OLDER.fullmatch(asked)
    skip = int(older["skip"]) if older is not None and named[0].label != asked else 0
    by_process: dict[str, list[LabelledSnapshot]] = {}
    for each in named:
        by_process.setdefault(each.header.instance_id, []).append(each)
    found = [some[-1 - skip] for some in by_process.values() if len(some) > skip]
    if not found:
        most = max(map(len, by_process.values()))
        raise NotFound(f"No process has more than {most} snapshots named {named[0].label}, so {asked} is none.")
    return found


def _moment_of(reference: snapshots_pb2.SnapshotReference, labelled: Sequence[LabelledSnapshot]) -> int:
    """The time asked for; 0 when none was. Raises NotFound for a name that does not exist and is no time."""
    if reference.label and not reference.at_ns:
        names = sorted({each.label for each in labelled})
        more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
        there_are = f"there are {', '.join(names[:NAMED_MAX])}{more}" if names else "none has a name yet"
        raise NotFound(f"No snapshot of the last seven days is named {reference.label}; {there_are}.")
    return reference.at_ns


def _comparable(before: Side, after: Side, notes: list[str]) -> tuple[Side, Side]:
    """Both sides with only the processes that both have; as they are, with a note, when there is no such process."""
    both = before.states.keys() & after.states.keys()
    if not both:
        notes.append(
            "No process has both: different processes are compared, and what they held from their start on counts too."
        )
        return before, after
    for side, when in ((before, "earlier"), (after, "later")):
        alone = len(side.states) - len(both)
        if alone:
            notes.append(
                f"{alone} {'process is' if alone == 1 else 'processes are'} left out: only the {when} side has it."
            )
    return (
        Side(before.label, {key: state for key, state in before.states.items() if key in both}),
        Side(after.label, {key: state for key, state in after.states.items() if key in both}),
    )
