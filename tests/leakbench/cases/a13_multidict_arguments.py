"""multidict 6.3.0, #1117: arguments are not released by the constructor, update and extend.

Mended in 6.4.0.
"""

from __future__ import annotations

from tests.leakbench.case import FIXED, LEAKY, REACHABLE, Case, Operation, Site, kept

CASE = Case(
    id="A13",
    title="multidict 6.3.0: arguments never released",
    kinds=(REACHABLE,),
    sites=(*kept(__file__), Site("multidict/")),
    bytes_per_operation=313,
    per_second=100,
    environments={LEAKY: "multidict-6.3.0", FIXED: "multidict-6.4.0"},
)


def setup(fixed: bool) -> Operation:
    from multidict import CIMultiDict

    def operation(number: int) -> int:
        headers = {"x-number": str(number), "accept": "*/*"}  # kept
        return len(CIMultiDict(headers))  # kept

    return operation
