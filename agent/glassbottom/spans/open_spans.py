"""Spans that have begun and not ended, and those among them that never will.

A record per open span, by span id, that refers to the span only weakly: a span that the application has lost is found
by its dead reference at the next reading, and one that it holds for ever by its age. Where spans of such a name are
started is looked up for the next ones only, so that ordinary spans pay nothing for it.

Fields of a record (spans.c): span, a weak reference, None for what is no span of OpenTelemetry's. above: the record it
is part of, in this process. entry: the outermost of these, None for that itself. covered_ns: time in which at least one
child ran; since_ns: since when children run now, so many. token: takes back what its start has set in the context.
place: where it was started, if its name is suspicious. Times are nanoseconds since the Unix epoch.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from itertools import islice
from types import CodeType, FrameType
from typing import Any

from ..probes.observations import Observation

try:
    from .._native import SpanRecord as SpanRecord
except ImportError:  # then there is nothing to record into, and nobody listens; but modules must be importable

    class SpanRecord:  # type: ignore[no-redef]
        """In its place."""


OPEN_MAX = 10_000
SUSPICIOUS_MAX = 64
TOLD_MAX = 20
"""Names told of in one reading: those with most open spans."""
CALM_READINGS = 10
"""A name is trusted again after so many readings without one."""
PLACES_PER_READING_MAX = 1000
FRAMES_MAX = 32
BETWEEN = ("/opentelemetry/", "/glassbottom/", "/contextlib.py")
"""Files that lie between the application and the start of a span."""

Place = tuple[CodeType, int]


def named(name: str) -> SpanRecord:
    """An entry of which only the name is known."""
    entry = SpanRecord()
    entry.name = name
    return entry


class Suspect:
    """A name of which spans have not ended."""

    def __init__(self) -> None:
        self.place: Place | None = None
        self.calm = 0


class OpenSpans:
    """The records, and what is wrong with them. `records` is written where spans start and end, in any thread."""

    def __init__(self, open_s: float, observe: Callable[[Observation], None]) -> None:
        self.records: dict[int, SpanRecord] = {}
        self.suspects: dict[str, Suspect] = {}
        self.dropped = 0
        self.never_ended = 0
        self._open_ns = int(open_s * 1e9)
        self._observe = observe
        self._places_left = PLACES_PER_READING_MAX

    def make_room(self) -> None:
        """Forgets the oldest: what has been open longest is what never ends."""
        for span_id in list(islice(self.records, OPEN_MAX // 10)):
            record = self.records.pop(span_id, None)
            if record is not None:
                self.dropped += 1
                self._close(record)

    def place(self, name: str) -> Place | None:
        """Where the application starts a span now, if its name is suspicious."""
        suspect = self.suspects.get(name)
        if suspect is None or self._places_left <= 0:
            return None
        self._places_left -= 1
        suspect.place = _caller(sys._getframe(1)) or suspect.place
        return suspect.place

    def read(self, now_ns: int) -> None:
        """Looks at all of them and tells what has not ended. In the agent's thread."""
        self._places_left = PLACES_PER_READING_MAX
        late: dict[str, list[SpanRecord]] = {}
        lost: Counter[str] = Counter()
        for span_id, record in self.records.copy().items():  # copied in one step, also beside a collection
            span = record.span() if record.span is not None else None
            if span is None:
                # Its end may be running this moment, and then takes the record away itself.
                if self.records.pop(span_id, None) is None:
                    continue
                lost[record.name] += 1
                self._close(record)
            elif now_ns - record.start_ns <= self._open_ns or _is_meant_to_stay(span):
                continue
            late.setdefault(record.name, []).append(record)
        for name, records in sorted(late.items(), key=lambda item: -len(item[1]))[:TOLD_MAX]:
            self._tell(name, records, lost[name], now_ns)
        for name, suspect in list(self.suspects.items()):
            suspect.calm = 0 if name in late else suspect.calm + 1
            if suspect.calm > CALM_READINGS:
                del self.suspects[name]
        self.never_ended += lost.total()

    def statistics(self) -> dict[str, float]:
        return {
            "spans_open": len(self.records),
            "spans_open_max": OPEN_MAX,
            "spans_open_dropped_total": self.dropped,
            "spans_lost_total": self.never_ended,
        }

    def _tell(self, name: str, records: list[SpanRecord], lost: int, now_ns: int) -> None:
        suspect = self.suspects.get(name)
        if suspect is None and len(self.suspects) < SUSPICIOUS_MAX:
            suspect = self.suspects[name] = Suspect()
        places = Counter(record.place for record in records if record.place is not None)
        place = places.most_common(1)[0][0] if places else suspect.place if suspect is not None else None
        self._observe(
            Observation(
                at_ns=now_ns,
                kind="span.never_ended",
                name=name,
                value=max(0, now_ns - min(record.start_ns for record in records)) / 1e9,
                count=len(records),
                place=None if place is None else (place[0].co_qualname, place[0].co_filename, place[1]),
                attributes={"lost": str(lost)} if lost else {},
            )
        )

    def _close(self, record: SpanRecord) -> None:
        """A child that is gone keeps its parent waiting no longer, and what is below it does not keep the parent."""
        above = record.above
        if above is not None and above.children > 0:
            above.children -= 1
        record.above = None


def _caller(frame: FrameType | None) -> Place | None:
    """The first frame of the application's."""
    for _ in range(FRAMES_MAX):
        if frame is None:
            return None
        if not any(part in frame.f_code.co_filename for part in BETWEEN):
            return frame.f_code, frame.f_lineno
        frame = frame.f_back
    return None


def _is_meant_to_stay(span: Any) -> bool:
    """Whether it is a WebSocket connection, which lasts as long as its client likes."""
    attributes = span._attributes or {}
    return (attributes.get("url.scheme") or attributes.get("http.scheme")) in ("ws", "wss")
