"""The first numbers of a large array are kept as a view: each keeps its whole array.

Mended: copied.
"""

from __future__ import annotations

from tests.leakbench.case import NATIVE, REACHABLE, Case, Operation, kept

CASE = Case(
    id="T9",
    title="numpy view keeps its large base",
    kinds=(REACHABLE, NATIVE),
    sites=kept(__file__),
    holder="list",
    bytes_per_operation=40_200,
    per_second=25,
    environments={"both": "misuse"},
)


def setup(fixed: bool) -> Operation:
    import numpy

    heads = []

    def operation(number: int) -> None:
        samples = numpy.full(5000, float(number))  # kept
        heads.append(samples[:4].copy() if fixed else samples[:4])  # kept
        if fixed:
            del heads[:-100]

    return operation
