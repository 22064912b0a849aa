"""asgiref's Local per operation, gone with its context or at the next collection. Must not be called a leak."""

from __future__ import annotations

from tests.leakbench.case import NONE, Case, Operation

CASE = Case(id="C7", title="asgiref Local", kinds=(NONE,), environments={"both": "misuse"})


def setup(fixed: bool) -> Operation:
    from asgiref.local import Local

    def operation(number: int) -> int:
        local = Local()
        local.rows = [number * 1000 + each for each in range(8)]
        return len(local.rows)

    return operation
