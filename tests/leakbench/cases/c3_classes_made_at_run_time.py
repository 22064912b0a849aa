"""Data classes and converters made per operation, that the collector takes. Must not be called a leak."""

from __future__ import annotations

from tests.leakbench.case import NONE, Case, Operation

CASE = Case(
    id="C3", title="make_dataclass and cattrs.Converter", kinds=(NONE,), per_second=10, environments={"both": "misuse"}
)


def setup(fixed: bool) -> Operation:
    import dataclasses

    import cattrs

    def operation(number: int) -> object:
        kind = dataclasses.make_dataclass("Row", [("number", int), ("text", str)])
        return cattrs.Converter().unstructure(kind(number, "text"))

    return operation
