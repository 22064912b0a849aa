"""What all subjects look at: one service over one range, each kind of data read once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from ..leaks.wording import percent_text, time_text
from ..model.heap import F64, I64
from ..model.process import ProcessSeen, Span
from ..model.timing import Observation, OperationKind
from ..storage import Reader
from ..timing.places import Places, of_observations
from .growth import READINGS_MIN, WARM_UP_SHARE


class Window:
    """Data of a service in a range, of one process when instance_id is given. Raises what the reader raises."""

    def __init__(self, reader: Reader, service: str, within: Span, instance_id: str | None = None) -> None:
        self.reader = reader
        self.service = service
        self.within = within
        self.instance_id = instance_id

    @cached_property
    def processes(self) -> Mapping[str, ProcessSeen]:
        """Processes with data in the range, by instance id."""
        return {
            each.process.instance_id: each
            for each in self.reader.processes(self.service, self.within)
            if self.instance_id in (None, each.process.instance_id)
        }

    @cached_property
    def observations(self) -> Mapping[str, Sequence[Observation]]:
        """All of them by kind, each by time."""
        found: dict[str, list[Observation]] = {}
        for each in self.reader.observations(self.service, self.within, (), self.instance_id):
            found.setdefault(each.kind, []).append(each)
        return found

    @cached_property
    def places(self) -> Places:
        """Where the observations were made."""
        return of_observations(self.reader, (each for mine in self.observations.values() for each in mine))

    @property
    def covered(self) -> Span | None:
        """From the first data in the range to the last."""
        if not self.processes:
            return None
        first = max(min(each.first_seen_ns for each in self.processes.values()), self.within.from_ns)
        last = min(max(each.last_seen_ns for each in self.processes.values()) + 1, self.within.to_ns)
        return Span(first, last) if last > first else None

    def started_ns(self, instance_id: str) -> int:
        """When a process began; 0 when unknown."""
        seen = self.processes.get(instance_id)
        return 0 if seen is None else seen.process.started_at_ns

    def seconds(self, instance_ids: Sequence[str]) -> float:
        """How long these processes were seen in the range, together."""
        total = 0
        for each in instance_ids:
            seen = self.processes.get(each)
            if seen is not None:
                first, last = max(seen.first_seen_ns, self.within.from_ns), min(seen.last_seen_ns, self.within.to_ns)
                total += max(last - first, 0)
        return total / 1e9

    def load(self, instance_id: str, at_ns: I64) -> F64 | None:
        """Requests that ended per second around each moment, (T,); None when there is nothing to tell it from.

        Entry spans are requests; without any, coroutines that ended stand for them.
        """
        if not len(at_ns):
            return None
        for kind in (OperationKind.SPAN, OperationKind.COROUTINE):
            told = self.reader.ended(self.service, self.within, kind, instance_id).get(instance_id)
            if told is None:
                continue
            seconds = (told.to_ns - told.from_ns) / 1e9
            whole = np.flatnonzero((seconds > 0) & (told.count.sum() > 0))
            if len(whole):
                middle = (told.from_ns[whole] + told.to_ns[whole]) / 2
                found: F64 = np.interp(at_ns.astype(float), middle, told.count[whole] / seconds[whole])
                return found
        return None


def too_short(question: str, lives: int, most: int) -> str:
    """The note of a subject whose processes gave too few readings; most: the most any of them gave."""
    processes = "the only process" if lives == 1 else f"any of {lives} processes"
    return (
        f"Whether {question} cannot be told: {most} reading{'' if most == 1 else 's'} of {processes} after the "
        f"first {percent_text(WARM_UP_SHARE)} of its life, {READINGS_MIN} are needed."
    )


def span_of(first_ns: int, last_ns: int) -> Span:
    """First and last time as a half-open range."""
    return Span(first_ns, max(last_ns, first_ns) + 1)


def share_text(part_s: float, whole_s: float) -> str:
    """Such as "1.2 s of 10 min (0.2 %)"."""
    share = part_s / whole_s if whole_s > 0 else 0.0
    return f"{time_text(part_s)} of {time_text(whole_s)} ({100 * share:.2g} %)"
