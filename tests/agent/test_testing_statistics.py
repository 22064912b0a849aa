"""The arithmetic behind `no_leak`: what rises without end, and what only looks like it."""

from __future__ import annotations

import random
from itertools import permutations

import pytest
from glassbottom.testing.statistics import floors, rising_by_chance, trend

pytestmark = pytest.mark.once

CALLS = [float(100 * i) for i in range(1, 25)]


def test_the_chance_of_rising_is_that_of_all_orders() -> None:
    orders = list(permutations(range(6)))

    def rising(values: tuple[int, ...]) -> int:
        return sum(values[j] > values[i] for i in range(6) for j in range(i + 1, 6))

    for values in orders[::50]:
        expected = sum(rising(other) >= rising(values) for other in orders) / len(orders)
        assert rising_by_chance(values) == pytest.approx(expected)


def test_equal_values_do_not_count_as_rising() -> None:
    assert rising_by_chance([5.0] * 8) == 1.0


def test_a_leak_under_noise_is_steady_and_its_slope_is_found() -> None:
    noise = random.Random(1)
    found = trend(CALLS, [50 * calls + noise.uniform(0, 2000) for calls in CALLS])

    assert found is not None
    assert found.is_steady
    assert found.low <= 50 <= found.high
    assert found.per_call == pytest.approx(50, rel=0.1)


@pytest.mark.parametrize(
    "curve",
    [
        pytest.param(lambda calls: 0.0, id="flat"),
        pytest.param(lambda calls: 500 * min(calls, 1000), id="cache that is full"),
        pytest.param(lambda calls: 0.0 if calls < 1200 else 100_000.0, id="one step"),
        pytest.param(lambda calls: 1e6 * (1 - 0.5 ** (calls / 300)), id="levels off"),
        pytest.param(lambda calls: -10 * calls, id="falls"),
        pytest.param(lambda calls: calls % 700 * 100, id="sawtooth"),
    ],
)
def test_what_has_an_end_is_not_steady(curve) -> None:
    found = trend(CALLS, [curve(calls) for calls in CALLS])

    assert found is not None
    assert not found.is_steady


def test_noise_is_seldom_taken_for_a_leak() -> None:
    noise = random.Random(2)
    flagged = 0
    for _ in range(2000):
        found = trend(CALLS, [noise.gauss(0, 1000) for _ in CALLS])
        flagged += found is not None and found.is_steady
    assert flagged <= 6  # P_MAX of 2000 is 2


def test_too_few_points_say_nothing() -> None:
    assert trend(CALLS[:7], CALLS[:7]) is None


def test_the_floor_of_a_block_is_its_lowest_point_where_it_lies() -> None:
    assert floors([1, 2, 3, 4], [9, 5, 7, 8], 2) == ([2, 3], [5, 7])
