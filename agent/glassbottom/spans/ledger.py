"""What has been timed: durations by name, and the few spans that are worth telling one by one.

Durations go into histograms of the core's as spans end. A span is told by itself when it took longer than the
configured limit, or longer than 99 of 100 of its name do and at least a tenth of the limit. All but read() is called
in the application's threads, and takes no lock but for the first of each name.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from typing import TYPE_CHECKING, Any

from .._clock import Clock
from .._config import SpansConfig
from .._guard import Guard
from ..probes.observations import Observation
from ..probes.operations import OTHER, SPAN, Key, Recorder

try:
    from .._native import SpanName
except ImportError:  # then there is nothing to record into, and nobody listens; but modules must be importable

    class SpanName:  # type: ignore[no-redef]
        """In its place."""


if TYPE_CHECKING:
    from .._native import RequestDesk

NAMES_MAX = 1000
SLOTS_PER_NAME_MAX = 256
TARGETS_MAX = 100
OTHER_TARGET = "<more targets than the agent keeps>"
EXEMPLARS_MAX = 20
"""Told of one interval: the slowest."""
EXEMPLARS_PER_NAME_MAX = 4
"""Held of one name, so that one slow route does not hide the others."""
COUNT_MIN = 100
"""Spans of a name before its 99th percentile means anything."""
COUNT_MAX = 4000
"""Beyond it, what was counted is halved: the percentile follows the present."""
QUARTERS_PER_OCTAVE = 4

Describe = Callable[[], Mapping[str, str]]


class Name(SpanName):
    """What is known of one span name, for spans.c to read: spans faster than floor_ns are only counted, those slower
    than limit_ns told. above: of those beyond the floor, how many by quarter of an octave.
    """

    def __init__(self, _name: str, _slow_ns: int) -> None:
        self.above: dict[int, int] = {}
        self.exemplars: list[tuple[int, int, Observation]] = []


class Ledger:
    """One for each life of the agent; see `current`."""

    def __init__(
        self,
        config: SpansConfig,
        clock: Clock,
        guard: Guard,
        recorder: Recorder,
        observe: Callable[[Observation], None],
    ) -> None:
        self.config = config
        self.clock = clock
        self.guard = guard
        self.recorder = recorder
        self.observe = observe
        self.names: dict[str, Name] = {}
        self.slow_ns = int(config.slow_ms * 1e6)
        self._counted = 0
        self.desk: RequestDesk | None = None
        self.exemplars_dropped = 0
        self._other = Name(OTHER, self.slow_ns)
        self._touched: set[Name] = set()
        self._targets: set[str] = set()
        self._order = count()

    def name(self, name: str) -> Name:
        """What is known of a name; beyond NAMES_MAX that of all others."""
        found = self.names.get(name)
        if found is not None:
            return found
        if len(self.names) >= NAMES_MAX:
            return self._other
        return self.names.setdefault(name, Name(name, self.slow_ns))

    def slot(self, name: Name, kind: str, status: str, route: str, target: str) -> int:
        """The histogram for a span of that name; as Recorder.slot."""
        key = (kind, status, route, target)
        found = name.slots.get(key)
        if found is None:
            found = self.recorder.slot(
                Key(SPAN, name.name, span_kind=kind, status=status, route=route, target=self._target(target))
            )
            if len(name.slots) < SLOTS_PER_NAME_MAX:
                name.slots[key] = found
        return found

    def slow(
        self,
        name: Name,
        duration_ns: int,
        own_ns: int,
        status: str,
        route: str,
        describe: Describe,
    ) -> None:
        """Of every span that took longer than name.floor_ns. describe: tells its attributes, if they are wanted."""
        quarter = _quarter(duration_ns)
        name.above[quarter] = name.above.get(quarter, 0) + 1
        self._touched.add(name)
        if duration_ns <= name.limit_ns:
            return
        held = name.exemplars
        if len(held) >= EXEMPLARS_PER_NAME_MAX and duration_ns <= held[0][0]:
            self.exemplars_dropped += 1
            return
        attributes = {"status": status, "self_s": f"{own_ns / 1e9:.6f}", **describe()}
        if route:
            attributes["route"] = route
        seen = Observation(
            at_ns=self.clock.time_ns(),
            kind="span.slow",
            name=name.name,
            value=duration_ns / 1e9,
            label=route,
            attributes=attributes,
        )
        heapq.heappush(held, (duration_ns, next(self._order), seen))
        if len(held) > EXEMPLARS_PER_NAME_MAX:
            heapq.heappop(held)
            self.exemplars_dropped += 1

    def allowed(self, attributes: Mapping[str, Any]) -> dict[str, str]:
        """Those that may leave the process."""
        return {name: str(attributes[name]) for name in self.config.attributes if name in attributes}

    def read(self) -> None:
        """Tells the slowest spans, and learns anew what is slow for each name. In the agent's thread."""
        found: list[tuple[int, int, Observation]] = []
        touched, self._touched = self._touched, set()
        for name in touched:
            # Taken away whole: whoever is adding to it must not find it empty in between.
            held, name.exemplars = name.exemplars, []
            found += held
        told = heapq.nlargest(EXEMPLARS_MAX, found)
        self.exemplars_dropped += len(found) - len(told)
        for _, _, seen in told:
            self.observe(seen)
        for name in self._all():
            self._learn(name)

    def statistics(self) -> dict[str, float]:
        return {
            "spans_total": self._counted + sum(name.count for name in self._all()),
            "requests_total": self.desk.requests if self.desk is not None else 0,
            "span_names": len(self.names),
            "span_names_max": NAMES_MAX,
            "exemplars_dropped_total": self.exemplars_dropped,
        }

    def _all(self) -> list[Name]:
        return [*self.names.values(), self._other]

    def _learn(self, name: Name) -> None:
        above = dict(name.above)
        if name.count >= COUNT_MIN:
            name.limit_ns = min(self.slow_ns, max(name.floor_ns, _beyond_one_in_hundred(above.items(), name.count)))
        if name.count >= COUNT_MAX:
            half = name.count // 2
            name.count -= half
            self._counted += half
            name.above = {quarter: held // 2 for quarter, held in above.items() if held > 1}

    def _target(self, target: str) -> str:
        if not target or target in self._targets:
            return target
        if len(self._targets) >= TARGETS_MAX:
            return OTHER_TARGET
        self._targets.add(target)
        return target


current: Ledger | None = None
"""The one of this process's agent. What is wrapped around the application asks here each time, so that it outlives any
agent and passes calls on untouched where there is none."""


def _quarter(duration_ns: int) -> int:
    """Quarters of an octave, linear within it: near enough to a logarithm, and exact integers."""
    octave = max(duration_ns.bit_length() - 1, 2)
    return octave * QUARTERS_PER_OCTAVE + ((duration_ns >> (octave - 2)) & 3)


def _upper_bound_ns(quarter: int) -> int:
    octave, rest = divmod(quarter, QUARTERS_PER_OCTAVE)
    return (5 + rest) << (octave - 2)


def _beyond_one_in_hundred(above: Iterable[tuple[int, int]], total: int) -> int:
    """The 99th percentile in ns, rounded up to the quarter it lies in; 0 when it is below all of them."""
    left = total // 100
    for quarter, held in sorted(above, reverse=True):
        if held > left:
            return _upper_bound_ns(quarter)
        left -= held
    return 0
