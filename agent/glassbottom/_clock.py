"""Time as an argument, so that a test can let an hour pass. See testing.FakeClock for the other implementation."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Reads time; never waits."""

    def monotonic_s(self) -> float:
        """Seconds since some fixed moment; never goes back."""
        ...

    def time_ns(self) -> int:
        """Nanoseconds since the Unix epoch."""
        ...


class SystemClock:
    """The machine's clocks."""

    def monotonic_s(self) -> float:
        return time.monotonic()

    def time_ns(self) -> int:
        return time.time_ns()
