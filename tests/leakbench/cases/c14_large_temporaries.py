"""Large arrays of numpy's that live as long as one operation. Must not be called a leak."""

from __future__ import annotations

from tests.leakbench.case import NONE, Case, Operation

CASE = Case(id="C14", title="numpy: large temporaries", kinds=(NONE,), per_second=20, environments={"both": "misuse"})


def setup(fixed: bool) -> Operation:
    import numpy

    def operation(number: int) -> float:
        samples = numpy.arange(100_000 + 1000 * (number % 50), dtype=float)
        return float((samples * 2 + 1).sum())

    return operation
