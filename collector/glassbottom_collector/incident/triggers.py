"""What sets a capture off although nobody typed it: a confirmed leak, requests that are too slow or fail, a signal.

A thread looks at the verdicts of every connected service now and then, one service after the other, and only when the
configuration asks for it. Each of these captures is rare by design (Incidents.capture_by_itself), never asks the
database that takes writes, and says in its record what it was for.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..leaks.detector import find_leaks
from ..model.incident import LEAK, SIGNAL, SLO
from ..model.leak import Verdict
from ..model.live import InstanceLive
from ..model.process import Span
from ..model.timing import OperationKind
from ..storage import Reader
from ..timing.histograms import merged, quantile
from .capture import Incidents

SECONDS = 3600.0
SLO_SECONDS = 300.0
REQUESTS_MIN = 100
"""Below that a quantile of five minutes is noise."""
SERVICES_MAX = 200
CALLS_WAITING_MAX = 16
ENTRY_KINDS = ("SERVER", "CONSUMER")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Conditions:
    """When. p95_ms, error_ratio: of requests over five minutes; 0 for never."""

    on_leak: bool = False
    p95_ms: float = 0.0
    error_ratio: float = 0.0
    on_signal: bool = True
    check_every_s: float = 300.0

    @property
    def looks(self) -> bool:
        """Whether anything must be looked at now and then."""
        return self.on_leak or self.p95_ms > 0 or self.error_ratio > 0


@dataclass(frozen=True)
class Breach:
    """Why a service is captured: the trigger, and an issue's name made from it."""

    trigger: str
    issue: str


def breaches(reader: Reader, service: str, now_ns: int, conditions: Conditions) -> list[Breach]:
    """What is wrong with a service now, the gravest first."""
    found: list[Breach] = []
    if conditions.p95_ms > 0 or conditions.error_ratio > 0:
        found += _of_requests(reader, service, now_ns, conditions)
    if conditions.on_leak:
        report = find_leaks(reader, service, Span(now_ns - round(SECONDS * 1e9), now_ns), limit=1)
        found += [Breach(LEAK, f"leak-{service}") for one in report.findings if one.verdict is Verdict.LEAK]
    return found


def _of_requests(reader: Reader, service: str, now_ns: int, conditions: Conditions) -> list[Breach]:
    within = Span(now_ns - round(SLO_SECONDS * 1e9), now_ns)
    rows = [
        row
        for each in reader.operation_totals(service, within).values()
        for row in each.rows
        if row.kind is OperationKind.SPAN and row.span_kind in ENTRY_KINDS
    ]
    requests = sum(row.duration.count for row in rows)
    if requests < REQUESTS_MIN:
        return []
    failed = sum(row.duration.count for row in rows if row.status == "error")
    if 0 < conditions.error_ratio < failed / requests:
        return [Breach(SLO, f"errors-{service}")]
    if 0 < conditions.p95_ms < 1000 * quantile(merged([row.duration for row in rows]), 0.95):
        return [Breach(SLO, f"slow-{service}")]
    return []


class Triggers:
    """Owns one thread, which also carries out what signals ask for. start() and stop() from one thread. live: what is
    connected now, from any thread."""

    def __init__(
        self,
        incidents: Incidents,
        reader: Reader,
        live: Callable[[], Sequence[InstanceLive]],
        conditions: Conditions,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._incidents = incidents
        self._reader = reader
        self._live = live
        self._conditions = conditions
        self._clock_ns = clock_ns
        self._wake = threading.Condition()
        self._calls: list[tuple[str, str, str]] = []
        self._stopping = False
        self._counts = {
            "incident_checks_total": 0,
            "incident_checks_failed_total": 0,
            "incident_calls_dropped_total": 0,
        }
        self._thread = threading.Thread(target=self._run, name="glassbottom-triggers", daemon=True)

    def start(self) -> None:
        """Begins to look."""
        self._thread.start()

    def stop(self) -> None:
        """Ends it; a capture under way goes on in its thread until the process ends."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()

    def call(self, service: str, instance_id: str, reason: str) -> None:
        """Somebody at a process asks for a capture. Never blocks."""
        if not self._conditions.on_signal:
            return
        with self._wake:
            if len(self._calls) >= CALLS_WAITING_MAX:
                self._counts["incident_calls_dropped_total"] += 1
                return
            self._calls.append((service, instance_id, reason))
            self._wake.notify_all()

    def statistics(self) -> dict[str, float]:
        """Counters by name."""
        return {name: float(value) for name, value in self._counts.items()}

    def _run(self) -> None:
        next_s = time.monotonic() + self._conditions.check_every_s
        while True:
            with self._wake:
                while not self._stopping and not self._calls:
                    left_s = next_s - time.monotonic() if self._conditions.looks else None
                    if left_s is not None and left_s <= 0:
                        break
                    self._wake.wait(left_s)
                if self._stopping:
                    return
                calls, self._calls = self._calls, []
            for service, instance_id, reason in calls:
                self._capture(service, Breach(SIGNAL, f"signal-{service}"), f"{reason} at process {instance_id[:8]}")
            if self._conditions.looks and time.monotonic() >= next_s:
                self.check()
                next_s = time.monotonic() + self._conditions.check_every_s

    def check(self) -> None:
        """Looks at every connected service once."""
        for service in self._services():
            self._counts["incident_checks_total"] += 1
            try:
                found = breaches(self._reader, service, self._clock_ns(), self._conditions)
            except Exception:  # noqa: BLE001 - one service whose data cannot be judged must not hide the others
                self._counts["incident_checks_failed_total"] += 1
                _log.exception("the verdicts of %s could not be looked at", service)
                continue
            if found:
                self._capture(service, found[0], "the collector")

    def _capture(self, service: str, breach: Breach, asked_by: str) -> None:
        try:
            subject = self._incidents.subject(
                breach.issue[:100], service, seconds=SECONDS, asked_by=asked_by, trigger=breach.trigger
            )
            self._incidents.capture_by_itself(subject)
        except Exception:  # noqa: BLE001 - the next one may go well
            _log.exception("the incident of %s could not be captured", service)

    def _services(self) -> Sequence[str]:
        return sorted({one.process.service for one in self._live() if one.connected})[:SERVICES_MAX]
