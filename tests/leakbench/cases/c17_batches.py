"""Rows gathered and written away by the thousand: a sawtooth. Must not be called a leak."""

from __future__ import annotations

from tests.leakbench.case import NONE, Case, Operation

CASE = Case(id="C17", title="batches of a thousand (sawtooth)", kinds=(NONE,), per_second=100)


def setup(fixed: bool) -> Operation:
    batch: list[dict[str, object]] = []

    def operation(number: int) -> int:
        batch.append({"number": number, "text": f"row {number}"})
        if len(batch) == 1000:
            batch.clear()
        return len(batch)

    return operation
