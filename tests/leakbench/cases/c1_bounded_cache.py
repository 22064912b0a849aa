"""An lru_cache of 400 that fills and then is full. Must not be called a leak."""

from __future__ import annotations

from functools import lru_cache

from tests.leakbench.case import NONE, Case, Operation

CASE = Case(id="C1", title="lru_cache(400) that fills", kinds=(NONE,))


@lru_cache(maxsize=400)
def page(number: int) -> list[int]:
    """What is cached."""
    return [number * 1000 + each for each in range(12)]


def setup(fixed: bool) -> Operation:
    return lambda number: len(page(number))
