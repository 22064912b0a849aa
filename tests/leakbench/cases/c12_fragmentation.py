"""Mixed sizes that come and go, of which a few small ones stay between: resident memory is high, live memory is not.

Fragmentation is no leak; to name it as such is right.
"""

from __future__ import annotations

import random

from tests.leakbench.case import NONE, Case, Operation

CASE = Case(id="C12", title="fragmentation: mixed sizes come and go", kinds=(NONE,))

HELD_MAX = 1500


def setup(fixed: bool) -> Operation:
    chance = random.Random(3)
    held: list[bytearray] = []

    def operation(number: int) -> int:
        held.extend(bytearray(chance.choice((300, 900, 5000, 40_000))) for _ in range(20))
        while len(held) > HELD_MAX:
            held.pop(chance.randrange(len(held)))
        return len(held)

    return operation
