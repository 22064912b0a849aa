"""What databases and caches said in the last hour, one reading a minute: the part of history nobody else keeps.

A capture asks a database how it is now; how it was before the incident can only be known by having asked. One thread
asks each configured source once a minute with one cheap query, and keeps sixty readings. A source that does not answer
costs its own readings and nothing else.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

EVERY_S = 60.0
READINGS_MAX = 61
"""An hour with both its ends."""
SOURCES_MAX = 100
NAMES_MAX = 32

CONNECTIONS = "glassbottom.db.connections"
CONNECTIONS_MAX = "glassbottom.db.connections_max"
HIT_RATIO = "glassbottom.db.cache_hit_ratio"
UNITS = {CONNECTIONS: "{connection}", CONNECTIONS_MAX: "{connection}", HIT_RATIO: "1"}
"""What every source should tell as far as it has it; others are kept under the names they come with."""

Probe = Callable[[], Mapping[str, float]]
"""One cheap query with timeouts of its own; what it raises counts as an error of the source."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """What a source said. at_ns: Unix epoch."""

    at_ns: int
    values: Mapping[str, float]


@dataclass
class _Source:
    probe: Probe
    readings: deque[Reading]
    failing: str = ""
    counts: dict[str, int] = field(default_factory=lambda: {"polls": 0, "errors": 0})


class History:
    """Any thread may read; one of its own asks. Of more than SOURCES_MAX sources the rest is not asked, and counted."""

    def __init__(
        self,
        probes: Mapping[str, Probe],
        *,
        every_s: float = EVERY_S,
        clock_ns: Callable[[], int] = time.time_ns,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        kept = dict(list(probes.items())[:SOURCES_MAX])
        self._sources = {name: _Source(probe, deque(maxlen=READINGS_MAX)) for name, probe in kept.items()}
        self._left_out = len(probes) - len(kept)
        self._every_s = every_s
        self._clock_ns = clock_ns
        self._monotonic_s = monotonic_s
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._missed = 0
        self._names_dropped = 0

    def start(self) -> None:
        """Asks at once, and every minute from then on; nothing without sources."""
        if self._sources and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="glassbottom-history", daemon=True)
            self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Asks no more. A probe that is under way may outlast it by its own timeout."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def poll(self) -> None:
        """Asks every source once, one after the other."""
        for name, source in self._sources.items():
            if self._stopping.is_set():
                return
            self._ask(name, source)

    def readings(self, source: str) -> Sequence[Reading]:
        """What is kept of one, by time; empty for one that is not asked."""
        with self._lock:
            known = self._sources.get(source)
            return () if known is None else tuple(known.readings)

    def problems(self) -> Mapping[str, str]:
        """Sources whose last query failed, with a sentence."""
        with self._lock:
            return {name: source.failing for name, source in self._sources.items() if source.failing}

    def statistics(self) -> dict[str, float]:
        """Counters and gauges by name."""
        with self._lock:
            every = list(self._sources.values())
            return {
                "history_sources": float(len(every)),
                "history_sources_left_out": float(self._left_out),
                "history_readings": float(sum(len(one.readings) for one in every)),
                "history_polls_total": float(sum(one.counts["polls"] for one in every)),
                "history_errors_total": float(sum(one.counts["errors"] for one in every)),
                "history_minutes_missed_total": float(self._missed),
                "history_names_dropped_total": float(self._names_dropped),
            }

    def _run(self) -> None:
        due_s = self._monotonic_s()
        while not self._stopping.wait(max(0.0, due_s - self._monotonic_s())):
            self.poll()
            due_s += self._every_s
            # Slow sources must not be asked the faster for it: what was missed is counted and left out.
            late = math.floor((self._monotonic_s() - due_s) / self._every_s) + 1
            if late > 0:
                due_s += late * self._every_s
                with self._lock:
                    self._missed += late

    def _ask(self, name: str, source: _Source) -> None:
        try:
            told = {str(key): float(value) for key, value in source.probe().items()}
            failing = ""
        except Exception as error:  # noqa: BLE001 - a source that fails must not end the others' history
            told, failing = {}, f"{type(error).__name__}: {error}"
            if not source.failing:
                # Once for each time it begins to fail, not once a minute.
                _log.warning("the history of %s has a gap: its probe failed with %s", name, type(error).__name__)
        finite = {key: value for key, value in told.items() if math.isfinite(value)}
        kept = dict(sorted(finite.items())[:NAMES_MAX])
        with self._lock:
            source.counts["polls"] += 1
            source.counts["errors"] += bool(failing)
            source.failing = failing
            self._names_dropped += len(finite) - len(kept)
            if kept:
                source.readings.append(Reading(self._clock_ns(), kept))
