"""Puts everything that watches requests and spans in its place, and takes it away again."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .. import _labels
from .._clock import Clock
from .._config import SpansConfig
from .._guard import Guard
from ..probes import ProbeState
from ..probes.observations import Observation
from ..probes.operations import Recorder
from . import debug, frameworks, http, imports, providers
from . import ledger as ledgers
from .ledger import Ledger
from .open_spans import OpenSpans

HOT = ("spans.start", "spans.end", "spans.request")
"""Parts that run in the application's way."""


class SpansProbe:
    """start() may be called before or after the application imports what is watched."""

    name = "spans"

    def __init__(
        self,
        config: SpansConfig,
        clock: Clock,
        guard: Guard,
        recorder: Recorder,
        observe: Callable[[Observation], None],
    ) -> None:
        self.interval_s = config.interval_s
        self.ledger = Ledger(config, clock, guard, recorder, observe)
        self.open_spans = OpenSpans(config.open_s, observe)
        self._config = config
        self._guard = guard
        self._clock = clock
        self._reason = ""

    def start(self) -> None:
        """In a forked child it finds everything in its place, and only the ledger changes."""
        if self.ledger.recorder.table is None:
            self._reason = "Without the native part of glassbottom there is nothing to record spans into."
            return
        _labels.start()
        if self._config.debug:
            debug.begin()
        imports.forget_all()
        ledgers.current = self.ledger
        http.attach(self.ledger)
        providers.install(self.ledger, self.open_spans)
        if self._config.http:
            frameworks.install()

    def stop(self, timeout_s: float) -> None:  # noqa: ARG002 - nothing is waited for
        """Everything is as it was; the ledger keeps what it has."""
        if ledgers.current is not self.ledger:
            return
        ledgers.current = None
        http.detach()
        imports.forget_all()
        frameworks.uninstall()
        providers.uninstall()
        _labels.stop()

    def welcomed(self, store_id: str, store_changed: bool) -> None:
        """Nothing is told that would need definitions."""

    def read(self) -> None:
        if any(self._guard.is_disabled(name) for name in HOT):
            # It runs at every request: what fails each time is not to be called again.
            self.stop(0.0)
        self.ledger.read()
        self.open_spans.read(self._clock.time_ns())

    def state(self) -> ProbeState:
        """Refused without the native part; else running, with a reason where something was left alone."""
        if self._reason:
            return ProbeState("refused", self._reason)
        return ProbeState("running", " ".join([*providers.left_alone(), *frameworks.left_alone()]))

    def statistics(self) -> Mapping[str, float]:
        left_alone = len(providers.left_alone()) + len(frameworks.left_alone())
        return {
            **self.ledger.statistics(),
            **self.open_spans.statistics(),
            **_labels.statistics(),
            "spans_left_alone": left_alone,
        }
