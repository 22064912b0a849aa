"""A Django signal connected with weak=False in every request: the signal keeps each receiver.

Mended: disconnected at the end of the request.
"""

from __future__ import annotations

from tests.leakbench.case import Case, Operation, kept

CASE = Case(
    id="T7",
    title="Django signal receivers with weak=False",
    sites=kept(__file__),
    holder="receivers",
    bytes_per_operation=700,
    per_second=25,
    environments={"both": "misuse"},
)


def setup(fixed: bool) -> Operation:
    from django.dispatch import Signal

    changed = Signal()

    def operation(number: int) -> None:
        rows = [number * 1000 + each for each in range(12)]  # kept

        def receive(**_: object) -> int:  # kept
            return len(rows)

        changed.connect(receive, weak=False)  # kept
        if fixed:
            changed.disconnect(receive)

    return operation
