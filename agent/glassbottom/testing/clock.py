"""A clock that obeys: for tests in which time is an argument."""

from __future__ import annotations


class FakeClock:
    """A Clock that moves only when told."""

    def __init__(self, monotonic_s: float = 1000.0, time_ns: int = 1_700_000_000_000_000_000) -> None:
        self._monotonic_s = monotonic_s
        self._time_ns = time_ns

    def monotonic_s(self) -> float:
        return self._monotonic_s

    def time_ns(self) -> int:
        return self._time_ns

    def advance(self, seconds: float) -> None:
        """Lets time pass, on both clocks."""
        self._monotonic_s += seconds
        self._time_ns += int(seconds * 1e9)
