"""Cycles while the garbage collector is turned off, as it is for latency: nothing refers to them, and they stay.

Mended: turned on.
"""

from __future__ import annotations

import gc

from tests.leakbench.case import CYCLIC, Case, Operation, kept

CASE = Case(
    id="T11",
    title="cycles with gc.disable()",
    kinds=(CYCLIC,),
    sites=kept(__file__),
    bytes_per_operation=900,
)


class Node:
    """Knows its parent, and that knows it."""

    def __init__(self, number: int) -> None:
        self.rows = [number * 1000 + each for each in range(10)]  # kept
        self.children: list[Node] = []  # kept
        self.parent: Node | None = None


def setup(fixed: bool) -> Operation:
    if not fixed:
        gc.disable()

    def operation(number: int) -> int:
        parent, child = Node(number), Node(number)  # kept
        child.parent = parent
        parent.children.append(child)  # kept
        return len(parent.children)

    return operation
