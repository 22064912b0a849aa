"""Beside other tools that replace allocators: started and stopped in every order, nothing crashes, no free is lost.

Each sequence runs in a process of its own. Tools other than ours are nested properly among themselves: ddtrace stopped
after a tracemalloc that it had wrapped crashes on its own, without us in the process.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent.parent / "apps" / "hook_order.py"
OTHERS = ("tracemalloc", "memray", "ddtrace")


def orders(*tools: str) -> list[tuple[str, ...]]:
    """Every order of starts (+) and stops (-) in which each tool starts before it stops."""
    events = [sign + tool for tool in tools for sign in "+-"]
    return [
        order
        for order in itertools.permutations(events)
        if all(order.index("+" + tool) < order.index("-" + tool) for tool in tools)
    ]


def nested(order: tuple[str, ...]) -> bool:
    """Whether tools other than ours stop in the reverse order of their starts."""
    running: list[str] = []
    for event in order:
        sign, tool = event[0], event[1:]
        if tool == "us":
            continue
        if sign == "+":
            running.append(tool)
        elif running.pop() != tool:
            return False
    return True


def run(sequences: list[tuple[str, ...]], share: float) -> list[dict]:
    result = subprocess.run(
        [sys.executable, str(PROGRAM), json.dumps(sequences), str(share)],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert result.returncode == 0, (result.returncode, result.stdout[-500:], result.stderr[-2000:])
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize("share", [1.0, 0.2])
@pytest.mark.parametrize("other", OTHERS)
def test_every_order_with_one_other_tool(other: str, share: float) -> None:
    for outcome in run(orders("us", other), share):
        assert outcome["live_samples_after_everything_was_freed"] == 0, outcome
        assert outcome["state"] == "running", outcome
        assert outcome["samples"] > 0, outcome


def test_every_order_with_two_other_tools_nested() -> None:
    sequences = [order for pair in itertools.combinations(OTHERS, 2) for order in orders("us", *pair) if nested(order)]
    for outcome in run(sequences[::9], 1.0):
        assert outcome["live_samples_after_everything_was_freed"] == 0, outcome
        assert outcome["state"] == "running", outcome


def test_a_lost_hook_is_noticed_counted_and_put_back() -> None:
    """tracemalloc, started before us, restores on its stop what was there before us both."""
    (outcome,) = run([("+tracemalloc", "+us", "-tracemalloc", "?us", "-us")], 1.0)

    assert outcome["seen"]["state"] == "running"
    assert outcome["seen"]["hook_losses"] == 1
    assert outcome["seen"]["samples"] > 0
