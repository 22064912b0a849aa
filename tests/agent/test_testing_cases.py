"""What leaks is found, with its place; what only looks like it is not: each in a process whose memory is its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

Judged = dict[str, dict[str, Any]]

# Two groups, because some take a second or more: those are looked at on one version of Python.
LEAKS = {
    "rows in an attribute": ("reachable growth", 216, "keep_a_row", "STORE (__main__.Store).rows"),
    "cycles, gc off": ("cyclic garbage", 448, "make_a_cycle", ""),
    "malloc": ("native", 4016, "", ""),
}
LONG_LEAKS = {
    "lru_cache(None)": ("reachable growth", 590, "endless_page", "lru_cache(maxsize=None)"),
    "callbacks kept": ("reachable growth", 310, "keep_callbacks", "Future"),
}
HEALTHY = [
    "trimmed dict",
    "lru_cache(400)",
    "cycles",
    "malloc and free",
    "first call",
    "interning",
    "ring that is full",
    "threading.Timer",
    "callbacks removed",
    "timers cancelled",
]
BOUNDED, OPEN = "lru_cache(1000000)", "timers not yet due"


def run_cases(root: Path, names: Iterable[str]) -> Judged:
    command = [sys.executable, "-m", "tests.support.leak_cases", *names]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {found["name"]: found for found in map(json.loads, done.stdout.splitlines())}


@pytest.fixture(scope="module")
def judged(root: Path) -> Judged:
    """The verdict on every case, by name."""
    return run_cases(root, [*LEAKS, *HEALTHY])


@pytest.fixture(scope="module")
def long_judged(root: Path) -> Judged:
    """The same of those that take longer."""
    return run_cases(root, [*LONG_LEAKS, BOUNDED, OPEN])


def check_leak(found: dict[str, Any], kind: str, size: float, function: str, holder: str) -> None:
    """By its price, its kind, its line and who keeps it."""
    assert (found["outcome"], found["kind"]) == ("leak", kind), found["report"]
    assert found["bytes_per_call"] == pytest.approx(size, rel=0.2), found["report"]
    if function:
        site = found["sites"][0]
        assert site["place"].startswith("tests/support/leak_cases.py:"), found["report"]
        assert site["place"].endswith(function), found["report"]
        assert holder in site["holder"], found["report"]
        assert site["types"], found["report"]


@pytest.mark.parametrize("name", LEAKS)
def test_what_leaks_is_found(name: str, judged: Judged) -> None:
    check_leak(judged[name], *LEAKS[name])


@pytest.mark.once
@pytest.mark.parametrize("name", LONG_LEAKS)
def test_what_leaks_by_way_of_others_is_found(name: str, long_judged: Judged) -> None:
    check_leak(long_judged[name], *LONG_LEAKS[name])


@pytest.mark.parametrize("name", HEALTHY)
def test_what_has_a_bound_or_an_end_is_no_leak(name: str, judged: Judged) -> None:
    assert judged[name]["outcome"] == "healthy", judged[name]["report"]


@pytest.mark.once
def test_a_cache_that_is_not_full_yet_is_no_leak_however_steadily_it_grows(long_judged: Judged) -> None:
    found = long_judged[BOUNDED]

    assert found["outcome"] == "healthy", found["report"]
    assert "of 1000000" in found["evidence"][0]


@pytest.mark.once
def test_timers_that_are_not_yet_due_leave_it_open(long_judged: Judged) -> None:
    """Nobody can tell before they are: they may let go of everything, or be made ever faster."""
    found = long_judged[OPEN]

    assert found["outcome"] == "undecided", found["report"]
    assert "timers of the event loop" in found["evidence"][0]
