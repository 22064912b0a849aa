"""A table of some megabytes loaded once in the middle, and replaced later. Must not be called a leak."""

from __future__ import annotations

from tests.leakbench.case import NONE, Case, Operation

CASE = Case(id="C11", title="a table loaded in the middle (step)", kinds=(NONE,))

LOADED_AT, REPLACED_AT = 900, 1600
"""Operations after which it happens."""


def setup(fixed: bool) -> Operation:
    tables: dict[str, dict[int, str]] = {}

    def load() -> dict[int, str]:
        return {each: f"article {each}" for each in range(30_000)}

    def operation(number: int) -> int:
        if number in (LOADED_AT, REPLACED_AT):
            tables["articles"] = load()
        return len(tables)

    return operation
