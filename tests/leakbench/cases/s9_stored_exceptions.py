"""Exceptions kept for a report: each holds its traceback, that its frames, and those all their locals.

Mended: the report keeps the words.
"""

from __future__ import annotations

from tests.leakbench.case import Case, Operation, kept

CASE = Case(
    id="S9",
    title="stored exceptions hold frames and locals",
    sites=kept(__file__),
    holder="__traceback__",
    bytes_per_operation=2700,
)


def parse(number: int) -> list[int]:
    """Fails with something large in hand."""
    rows = [number * 1000 + each for each in range(60)]  # kept
    if rows:
        raise ValueError("not a row")  # kept
    return rows


def setup(fixed: bool) -> Operation:
    errors: list[BaseException] = []
    words: dict[str, int] = {}

    def operation(number: int) -> None:
        try:
            parse(number)  # kept
        except ValueError as error:
            if fixed:
                words[str(error)] = words.get(str(error), 0) + 1
            else:
                errors.append(error)  # kept

    return operation
