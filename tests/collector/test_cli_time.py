"""What may be typed for a moment."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from glassbottom_collector.cli.exits import UsageError
from glassbottom_collector.cli.timespec import length_ns, moment_ns, range_ns
from hypothesis import given
from hypothesis import strategies as st

SECOND = 10**9
NOW = 1_795_442_710 * SECOND  # 2026-11-23T14:05:10Z


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", NOW),
        ("10m", NOW - 600 * SECOND),
        ("now-10m", NOW - 600 * SECOND),
        ("2h30m", NOW - 9000 * SECOND),
        ("1w", NOW - 604_800 * SECOND),
        ("0.5d", NOW - 43_200 * SECOND),
        ("250ms", NOW - SECOND // 4),
        ("2026-11-23T14:05:10Z", NOW),
        ("2026-11-23t14:05:10z", NOW),
        ("2026-11-23 15:05:10+01:00", NOW),
        ("2026-11-23T14:05:10.25Z", NOW + SECOND // 4),
        ("2026-11-23T14:05:10.000000001Z", NOW + 1),
        ("2026-11-23T14:05Z", NOW - 10 * SECOND),
        ("1795442710", NOW),
        ("1795442710.5", NOW + SECOND // 2),
        ("1795442710250", NOW + SECOND // 4),
        ("1795442710250000", NOW + SECOND // 4),
        ("1795442710250000001", NOW + SECOND // 4 + 1),
    ],
)
def test_every_documented_way_to_name_a_moment(text: str, expected: int) -> None:
    assert moment_ns(text, NOW) == expected


def test_a_time_without_an_offset_is_on_the_clock_of_whoever_typed_it() -> None:
    local = datetime(2026, 11, 23, 14, 5, 10).astimezone()

    assert moment_ns("2026-11-23T14:05:10", NOW) == int(local.timestamp()) * SECOND


@pytest.mark.parametrize(
    "text", ["", "soon", "10", "10x", "m", "-5m", "2026-13-01T00:00:00Z", "9" * 30, "99999w", "now+1h"]
)
def test_anything_else_is_refused_with_examples_or_bounds(text: str) -> None:
    with pytest.raises(UsageError, match=r"is not a time; use now, a time ago like 10m|is not between 1970 and 2262"):
        moment_ns(text, NOW)


@given(st.text(max_size=40))
def test_no_text_can_do_worse_than_be_refused(text: str) -> None:
    try:
        ns = moment_ns(text, NOW)
    except UsageError:
        return
    assert 0 < ns < 2**63


@given(st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(2200, 1, 1)))
def test_rfc_3339_is_exact_to_the_microsecond(at: datetime) -> None:
    whole = int(at.replace(tzinfo=UTC, microsecond=0).timestamp()) * SECOND

    assert moment_ns(at.isoformat() + "Z", NOW) == whole + at.microsecond * 1000


def test_a_length_is_the_sum_of_its_parts() -> None:
    assert length_ns("1h30m15s") == 5415 * SECOND
    with pytest.raises(UsageError, match="is not a length of time"):
        length_ns("1h 30m")


def test_a_range_must_not_be_empty_or_backwards() -> None:
    assert range_ns("10m", "now", NOW) == (NOW - 600 * SECOND, NOW)
    with pytest.raises(UsageError, match="the range is empty"):
        range_ns("now", "now", NOW)
