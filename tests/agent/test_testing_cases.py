"""What leaks is found, with its place; what only looks like it is not: each in a process whose memory is its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.once  # twenty seconds of programs; the plugin itself is run on every version

Judged = Callable[[str], dict[str, Any]]

LEAKS = {
    "unbounded dict": ("reachable growth", 1090, "remember", "CACHE (dict of"),
    "rows in an attribute": ("reachable growth", 216, "keep_a_row", "STORE (__main__.Store).rows"),
    "lru_cache(None)": ("reachable growth", 590, "endless_page", "lru_cache(maxsize=None)"),
    "cycles, gc off": ("cyclic garbage", 448, "make_a_cycle", ""),
    "malloc": ("native", 4016, "", ""),
    "callbacks kept": ("reachable growth", 310, "keep_callbacks", "Future"),
}
HEALTHY = [
    "trimmed dict",
    "lru_cache(400)",
    "lru_cache(1000000)",
    "cycles",
    "malloc and free",
    "first call",
    "interning",
    "ring that is full",
    "threading.Timer",
    "callbacks removed",
    "timers cancelled",
]


@pytest.fixture(scope="module")
def judged(root: Path) -> dict[str, dict[str, Any]]:
    """The verdict on every case, by name."""
    names = [*LEAKS, *HEALTHY, "timers not yet due"]
    command = [sys.executable, "-m", "tests.support.leak_cases", *names]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {found["name"]: found for found in map(json.loads, done.stdout.splitlines())}


def test_what_leaks_is_found_with_its_price_its_kind_its_line_and_who_keeps_it(
    judged: dict[str, dict[str, Any]],
) -> None:
    for name, (kind, size, function, holder) in LEAKS.items():
        found = judged[name]
        assert (found["outcome"], found["kind"]) == ("leak", kind), found["report"]
        assert found["bytes_per_call"] == pytest.approx(size, rel=0.2), found["report"]
        if function:
            (site, *_) = found["sites"]
            assert site["place"].startswith("tests/support/leak_cases.py:"), found["report"]
            assert site["place"].endswith(function), found["report"]
            assert holder in site["holder"], found["report"]
            assert site["types"], found["report"]


@pytest.mark.parametrize("name", HEALTHY)
def test_what_has_a_bound_or_an_end_is_no_leak(name: str, judged: dict[str, dict[str, Any]]) -> None:
    assert judged[name]["outcome"] == "healthy", judged[name]["report"]


def test_timers_that_are_not_yet_due_leave_it_open(judged: dict[str, dict[str, Any]]) -> None:
    """Nobody can tell before they are: they may let go of everything, or be made ever faster."""
    found = judged["timers not yet due"]

    assert found["outcome"] == "undecided", found["report"]
    assert "timers of the event loop" in found["evidence"][0]
