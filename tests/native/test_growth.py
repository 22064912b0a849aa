"""The table of a dict or a set cannot grow in place: a larger one replaces it, and that is as old as the first."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable

import pytest
from glassbottom import _native

from tests.support.sampling import Row, sampler, within

ENTRIES = 6000
"""Their table takes more than 100 KB: at one sample per 4 KiB it is one for certain, as is what it grows into."""


def a_moment_later() -> int:
    """Milliseconds since the Unix epoch; what is born from now on is told apart from what was born before."""
    began_ms = time.time_ns() // 1_000_000
    while time.time_ns() // 1_000_000 <= began_ms + 1:
        pass
    return began_ms


def grow(table: dict[int, None] | set[int], number: int) -> None:
    """Adds until the table has been replaced."""
    size = sys.getsizeof(table)
    while sys.getsizeof(table) < size + 50_000:
        number += 1
        if isinstance(table, set):
            table.add(number)
        else:
            table[number] = None


def largest(function: str) -> Row:
    return max(within(_native.snapshot(), function), key=lambda row: row.live_bytes)


@pytest.mark.parametrize(
    "make",
    [
        lambda: dict.fromkeys(range(ENTRIES)),
        lambda: defaultdict(None, dict.fromkeys(range(ENTRIES))),
        lambda: set(range(ENTRIES)),
    ],
    ids=["dict", "defaultdict", "set"],
)
def test_a_table_that_grew_is_as_old_as_the_one_it_replaced(make: Callable[[], dict[int, None] | set[int]]) -> None:
    with sampler(share=1.0, interval_bytes=4096.0):
        table = make()
        made_ms = a_moment_later()
        grow(table, ENTRIES)
        row = largest("grow")
        assert row.live_bytes > 100_000
        assert row.birth_oldest_ms <= made_ms
        a_moment_later()
        grow(table, len(table))
        assert largest("grow").birth_oldest_ms == row.birth_oldest_ms
    assert len(table) > ENTRIES


def test_a_list_that_grows_in_place_is_as_old_as_it_was() -> None:
    with sampler(share=1.0, interval_bytes=4096.0):
        kept = [None] * 20_000
        made_ms = a_moment_later()

        def lengthen() -> None:
            kept.extend([None] * 20_000)

        lengthen()
        assert largest("lengthen").birth_oldest_ms <= made_ms


def test_what_takes_the_place_of_something_else_is_as_young_as_it_is() -> None:
    """A buffer made anew for every request, under the same name, in the same list, in the same attribute."""
    with sampler(share=1.0, interval_bytes=4096.0):
        kept: list[bytes] = [b""]

        def work(size: int) -> bytes:
            kept[0] = bytes(size)
            return bytes(size + 1)

        held = work(200_000)
        made_ms = a_moment_later()
        held = work(300_000)
        rows = [row for row in within(_native.snapshot(), "work") if row.live_bytes > 100_000]
    assert len(rows) == 2
    assert all(row.birth_oldest_ms > made_ms for row in rows)
    assert len(held) == 300_001
