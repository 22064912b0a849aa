"""The sampling rate follows what sampling costs; arithmetic only."""

from __future__ import annotations

import pytest
from glassbottom.probes.heap_budget import CALM_READINGS, Costs, Counts, IntervalControl, ShareControl, costs


def test_hooks_cost_their_calls_in_the_time_windows_were_open():
    """640 MB of 64-byte blocks in one second of open windows: 10 million calls of 5 ns are 5 % of that second."""
    before = Counts(window_bytes=0, window_open_ns=0, sample_ns=0, elapsed_ns=0)
    after = Counts(window_bytes=640_000_000, window_open_ns=1_000_000_000, sample_ns=20_000_000, elapsed_ns=10**10)
    assert costs(before, after) == Costs(hooks_at_full_share=pytest.approx(0.05), samples=pytest.approx(0.002))


def test_windows_that_were_hardly_open_say_nothing():
    before = Counts(0, 0, 0, 0)
    assert costs(before, Counts(10_000, 1000, 0, 10**9)).hooks_at_full_share is None


def test_a_busy_application_is_watched_just_as_much_as_the_budget_allows():
    control = ShareControl(0.1)
    assert control.observe(0.05) == pytest.approx(0.003 / 0.05)


def test_a_quiet_application_is_watched_all_the_time():
    assert ShareControl(0.1).observe(0.0) == 1.0
    assert ShareControl(0.1).observe(0.0001) == 1.0


def test_no_application_is_watched_less_than_two_percent_of_the_time():
    assert ShareControl(0.1).observe(10.0) == 0.02


def test_load_counts_at_once_and_calm_only_slowly():
    control = ShareControl(0.1)
    control.observe(0.001)
    assert control.observe(0.1) == pytest.approx(0.03)
    assert control.observe(0.001) == pytest.approx(0.003 / 0.07525)
    for _ in range(40):
        control.observe(0.001)
    assert control.share == 1.0


def test_small_changes_of_load_do_not_move_the_share():
    control = ShareControl(0.06)
    assert control.observe(0.05 * 1.2) == 0.06
    assert control.observe(0.05 * 1.5) != 0.06


def test_without_an_observation_the_share_stays():
    assert ShareControl(0.1).observe(None) == 0.1


def test_sampling_that_costs_too_much_is_halved_and_returns_after_long_calm():
    control = IntervalControl(512)
    assert control.observe(512, 0.006, 0.1) == 1024
    for _ in range(CALM_READINGS - 1):
        assert control.observe(1024, 0.0001, 0.1) == 1024
    assert control.observe(1024, 0.0001, 0.1) == 512
    for _ in range(CALM_READINGS + 1):
        assert control.observe(512, 0.0001, 0.1) == 512


def test_a_filled_table_keeps_the_coarser_interval():
    control = IntervalControl(512)
    for _ in range(CALM_READINGS * 2):
        assert control.observe(2048, 0.0001, 0.5) == 2048
