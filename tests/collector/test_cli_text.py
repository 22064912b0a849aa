"""Text from elsewhere cannot act, and numbers read well."""

from __future__ import annotations

import math

import pytest
from glassbottom_collector.cli.formats.table import Place
from glassbottom_collector.cli.text import count, duration, interval, moment, rate, safe, share, size, size_with_error
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\nb\rc\td", "a\\x0ab\\x0dc\\x09d"),
        ("\x9b2J", "\\x9b2J"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("a\u2028b", "a\\u2028b"),
        ("\udcff", "\\udcff"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("naïve größe 函数", "naïve größe 函数"),
    ],
)
def test_what_could_move_a_cursor_or_hide_text_is_escaped_and_the_rest_is_not(hostile: str, shown: str) -> None:
    assert safe(hostile) == shown


@given(st.text())
def test_safe_text_is_printable_and_stays_as_it_is(text: str) -> None:
    once = safe(text)

    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in once)
    assert safe(once) == once


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0 B"),
        (512, "512 B"),
        (1000, "0.98 KiB"),
        (12.4 * MIB, "12.4 MiB"),
        (310 * MIB, "310 MiB"),
        (5.5 * 1024**5, "5.50 PiB"),
        (-2 * MIB, "-2.00 MiB"),
        (math.nan, "?"),
    ],
)
def test_sizes_have_three_digits_and_a_binary_unit(value: float, shown: str) -> None:
    assert size(value) == shown


def test_an_error_bar_decides_how_many_digits_are_worth_showing() -> None:
    assert size_with_error(412.34 * MIB, 12.3 * MIB) == "412 ± 12 MiB"
    assert size_with_error(12.44 * MIB, 0.81 * MIB) == "12.4 ± 0.8 MiB"
    assert size_with_error(12.44 * MIB, 0.04 * MIB) == "12.44 ± 0.04 MiB"
    assert size_with_error(100 * 1024, 3 * MIB) == "0.1 ± 3.0 MiB"
    assert size_with_error(64.3 * MIB, 5.9 * MIB, signed=True) == "+64.3 ± 5.9 MiB"
    assert size_with_error(12.4 * MIB, 0.0) == "12.4 MiB"


def test_rates_and_intervals_share_their_units() -> None:
    assert rate(2.1 * MIB, signed=True) == "+2.10 MiB/s"
    assert interval(-0.5 * MIB, 2.3 * MIB) == "-0.50 to 2.30 MiB/s"
    assert interval(math.nan, 1.0) == "unknown"


def test_counts_shares_and_lengths() -> None:
    assert [count(value) for value in (0, 3, 0.25, 71.8, 1234, 96_324.4, 2.5e6)] == [
        "0",
        "3",
        "0.2",
        "72",
        "1.23 k",
        "96.3 k",
        "2.50 M",
    ]
    assert [share(part, 200) for part in (2, 30, 200)] == ["1.0 %", "15 %", "100 %"]
    assert share(1, 0) == "?"
    assert [duration(s) for s in (4, 59.6, 238, 3600, 93_600)] == ["4.0s", "1m", "3m58s", "1h", "1d2h"]
    assert moment(1_795_442_710 * 10**9) == "2026-11-23 14:05:10Z"


PLACE = Place("Manager.on_connect", "/srv/checkout/app/realtime/connections/handlers.py", 42)


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (None, "/srv/checkout/app/realtime/connections/handlers.py:42 Manager.on_connect"),
        (72, "/srv/checkout/app/realtime/connections/handlers.py:42 Manager.on_connect"),
        (50, "…ime/connections/handlers.py:42 Manager.on_connect"),
        (30, "handlers.py:42 …ger.on_connect"),
        (16, "…/handlers.py:42"),
    ],
)
def test_a_place_loses_the_beginning_of_its_path_before_anything_that_names_it(width: int | None, shown: str) -> None:
    assert PLACE.text(width) == shown


@given(st.text(max_size=60), st.text(max_size=60), st.integers(0, 99999), st.integers(8, 90))
def test_a_place_never_needs_more_cells_than_there_are(function: str, file: str, line: int, width: int) -> None:
    """Also with wide characters, which take two cells each."""
    assert cell_len(Place(function, file, line).text(width, cell_len)) <= width
