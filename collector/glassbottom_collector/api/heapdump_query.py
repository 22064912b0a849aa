"""Answers about heap dumps: finds the dump that is meant, asks it, and puts the answer into messages.

The collector and the command line answer with the same class: the one gives it the dumps it has stored, the other the
files it was named. So both say the same, and a dump can be read where no collector is. Knows no gRPC.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from glassbottom.wire.v1 import heapdump_pb2

from ..errors import BadRequest
from ..heapdump import HeapDump, diff
from ..model.heapdump import Growth, HeapObject, HeapSummary, HolderPath, Suspect, TypeTotal

LIMIT_MAX = 1000
DEPTH_MAX = 10
ROWS_MAX = 5000
"""Objects of one answer about a tree: a depth and a limit that are each allowed would multiply beyond all bounds."""


@dataclass(frozen=True)
class Found:
    """A dump. name: the id of its capture, or the path of its file. summary: the dump's own, with what else is known of
    it where it was stored."""

    name: str
    dump: HeapDump
    summary: HeapSummary


class Dumps(Protocol):
    """Where dumps come from."""

    def find(self, selector: heapdump_pb2.DumpSelector) -> Found:
        """The dump that is meant. Raises NotFound, BadRequest, and HeapDumpError for a file that is none."""
        ...


class HeapDumpAnswers:
    """Raises BadRequest, HeapDumpError, and what `dumps` raises. Blocks: for use in a thread."""

    def __init__(self, dumps: Dumps) -> None:
        self._dumps = dumps

    def describe(self, request: heapdump_pb2.DescribeDumpRequest) -> heapdump_pb2.DescribeDumpResponse:
        """The dump as a whole."""
        _, summary = self._find(request.dump)
        return heapdump_pb2.DescribeDumpResponse(dump=summary)

    def largest(self, request: heapdump_pb2.LargestObjectsRequest) -> heapdump_pb2.LargestObjectsResponse:
        """The objects that retain most."""
        dump, summary = self._find(request.dump)
        limit = _limit_of(request.limit, 20)
        found = dump.largest(limit, request.type or None)
        return heapdump_pb2.LargestObjectsResponse(dump=summary, objects=map(object_message, found))

    def types(self, request: heapdump_pb2.TypeTotalsRequest) -> heapdump_pb2.TypeTotalsResponse:
        """All objects by type or module."""
        dump, summary = self._find(request.dump)
        limit = _limit_of(request.limit, 30)
        by_module = request.group_by == heapdump_pb2.TYPE_GROUPING_MODULE
        found = dump.modules(limit) if by_module else dump.types(limit)
        return heapdump_pb2.TypeTotalsResponse(dump=summary, totals=map(_total_message, found))

    def paths(self, request: heapdump_pb2.HolderPathsRequest) -> heapdump_pb2.HolderPathsResponse:
        """Who holds an object, or the objects of a type."""
        if bool(request.type) == bool(request.address):
            raise BadRequest("Ask who holds either the objects of a type or one object: name one of the two.")
        dump, summary = self._find(request.dump)
        limit = _limit_of(request.limit, 5)
        if request.type:
            found = dump.paths(type_name=request.type, limit=limit)
        else:
            found = dump.paths(address=request.address, limit=limit)
        return heapdump_pb2.HolderPathsResponse(dump=summary, paths=map(path_message, found))

    def retained(self, request: heapdump_pb2.RetainedObjectsRequest) -> heapdump_pb2.RetainedObjectsResponse:
        """What would be freed with an object."""
        if request.depth > DEPTH_MAX:
            raise BadRequest(f"A depth of {request.depth} is too much; ask for at most {DEPTH_MAX}.")
        dump, summary = self._find(request.dump)
        limit = _limit_of(request.limit, 20)
        rows = list(_tree(dump, request.address, request.depth or 1, limit))
        return heapdump_pb2.RetainedObjectsResponse(dump=summary, objects=rows)

    def suspects(self, request: heapdump_pb2.LeakSuspectsRequest) -> heapdump_pb2.LeakSuspectsResponse:
        """What holds a suspiciously large part of the heap."""
        dump, summary = self._find(request.dump)
        return heapdump_pb2.LeakSuspectsResponse(dump=summary, suspects=map(_suspect_message, dump.suspects()))

    def compare(self, request: heapdump_pb2.CompareDumpsRequest) -> heapdump_pb2.CompareDumpsResponse:
        """What changed between two dumps."""
        limit = _limit_of(request.limit, 30)
        before, summary_before = self._find(request.before)
        after, summary_after = self._find(request.after)
        return heapdump_pb2.CompareDumpsResponse(
            before=summary_before,
            after=summary_after,
            growth=map(_growth_message, diff(before, after, limit)),
            notes=_doubts(summary_before, summary_after),
        )

    def _find(self, selector: heapdump_pb2.DumpSelector) -> tuple[HeapDump, heapdump_pb2.DumpSummary]:
        found = self._dumps.find(selector)
        return found.dump, summary_message(found.summary, found.name)


def summary_message(summary: HeapSummary, name: str) -> heapdump_pb2.DumpSummary:
    """name: the id of the capture, or the path of the file."""
    return heapdump_pb2.DumpSummary(
        capture_id=name,
        service=summary.service,
        instance_id=summary.instance_id,
        at_ns=summary.at_ns,
        python_version=summary.python_version,
        objects=summary.objects,
        references=summary.references,
        size=summary.size,
        types=summary.types,
        pause_ns=summary.pause_ns,
        complete=summary.complete,
        reason=summary.reason,
    )


def object_message(found: HeapObject, depth: int = 0, children_left: int = 0) -> heapdump_pb2.DumpObject:
    """One object."""
    return heapdump_pb2.DumpObject(
        address=found.address,
        type=found.type_name,
        size=found.size,
        retained=found.retained,
        length=found.length,
        text=found.text,
        children_left=children_left,
        depth=depth,
    )


def path_message(path: HolderPath) -> heapdump_pb2.HolderPath:
    """From a root to an object."""
    return heapdump_pb2.HolderPath(
        root=path.root,
        steps=map(object_message, path.steps),
        objects=path.objects,
        retained=path.retained,
        text=str(path),
    )


def _suspect_message(suspect: Suspect) -> heapdump_pb2.HeapSuspect:
    return heapdump_pb2.HeapSuspect(
        sentence=suspect.sentence,
        type=suspect.type_name,
        objects=suspect.objects,
        retained=suspect.retained,
        share=suspect.share,
        point=None if suspect.point is None else object_message(suspect.point),
        path=None if suspect.path is None else path_message(suspect.path),
    )


def _total_message(total: TypeTotal) -> heapdump_pb2.TypeTotal:
    return heapdump_pb2.TypeTotal(name=total.name, objects=total.objects, size=total.size, retained=total.retained)


def _growth_message(growth: Growth) -> heapdump_pb2.OwnerGrowth:
    return heapdump_pb2.OwnerGrowth(
        path=growth.path,
        type=growth.type_name,
        objects_before=growth.objects_before,
        objects_after=growth.objects_after,
        size_before=growth.size_before,
        size_after=growth.size_after,
        length_before=growth.length_before,
        length_after=growth.length_after,
    )


def _tree(dump: HeapDump, address: int, depth: int, limit: int) -> Iterator[heapdump_pb2.DumpObject]:
    """The dominator tree below an object, every object before those below it; at most ROWS_MAX."""
    left = ROWS_MAX
    # What is still to be told, so that a deep tree needs no deep recursion.
    waiting: list[tuple[HeapObject, int]] = []
    waiting.append((dump.at(address) if address else _whole(dump), 0))
    while waiting and left:
        found, level = waiting.pop()
        left -= 1
        beyond = 0
        if level < depth:
            children = dump.children(found.address, limit)
            beyond = dump.children_count(found.address) - len(children)
            waiting.extend((each, level + 1) for each in reversed(children))
        yield object_message(found, level, beyond)


def _whole(dump: HeapDump) -> HeapObject:
    """The heap as if it were an object that holds all others."""
    return HeapObject(address=0, type_name="", size=0, retained=dump.summary().size, length=None, text="the whole heap")


def _doubts(before: heapdump_pb2.DumpSummary, after: heapdump_pb2.DumpSummary) -> list[str]:
    found = []
    if before.instance_id != after.instance_id:
        found.append(
            "The dumps are of different processes: objects are compared by who holds them, not one by one, and the "
            "processes may simply have done different work."
        )
    elif before.at_ns > after.at_ns:
        found.append("The second dump is the earlier one; exchange them to see growth as growth.")
    found.extend(
        f"The {word} dump was cut short ({dump.reason}); what it lacks looks as if it were not there."
        for word, dump in (("first", before), ("second", after))
        if not dump.complete
    )
    return found


def _limit_of(limit: int, usual: int) -> int:
    if limit > LIMIT_MAX:
        raise BadRequest(f"A limit of {limit} is too high; use at most {LIMIT_MAX}.")
    return limit or usual
