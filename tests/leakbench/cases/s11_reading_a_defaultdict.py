"""Reading a defaultdict writes: each key that is only asked for stays, with its empty value.

Mended: asked with get().
"""

from __future__ import annotations

from collections import defaultdict

from tests.leakbench.case import Case, Operation, kept

CASE = Case(
    id="S11",
    title="reading a defaultdict",
    sites=kept(__file__),
    holder="defaultdict",
    bytes_per_operation=150,
    per_second=100,
)


def setup(fixed: bool) -> Operation:
    limits: defaultdict[str, list[int]] = defaultdict(list)

    def mended(number: int) -> bool:
        return bool(limits.get(f"address {number}"))

    def leaky(number: int) -> bool:
        return bool(limits[f"address {number}"])  # kept

    return mended if fixed else leaky
