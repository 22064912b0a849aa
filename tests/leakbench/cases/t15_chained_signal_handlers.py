"""Every request installs a signal handler that calls the one before: a chain that only grows.

Mended: installed once.
"""

from __future__ import annotations

import signal
from typing import Any

from tests.leakbench.case import Case, Operation, kept

CASE = Case(
    id="T15",
    title="re-registered signal handlers",
    sites=kept(__file__),
    holder="previous",
    bytes_per_operation=600,
)


class Handler:
    """Notes what was under way, then does what was done before."""

    def __init__(self, previous: Any, number: int) -> None:
        self.previous = previous
        self.under_way = [number * 1000 + each for each in range(10)]  # kept

    def __call__(self, number: int, frame: Any) -> None:
        if callable(self.previous):
            self.previous(number, frame)


def setup(fixed: bool) -> Operation:
    first = signal.getsignal(signal.SIGUSR2)

    def operation(number: int) -> None:
        previous = first if fixed else signal.getsignal(signal.SIGUSR2)
        signal.signal(signal.SIGUSR2, Handler(previous, number))  # kept

    return operation
