"""Ever more requests in flight, each of which ends: what a growing load looks like. Must not be called a leak."""

from __future__ import annotations

import collections

from tests.leakbench.case import NONE, Case, Operation

CASE = Case(id="C16", title="requests in flight grow with the load", kinds=(NONE,))


def setup(fixed: bool) -> Operation:
    in_flight: collections.deque[list[int]] = collections.deque()

    def operation(number: int) -> int:
        in_flight.append([number * 1000 + each for each in range(60)])
        while len(in_flight) > 20 + number // 8:
            in_flight.popleft()
        return len(in_flight)

    return operation
