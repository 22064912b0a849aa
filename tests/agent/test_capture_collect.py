"""Collecting garbage on demand: what it freed, what grew afterwards, and when it is not done."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from glassbottom.captures.collect import CollectCapture, slope

from tests.support.captured import captured, order


class Knot:
    """Refers to itself."""

    def __init__(self) -> None:
        self.me = self
        self.payload = bytearray(1000)


def test_it_frees_what_only_itself_refers_to_and_says_how_much(tmp_path: Path):
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        for _ in range(1000):
            Knot()
        facts = captured(order("gc_collect", 0.0), tmp_path).facts
    finally:
        if was_enabled:
            gc.enable()
    assert facts["collected_objects"] >= 1000
    assert facts["freed_blocks"] >= 1000
    assert facts["uncollectable_objects"] == 0
    assert facts["gc_enabled"] == 0.0
    assert facts["pause_ms"] > 0


def test_it_watches_what_grows_afterwards(tmp_path: Path):
    kept: list[list[int]] = []

    def grow(_: object) -> None:
        for _ in range(40):
            kept.extend([number] for number in range(500))
            threading_wait(0.01)

    facts = captured(order("gc_collect", 0.6), tmp_path, grow).facts
    assert len(kept) == 20_000
    assert facts["grown_blocks_per_s"] > 1000
    assert facts["watched_s"] >= 0.5


def threading_wait(seconds: float) -> None:
    from glassbottom import _threads

    _threads.Event().wait(seconds)


def test_it_ends_early_when_it_is_to(tmp_path: Path):
    facts = captured(order("gc_collect", 3600.0), tmp_path, lambda ending: ending.set()).facts
    assert facts["watched_s"] < 60


def test_a_pause_that_would_be_too_long_is_refused_with_the_numbers():
    refusal = CollectCapture().refusal(order("gc_collect", pause_ms_max="0.001"))
    assert refusal is not None
    assert "million blocks" in refusal
    assert "pause_ms_max" in refusal
    assert CollectCapture().refusal(order("gc_collect", pause_ms_max="1e9")) is None
    assert CollectCapture().refusal(order("gc_collect", pause_ms_max="soon")) == (
        "The option pause_ms_max is 'soon', which is no number of milliseconds."
    )


@pytest.mark.parametrize(
    ("times", "values", "expected"),
    [([0.0, 1.0, 2.0], [5.0, 7.0, 9.0], 2.0), ([1.0], [5.0], 0.0), ([1.0, 1.0], [5.0, 9.0], 0.0)],
)
def test_a_slope_is_that_of_the_line_through_the_readings(times: list[float], values: list[float], expected: float):
    assert slope(times, values) == pytest.approx(expected)
