"""SpansProbe without an agent: what it has counted and told, as plain values; and the fixtures of whoever needs one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from glassbottom import _labels, _native
from glassbottom._clock import Clock, SystemClock
from glassbottom._config import SpansConfig
from glassbottom._guard import Guard
from glassbottom.probes.observations import Observation
from glassbottom.probes.operations import Key, Recorder
from glassbottom.spans.http import current_request
from glassbottom.spans.probe import SpansProbe
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.util._once import Once


class Watched:
    """A running probe. rows(): what ended since the last call. told: observations, as read() makes them."""

    def __init__(self, clock: Clock | None = None, **config: Any) -> None:
        self.told: list[Observation] = []
        self.guard = Guard()
        self.recorder = Recorder(_native.OperationTable(1024))
        self.probe = SpansProbe(
            SpansConfig(**config), clock or SystemClock(), self.guard, self.recorder, self.told.append
        )

    def rows(self) -> dict[Key, Any]:
        """Key to OperationRow."""
        return dict(self.recorder.take())

    def named(self) -> dict[str, Any]:
        """Name to OperationRow; where several share a name, the last."""
        return {key.name: row for key, row in self.rows().items()}

    def read(self, kind: str = "") -> list[Observation]:
        """Makes a reading; what it told, of that kind."""
        self.told.clear()
        self.probe.read()
        return [seen for seen in self.told if seen.kind.startswith(kind)]

    def unharmed(self) -> None:
        """Nothing of ours failed meanwhile, and every framework was as we know it."""
        assert self.guard.errors == 0
        assert self.probe.state().reason == ""


@contextlib.contextmanager
def watched(clock: Clock | None = None, **config: Any) -> Iterator[Watched]:
    """Started, and stopped at the end."""
    found = Watched(clock, **config)
    found.probe.start()
    try:
        yield found
        found.unharmed()
    finally:
        found.probe.stop(1.0)
        # What a test has left open has left its mark in this context.
        _labels.label.set(0)
        current_request.set(None)


@pytest.fixture
def seen() -> Iterator[Watched]:
    """A probe with the limits it has by itself."""
    with watched() as found:
        yield found


@pytest.fixture
def tracer(seen: Watched) -> trace.Tracer:
    """Of a provider whose spans the probe sees."""
    return TracerProvider(shutdown_on_exit=False).get_tracer("tests")


def forget_provider(patch: pytest.MonkeyPatch) -> None:
    """As in a process in which nobody has set a TracerProvider."""
    patch.setattr(trace, "_TRACER_PROVIDER", None)
    patch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())
