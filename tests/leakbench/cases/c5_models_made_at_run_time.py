"""pydantic models made per operation, that the collector takes. Must not be called a leak."""

from __future__ import annotations

from tests.leakbench.case import NONE, Case, Operation

CASE = Case(id="C5", title="pydantic 2.5.3 create_model", kinds=(NONE,), per_second=10, environments={"both": "misuse"})


def setup(fixed: bool) -> Operation:
    import pydantic

    def operation(number: int) -> object:
        return pydantic.create_model("Row", number=(int, ...), text=(str, "text"))(number=number)

    return operation
