"""A scheduler of retries: closures over the request in a heap, put off for ever because nobody counts the attempts.

Mended: given up after one.
"""

from __future__ import annotations

import functools
import heapq
from collections.abc import Callable

from tests.leakbench.case import Case, Operation, kept

CASE = Case(
    id="T10",
    title="closures in a retry scheduler",
    sites=kept(__file__),
    holder="queue",
    bytes_per_operation=900,
)


class Retries:
    """What failed and is to be done again."""

    def __init__(self, attempts_max: int) -> None:
        self.queue: list[tuple[float, int, Callable[[], bool]]] = []
        self._attempts_max = attempts_max
        self._number = 0

    def later(self, call: Callable[[], bool]) -> None:
        self._number += 1
        heapq.heappush(self.queue, (self._number + 100.0, self._number, call))  # kept

    def turn(self) -> None:
        """Tries the next one."""
        _, number, call = heapq.heappop(self.queue)
        if not call() and self._attempts_max > 1:
            heapq.heappush(self.queue, (number + 100.0 * self._number, number, call))


def send(body: dict[str, object]) -> bool:
    """Always fails."""
    return not body


def setup(fixed: bool) -> Operation:
    retries = Retries(1 if fixed else 1000)

    def operation(number: int) -> None:
        body: dict[str, object] = {"to": f"user {number}", "rows": [number * 1000 + each for each in range(8)]}  # kept
        retries.later(functools.partial(send, body))  # kept
        retries.turn()

    return operation
