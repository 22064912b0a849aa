"""Does a series rise without end? Arithmetic on a few dozen points, of the standard library alone.

The tests are those of docs/leaks.md as far as they make sense for an operation that is simply repeated: floors instead
of means, an exact Mann-Kendall test, Theil and Sen's slope with its interval, and guards against one step and against
a curve that levels off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from statistics import median

BLOCKS = 12
POINTS_MIN = 8
"""Eight that rise one after the other come about by chance once in 40 320 times."""
P_MAX = 0.001
JUMP_MAX = 0.5
"""One rise that carries more than this share of the growth is a step, not a leak."""
TAIL_MIN = 0.5
"""What leaks does so in the last third as fast as before; what fills up has slowed down."""
Z_95 = 1.96


@dataclass(frozen=True)
class Trend:
    """How a series rose. per_call, low, high: slope with its 95 % interval. p: of rising this steadily by chance.

    growth: from the first floor to the last. tail: slope of the last third divided by the slope of all. jump: the
    share of the growth that its largest single rise carries.
    """

    per_call: float
    low: float
    high: float
    p: float
    growth: float
    tail: float
    jump: float

    @property
    def is_steady(self) -> bool:
        """Whether it rose like what never ends."""
        return self.is_steady_at(P_MAX)

    def is_steady_at(self, p_max: float) -> bool:
        """The same for another chance of being wrong."""
        return self.p <= p_max and self.low > 0 and self.tail >= TAIL_MIN and self.jump <= JUMP_MAX


def trend(calls: Sequence[float], values: Sequence[float]) -> Trend | None:
    """The trend of values over calls, which rise; None with fewer than POINTS_MIN points."""
    if len(calls) < POINTS_MIN:
        return None
    xs, ys = floors(calls, values, BLOCKS)
    slopes = sorted(
        (ys[j] - ys[i]) / (xs[j] - xs[i]) for i in range(len(xs)) for j in range(i + 1, len(xs)) if xs[j] > xs[i]
    )
    if not slopes:
        return None
    count = len(xs)
    spread = Z_95 * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    below = max(0, math.floor((len(slopes) - spread) / 2))
    above = min(len(slopes) - 1, math.ceil((len(slopes) + spread) / 2))
    growth = ys[-1] - ys[0]
    whole = growth / (xs[-1] - xs[0])
    third = max(2, count // 3)
    last = (ys[-1] - ys[-1 - third]) / (xs[-1] - xs[-1 - third])
    return Trend(
        per_call=median(slopes),
        low=slopes[below],
        high=slopes[above],
        p=rising_by_chance(ys),
        growth=growth,
        tail=last / whole if whole > 0 else 0.0,
        jump=max(after - before for before, after in pairwise(ys)) / growth if growth > 0 else 1.0,
    )


def floors(calls: Sequence[float], values: Sequence[float], blocks: int) -> tuple[list[float], list[float]]:
    """At most that many points: of each block of successive ones the lowest, where it lies.

    What waits to be freed only ever adds, so the lowest is nearest to what stays.
    """
    count = len(calls)
    if count <= blocks:
        return list(calls), list(values)
    edges = [round(i * count / blocks) for i in range(blocks + 1)]
    lowest = [min(range(start, end), key=values.__getitem__) for start, end in pairwise(edges)]
    return [calls[i] for i in lowest], [values[i] for i in lowest]


def rising_by_chance(values: Sequence[float]) -> float:
    """P that an order by chance has at least as many rising pairs: Mann-Kendall, one-sided, exact.

    Equal pairs count as falling, so it errs on the side of chance.
    """
    count = len(values)
    rising = sum(values[j] > values[i] for i in range(count) for j in range(i + 1, count))
    orders = _orders_by_rising_pairs(count)
    return sum(orders[rising:]) / math.factorial(count)


@lru_cache(maxsize=32)
def _orders_by_rising_pairs(count: int) -> tuple[int, ...]:
    """How many orders of so many values have 0, 1, 2 … rising pairs: each new value adds 0 to its number of elders."""
    orders = [1]
    for elders in range(1, count):
        longer = [0] * (len(orders) + elders)
        for rising, ways in enumerate(orders):
            for more in range(elders + 1):
                longer[rising + more] += ways
        orders = longer
    return tuple(orders)
