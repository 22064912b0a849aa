"""Captures incidents: one at a time, whoever asks, and not again for the same reason too soon.

A person's command is always tried. What sets a capture off by itself, a verdict or a signal, is held back while the
last one of that service is young, because an incident that lasts would otherwise be captured as long as it does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from ..errors import BadRequest
from ..model.incident import COMMAND, IncidentRow
from .assemble import BUDGET_S, Archive, LeakingError, Outcome, Scan, Subject, assemble, plan
from .bundle import Redactor
from .parts import Collector, Planned
from .store import IncidentStore

PAUSE_S = 3600.0
ISSUE_CHARACTERS_MAX = 100
SERVICES_MAX = 10_000

_log = logging.getLogger(__name__)


class Sources(Protocol):
    """Knows what can be looked at."""

    def collecting(
        self, subject: Subject, *, activity: bool, redactor: Redactor
    ) -> AbstractContextManager[Sequence[Collector]]:
        """Those that look at this subject; connections of theirs end with the block. activity: also the database that
        takes writes, where it is configured."""
        ...

    def examine(self, service: str) -> Sequence[Check]:
        """Whether they would work. May take some seconds a source; changes nothing."""
        ...


@dataclass(frozen=True)
class Check:
    """One thing that was looked at beforehand. state: ok, warning or failed. sentence: what was found, and unless ok
    what to do."""

    source: str
    name: str
    state: str
    sentence: str


class Incidents:
    """Any thread; captures run in the calling one."""

    def __init__(
        self,
        store: IncidentStore,
        sources: Sources,
        make_redactor: Callable[[], Redactor],
        scan: Scan,
        *,
        version: str,
        budget_s: float = BUDGET_S,
        pause_s: float = PAUSE_S,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.store = store
        self._sources = sources
        self._make_redactor = make_redactor
        self._scan = scan
        self._version = version
        self._budget_s = budget_s
        self._pause_s = pause_s
        self._clock_ns = clock_ns
        self._running = threading.Lock()
        self._subject = ""
        self._last_ns: dict[str, int] = {}
        self._counts = {"incidents_captured_total": 0, "incidents_failed_total": 0, "incidents_held_back_total": 0}

    def subject(self, issue: str, service: str, *, seconds: float, asked_by: str, trigger: str = COMMAND) -> Subject:
        """The window that ends now. Raises BadRequest for a name that is none."""
        if not service:
            raise BadRequest("service is empty; name the service to capture.")
        if not issue or len(issue) > ISSUE_CHARACTERS_MAX or not issue.isprintable():
            raise BadRequest(
                f"The issue needs a name of 1 to {ISSUE_CHARACTERS_MAX} printable characters, such as OPS-4711."
            )
        now_ns = self._clock_ns()
        return Subject(issue, service, now_ns - round(seconds * 1e9), now_ns, asked_by, trigger)

    def plan(self, subject: Subject, *, activity: bool, only: Sequence[str] = ()) -> list[tuple[str, list[Planned]]]:
        """What a capture would read, by collector; texts are harmless."""
        redactor = self._make_redactor()
        with self._sources.collecting(subject, activity=activity, redactor=redactor) as collectors:
            found = plan(_chosen(collectors, only))
        return [
            (
                name,
                [Planned(redactor.text(one.what, name), one.node, one.role, one.cost, one.timeout_s) for one in reads],
            )
            for name, reads in found
        ]

    def examine(self, service: str) -> Sequence[Check]:
        """Whether a capture would work."""
        return self._sources.examine(service)

    def capture(
        self,
        subject: Subject,
        *,
        activity: bool = False,
        only: Sequence[str] = (),
        tell: Callable[[Outcome], None] = lambda _outcome: None,
    ) -> IncidentRow:
        """Captures and keeps. An archive that would have leaked is recorded as failed.

        Raises BadRequest while another capture runs or when no collector is left, StorageError when there is no room.
        """
        if not self._running.acquire(blocking=False):
            raise BadRequest(f"A capture of {self._subject} is under way; try again in half a minute.")
        try:
            self._subject = subject.service
            self._remember(subject)
            redactor = self._make_redactor()
            try:
                with self._sources.collecting(subject, activity=activity, redactor=redactor) as found:
                    archive = self._assembled(subject, _chosen(found, only), redactor, only, tell)
            except LeakingError as error:
                self._counts["incidents_failed_total"] += 1
                identity = time.strftime("debug_%Y%m%d_%H%M%S", time.gmtime(subject.to_ns // 10**9))
                return self.store.put_failed(subject, identity, str(error))
            self._counts["incidents_captured_total"] += 1
            return self.store.put(subject, archive)
        finally:
            self._running.release()

    def _assembled(
        self,
        subject: Subject,
        collectors: Sequence[Collector],
        redactor: Redactor,
        only: Sequence[str],
        tell: Callable[[Outcome], None],
    ) -> Archive:
        if not collectors:
            raise BadRequest(f"No collector's name begins with {' or '.join(only)}; --dry-run lists them.")
        return assemble(
            subject, collectors, redactor, self._scan, version=self._version, budget_s=self._budget_s, tell=tell
        )

    def capture_by_itself(self, subject: Subject, *, activity: bool = False) -> IncidentRow | None:
        """As capture(), for what nobody typed: None when the service's last capture is young or another one runs."""
        last_ns = self._last_ns.get(subject.service)
        if last_ns is not None and subject.to_ns - last_ns < self._pause_s * 1e9:
            self._counts["incidents_held_back_total"] += 1
            return None
        try:
            row = self.capture(subject, activity=activity)
        except BadRequest:
            self._counts["incidents_held_back_total"] += 1
            return None
        _log.info("incident %s of %s was captured: %s", row.id, row.service, row.trigger)
        return row

    def statistics(self) -> dict[str, float]:
        """Counters and gauges by name."""
        return {**self.store.statistics(), **{name: float(value) for name, value in self._counts.items()}}

    def _remember(self, subject: Subject) -> None:
        if len(self._last_ns) >= SERVICES_MAX:
            self._last_ns.clear()
        self._last_ns[subject.service] = subject.to_ns


def _chosen(collectors: Sequence[Collector], only: Sequence[str]) -> list[Collector]:
    return [one for one in collectors if not only or any(one.name.startswith(prefix) for prefix in only)]
