"""The heap dumps a collector has stored, loaded when first asked about; the last few stay loaded.

A loaded dump takes some hundred bytes an object, and loading one of millions takes seconds. A person who looks at a
dump asks several questions in a row, so the last ones asked about are kept, within a bound on their objects; the newest
stays however large it is, or no question about it could be answered twice.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from glassbottom.wire.v1 import heapdump_pb2

from ..errors import BadRequest, NotFound
from ..heapdump import HeapDump, load
from ..model.capture import CaptureRow
from ..model.heapdump import HeapSummary
from .heapdump_query import Found

KIND = "dump_heap"
PAUSE = "pause_ms"
"""What the capture says of it, in the record."""
DUMPS_MAX = 3
OBJECTS_MAX = 6_000_000
IDLE_S = 900.0
"""A dump nobody has asked about for so long is let go: the memory is the collector's, and others need it."""
LISTED_MAX = 1000
"""Captures of a service among which the newest heap dump is looked for."""


class StoredCaptures(Protocol):
    """Where captures are stored. Every method may be called from any thread."""

    def get(self, capture_id: str) -> CaptureRow:
        """The row of an id, or of a prefix that only one has. Raises NotFound, BadRequest."""
        ...

    def list(self, service: str = "", limit: int = 100) -> Sequence[CaptureRow]:
        """The latest first; of one service, or of all."""
        ...

    def path_of(self, capture_id: str) -> Path:
        """Its file. Raises NotFound when there is none, or no more."""
        ...


@dataclass
class _Kept:
    dump: HeapDump
    summary: HeapSummary
    asked_at_s: float


class StoredDumps:
    """Dumps by the id of their capture. May be called from any thread; loads one dump at a time.

    clock_s: seconds that only rise.
    """

    def __init__(
        self,
        captures: StoredCaptures,
        load_file: Callable[[Path], HeapDump] = load,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._captures = captures
        self._load = load_file
        self._clock_s = clock_s
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        # Held while a dump is loaded: two that load at once would need the memory of both.
        self._loading = threading.Lock()
        self._loads = 0

    def find(self, selector: heapdump_pb2.DumpSelector) -> Found:
        """The dump that is meant. Raises NotFound, BadRequest, and HeapDumpError for a file that is none."""
        return self.find_by_id(self._id_of(selector))

    def find_by_id(self, capture_id: str) -> Found:
        """As find(), by a whole id."""
        # Asked every time: a capture that was deleted is not answered from what is left of it here.
        path = self._captures.path_of(capture_id)
        with self._loading:
            self._forget_idle()
            kept = self._kept.get(capture_id)
            if kept is None:
                dump = self._load(path)
                self._loads += 1
                summary = _known(dump.summary(), self._captures.get(capture_id))
                kept = self._kept[capture_id] = _Kept(dump, summary, 0.0)
            kept.asked_at_s = self._clock_s()
            self._kept.move_to_end(capture_id)
            while len(self._kept) > 1 and (len(self._kept) > DUMPS_MAX or self._objects() > OBJECTS_MAX):
                self._kept.popitem(last=False)
            return Found(capture_id, kept.dump, kept.summary)

    def of_service(self, service: str, instance_id: str = "") -> list[CaptureRow]:
        """The heap dumps of a service, newest first; only of processes whose id begins so."""
        return [
            row
            for row in self._captures.list(service, LISTED_MAX)
            if row.kind == KIND and row.has_file and row.instance_id.startswith(instance_id)
        ]

    def is_quick(self, capture_id: str, bytes_max: int) -> bool:
        """Whether a dump is loaded already, or its file no larger than that. Raises NotFound."""
        return capture_id in self._kept or self._captures.path_of(capture_id).stat().st_size <= bytes_max

    def let_idle_go(self) -> None:
        """Lets go what nobody has asked about for IDLE_S. find() does so too, but may never be called again."""
        with self._loading:
            self._forget_idle()

    def statistics(self) -> dict[str, float]:
        """See docs/status.md."""
        return {
            "heap_dumps_loaded": float(len(self._kept)),
            "heap_dumps_objects": float(self._objects()),
            "heap_dumps_objects_max": float(OBJECTS_MAX),
            "heap_dumps_loads_total": float(self._loads),
        }

    def _id_of(self, selector: heapdump_pb2.DumpSelector) -> str:
        if selector.capture_id:
            row = self._captures.get(selector.capture_id)
            if row.kind != KIND:
                raise BadRequest(f"Capture {row.id} is no heap dump but a {row.kind}.")
            return row.id
        if not selector.service:
            raise BadRequest("No dump is named; give the id of one, or a service to take its newest.")
        found = self.of_service(selector.service, selector.instance_id)
        if not found:
            narrowed = f" by process {selector.instance_id}" if selector.instance_id else ""
            raise NotFound(
                f"There is no heap dump of {selector.service}{narrowed}; take one with "
                f"`glassbottom dump heap --service {selector.service}`."
            )
        return found[0].id

    def _objects(self) -> int:
        return sum(each.summary.objects for each in self._kept.values())

    def _forget_idle(self) -> None:
        now_s = self._clock_s()
        for capture_id in [name for name, kept in self._kept.items() if now_s - kept.asked_at_s > IDLE_S]:
            del self._kept[capture_id]


def _known(summary: HeapSummary, row: CaptureRow) -> HeapSummary:
    """With whose it is, and how long the process stood still: the copy that writes a dump knows neither."""
    pause_ns = summary.pause_ns or round(row.numbers.get(PAUSE, 0.0) * 1e6)
    return replace(summary, service=row.service, instance_id=row.instance_id, pause_ns=pause_ns)
