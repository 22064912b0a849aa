"""Do things pile up? The verdict on populations whose truth is known, benign and leaking, short and long."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from glassbottom_collector.findings.growth import READINGS_MIN, Readings, after_warm_up, growth_text, judge

from tests.support.count_curves import BENIGN, LEAKING, RAMP, readings

pytestmark = pytest.mark.once  # arithmetic over long series, and what they show does not depend on the version


# What the test programs give in ten seconds, what a service gives in ten minutes, and in an hour.
WINDOWS = {"10 s": np.arange(20) * 0.5, "10 min": np.arange(60) * 10.0, "1 h": np.arange(180) * 20.0}
COLUMNS = 40
LEAST = np.full(COLUMNS, 20.0)


def leaks(found) -> int:
    return sum(growth is not None and growth.leaks for growth in found)


@pytest.mark.once
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("kind", BENIGN | RAMP)
def test_tasks_that_come_and_go_or_have_a_bound_are_not_called_a_leak(kind, window):
    found = judge(readings(kind, 1, WINDOWS[window], ages=True, columns=COLUMNS), LEAST)

    # A pool that fills evenly for most of the window is all but a line; one in twenty may pass for one.
    assert leaks(found) <= (2 if kind == "pool that fills" else 0)


@pytest.mark.once
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("kind", BENIGN | RAMP)
def test_threads_and_descriptors_that_come_and_go_or_have_a_bound_are_not_called_a_leak(kind, window):
    found = judge(readings(kind, 2, WINDOWS[window], ages=False, columns=COLUMNS), LEAST)

    assert leaks(found) <= (2 if kind == "pool that fills" else 1 if kind == "daily load" else 0)


@pytest.mark.once
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("ages", [True, False])
@pytest.mark.parametrize("kind", LEAKING)
def test_what_leaks_is_found(kind, ages, window):
    drawn = readings(kind, 3, WINDOWS[window], ages=ages, columns=COLUMNS)
    found = judge(replace(drawn, load=lambda: np.full(len(drawn), 30.0)), LEAST)

    # Without ages a leak beneath a load that swings has to wait for a longer window.
    assert leaks(found) >= COLUMNS * (0.45 if kind == "leak under daily load" and not ages else 0.75)


def test_a_load_that_rises_explains_counts_that_rise_with_it():
    times = WINDOWS["10 min"]
    counts = 40 + 3.0 * np.arange(60)[:, None]  # from 40 to 217, without a ripple

    def verdict(load):
        (growth,) = judge(Readings(times, counts, load=lambda: load), np.array([20.0]))
        return growth.leaks

    assert verdict(np.full(60, 30.0))
    assert verdict(None)
    assert not verdict(np.linspace(10, 50, 60))


def test_counts_that_have_only_doubled_may_be_load_when_neither_ages_nor_load_are_known():
    times = WINDOWS["10 min"]
    counts = 100 + np.arange(60)[:, None] * 2.0

    (alone,) = judge(Readings(times, counts), np.array([20.0]))
    (told,) = judge(Readings(times, counts, load=lambda: np.full(60, 5.0)), np.array([20.0]))

    assert [each.name for each in alone.evidence if not each.supports_leak] == ["load"]
    assert told.leaks


def test_the_load_is_not_asked_for_when_nothing_grows():
    def load():
        raise AssertionError("asked")

    flat = Readings(WINDOWS["10 s"], np.full((20, 3), 7.0), load=load)

    assert judge(flat, np.full(3, 20.0)) == [None] * 3


def test_tasks_that_rise_in_number_but_stay_young_are_load():
    """Requests of two seconds each, ever more of them: the count rises as steadily as a leak's."""
    times = WINDOWS["10 min"]
    counts = 20 + 3.0 * np.arange(60)[:, None]
    (load,) = judge(Readings(times, counts, counts * 1.0, np.full((60, 1), 2.0)), np.array([20.0]))
    old = np.cumsum(counts, axis=0) * 10
    (leak,) = judge(Readings(times, counts, old, times[:, None] + 1), np.array([20.0]))

    assert load is None
    assert leak.leaks


def test_a_small_growth_is_not_told():
    counts = np.arange(60)[:, None] * 0.3  # eighteen more

    assert judge(Readings(WINDOWS["10 min"], counts), np.array([20.0])) == [None]


def test_too_few_readings_say_nothing_and_just_enough_find_what_is_plain():
    counts = np.arange(READINGS_MIN)[:, None] * 20.0 + 5
    times = np.arange(READINGS_MIN) * 0.5

    (found,) = judge(Readings(times, counts), np.array([20.0]))
    assert found.leaks
    assert judge(Readings(times[1:], counts[1:]), np.array([20.0])) == [None]


def test_one_thing_that_grows_is_found_among_hundreds_that_do_not():
    benign = readings("steady", 4, WINDOWS["10 min"], ages=True, columns=300)
    leak = readings("leak", 4, WINDOWS["10 min"], ages=True)
    together = Readings(
        benign.times_s,
        *(np.hstack([getattr(benign, name), getattr(leak, name)]) for name in ("counts", "age_mass", "oldest_s")),
    )
    found = judge(together, np.full(301, 20.0))

    assert [column for column, growth in enumerate(found) if growth is not None and growth.leaks] == [300]


def test_the_interval_of_the_rate_covers_the_truth():
    covered = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        births = np.sort(rng.uniform(0, 600, rng.poisson(600)))  # one per second
        counts = np.searchsorted(births, WINDOWS["10 min"]).astype(float)[:, None]
        (growth,) = judge(Readings(WINDOWS["10 min"], counts), np.array([20.0]))
        covered += growth.rate.low <= 1.0 <= growth.rate.high
        assert growth.rate.per_second == pytest.approx(1.0, rel=0.25)

    assert covered >= 17


def test_the_first_quarter_of_a_life_is_warm_up():
    at_ns = np.arange(100, 200, 10, dtype=np.int64)

    assert after_warm_up(at_ns, 0).tolist() == list(range(3, 10))
    assert after_warm_up(at_ns, 20).tolist() == list(range(10))
    assert after_warm_up(at_ns, 500).tolist() == list(range(3, 10))
    assert after_warm_up(at_ns[:0], 0).tolist() == []


def test_growth_is_told_in_words():
    counts = 10 + np.arange(60)[:, None] * 4.0
    (growth,) = judge(Readings(WINDOWS["10 min"], counts), np.array([20.0]))

    assert growth_text(growth) == "from 10 to 246 in 9.83 min (24 per minute, 95 % between 23.8 and 24.2)"
