"""Generators that are started, suspended and kept in a list: each holds its frame with all its locals.

Mended: closed.
"""

from __future__ import annotations

from collections.abc import Generator

from tests.leakbench.case import Case, Operation, kept

CASE = Case(
    id="T14",
    title="suspended generators kept in a list",
    sites=kept(__file__),
    holder="generator",
    bytes_per_operation=900,
)


def pages(number: int) -> Generator[int, None, None]:
    """Half an answer."""
    rows = [number * 1000 + each for each in range(14)]  # kept
    yield rows[0]
    yield rows[1]


def setup(fixed: bool) -> Operation:
    cursors: list[Generator[int, None, None]] = []

    def operation(number: int) -> int:
        cursor = pages(number)  # kept
        cursors.append(cursor)  # kept
        first = next(cursor)
        if fixed:
            cursors.pop().close()
        return first

    return operation
