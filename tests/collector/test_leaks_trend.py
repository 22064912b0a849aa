"""The arithmetic beneath the verdict, against enumeration, tables and simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from glassbottom_collector.leaks import age, guards, trend
from glassbottom_collector.leaks.blocks import BLOCKS_MAX, BLOCKS_MIN, edges_of
from glassbottom_collector.leaks.sites import Grouping
from glassbottom_collector.leaks.wording import bytes_text, rate_text, time_text
from glassbottom_collector.model.code import Frame
from glassbottom_collector.model.places import is_application

TIMES = np.arange(20.0)


def test_mann_kendall_counts_permutations_exactly():
    series = np.array(list(itertools.permutations(range(6)))).T.astype(float)
    score, p = trend.mann_kendall(series)
    enumerated = (score[None, :] >= score[:, None]).mean(axis=1)

    assert p == pytest.approx(enumerated)


def test_mann_kendall_of_a_rise_without_exception_is_one_in_n_factorial():
    _, p = trend.mann_kendall(np.arange(10.0)[:, None])

    assert p[0] == pytest.approx(1 / 3_628_800)


def test_ties_speak_neither_for_nor_against():
    score, p = trend.mann_kendall(np.zeros((12, 1)))

    assert score[0] == 0
    assert p[0] > 0.5


@pytest.mark.parametrize(
    ("t", "freedom", "below"),
    # Abramowitz and Stegun, table 26.10, and the closed forms for 1 and 2 degrees of freedom.
    [(2.228, 10, 0.975), (1.725, 20, 0.95), (-2.878, 18, 0.005), (1.0, 1, 0.75), (2**0.5, 2, 0.5 + 0.5 / 2**0.5)],
)
def test_students_distribution_agrees_with_the_tables(t, freedom, below):
    assert trend.student_below(np.array([t]), freedom)[0] == pytest.approx(below, abs=2e-4)


def test_the_interval_of_a_line_covers_its_slope_in_white_noise_and_nearly_so_in_a_random_walk():
    """Twenty points cannot tell the noises apart for certain: too wide in the one, a little too narrow in the other."""
    noise = np.random.default_rng(7).standard_normal((20, 2000))
    covered = [
        np.mean((line.low <= 0.7) & (line.high >= 0.7))
        for line in (trend.line(TIMES, 0.7 * TIMES[:, None] + each) for each in (noise, np.cumsum(noise, axis=0)))
    ]

    assert covered[0] > 0.95
    assert 0.89 < covered[1] < 0.97


def test_a_random_walk_fools_mann_kendall_and_not_the_line_in_mixed_noise():
    """The reason for asking both: a pool that wanders is monotone by luck."""
    walks = np.cumsum(np.random.default_rng(3).standard_normal((20, 3000)), axis=0)

    assert (trend.mann_kendall(walks)[1] < 0.001).mean() > 0.1
    assert (trend.line(TIMES, walks).p < 0.001).mean() < 0.01


def test_theil_sen_ignores_an_outlier():
    values = (3 * TIMES)[:, None].copy()
    values[7] = 1e9

    assert trend.theil_sen(TIMES, values)[0] == pytest.approx(3.0)


def test_correction_for_many_sites_is_that_of_benjamini_and_yekutieli():
    p = np.array([0.01, 0.0001, 0.03, 0.8])
    harmonic = 1 + 1 / 2 + 1 / 3 + 1 / 4
    by_hand = [min(0.01 * 4 / 2, 0.03 * 4 / 3) * harmonic, 0.0001 * 4 * harmonic, 0.03 * 4 / 3 * harmonic, 1.0]

    assert trend.by_adjusted(p) == pytest.approx(by_hand)
    assert trend.by_adjusted(np.array([])).tolist() == []


def test_a_line_and_a_levelling_curve_and_a_step_are_told_apart():
    noise = np.random.default_rng(1).normal(0, 0.02, (20, 3))
    part = TIMES / TIMES[-1]
    values = np.stack([part, -np.expm1(-part / 0.2), (part > 0.5).astype(float)], axis=1) + noise

    against_levelling = guards.odds_against_levelling(TIMES, values)
    against_step = guards.odds_against_step(TIMES, values)
    assert against_levelling[0] > 3
    assert against_levelling[1] < -3
    assert against_step[0] > 3
    assert against_step[2] < -3
    assert guards.largest_jump_share(values)[2] > 0.8
    assert guards.tail_share(TIMES, values, 1 / 2)[0] == pytest.approx(1.0, abs=0.15)
    assert guards.tail_share(TIMES, values, 1 / 3)[1] < 0.2


def test_retained_bytes_are_what_stays_and_not_what_passes_through():
    """1 000 B/s that stay, beside 500 kB in flight for 2 s each, whose number doubles meanwhile."""
    at_ns = (np.arange(0, 101, 10) * 10**9).astype(np.int64)
    seconds = at_ns / 1e9
    flight = 500_000 * (1 + seconds / 100)
    stayed = 1000 * seconds
    live = stayed + flight
    birth_s = (stayed * seconds / 2 + flight * (seconds - 1)) / live
    mass = age.age_mass(live[:, None], (birth_s[:, None] * 1e3).astype(np.int64), at_ns)
    kept = age.retained(mass, seconds)[:, 0]

    assert np.polyfit((seconds[1:] + seconds[:-1]) / 2, kept, 1)[0] == pytest.approx(1000, rel=0.02)
    assert np.polyfit(seconds, live, 1)[0] == pytest.approx(6000, rel=0.01)


@pytest.mark.parametrize("count", [2, 10, 11, 12, 20, 21, 22, 33, 100, 361])
def test_blocks_are_equal_end_with_the_newest_snapshot_and_leave_out_the_beginning(count):
    at_ns = np.arange(count, dtype=np.int64) * 10
    edges = edges_of(at_ns)

    if count <= BLOCKS_MIN:
        assert edges is None
    else:
        assert edges is not None
        assert edges[-1] == at_ns[-1]
        assert BLOCKS_MIN <= len(edges) - 1 <= BLOCKS_MAX
        assert len(set(np.diff(edges).tolist())) == 1
        assert edges[0] - at_ns[0] < edges[1] - edges[0] + 10 * (count // BLOCKS_MIN)


def test_columns_are_summed_by_site_whatever_their_order():
    grouping = Grouping(np.array([2, 0, 2, 1]), 4)

    assert grouping.sums(np.array([[1.0, 2.0, 4.0, 8.0]])).tolist() == [[2.0, 8.0, 5.0, 0.0]]
    assert grouping.greatest(np.array([1.0, 2.0, 4.0, 8.0])).tolist() == [2.0, 8.0, 4.0, 0.0]
    assert Grouping(np.array([], dtype=np.intp), 2).sums(np.zeros((3, 0))).tolist() == [[0.0, 0.0]] * 3


@pytest.mark.parametrize(
    ("file", "application"),
    [
        ("/srv/app/handlers.py", True),
        ("app.py", True),
        ("/usr/lib/python3.12/json/decoder.py", False),
        ("/opt/venv/lib/python3.11/site-packages/starlette/routing.py", False),
        ("/usr/lib/python3/dist-packages/six.py", False),
        ("<frozen importlib._bootstrap>", False),
        ("/home/me/lib/python/tools.py", True),
    ],
)
def test_the_application_is_what_is_neither_library_nor_installed(file, application):
    assert is_application(Frame("f", file, 1)) is application


def test_numbers_read_as_people_write_them():
    assert [bytes_text(value) for value in (0, 999, 2.04 * 2**20, -340 * 2**10, 15 * 2**30)] == [
        "0 B",
        "999 B",
        "2.04 MiB",
        "-340 KiB",
        "15 GiB",
    ]
    assert rate_text(1.9 * 2**20) == "1.9 MiB/s"
    assert [time_text(value) for value in (4, 100, 900, 9000, 3e5)] == ["4 s", "100 s", "15 min", "2.5 h", "3.47 days"]
