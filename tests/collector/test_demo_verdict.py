"""The demonstration's judge can say no: each wrong answer is noticed, and a right one passes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from glassbottom_collector.demo import verdict

SOURCE = (Path(verdict.__file__).parent / "shop.py").read_text()
LEAK = verdict.find_place(SOURCE, "json.loads(")
CACHE = verdict.find_place(SOURCE, "page = [")
SECOND_NS = 10**9
# 2026-11-24T12:00:00Z, and a session each second for a minute.
START_NS = 1_795_521_600 * SECOND_NS
TRUTH = verdict.Truth(
    leak=LEAK,
    cache=CACHE,
    session_bytes=2_000_000,
    session_types={"str": 60, "dict": 30, "int": 10, "set": 1},
    sessions_at_ns=[START_NS + second * SECOND_NS for second in range(60)],
)


def finding(said: str, line: int, rate: float, types: dict[str, int]) -> dict[str, Any]:
    """A finding as `-o json` has it, in json/decoder.py called from a line of the shop."""
    return {
        "verdict": said,
        "site": {
            "frame": {"function": "raw_decode", "file": "/usr/lib/python3.12/json/decoder.py", "line": 353},
            "live_bytes": 1e8,
            "samples": 1000,
            "types": [{"type": name, "live_bytes": 3e7, "live_objects": count} for name, count in types.items()],
        },
        "application_frame": {"function": "Session.__init__", "file": "/tmp/x/shop.py", "line": line},
        "bytes_per_second": {"value": rate, "low": rate * 0.9, "high": rate * 1.1},
    }


ANSWER: dict[str, Any] = {
    "covered": {"from": "2026-11-24T12:00:00.000000000Z", "to": "2026-11-24T12:01:00.000000000Z"},
    "findings": [
        finding("leak", LEAK.line, 2_050_000.0, {"str": 600_000, "dict": 300_000, "int": 100_000, "<buffer>": 999_999}),
        finding("stable", CACHE.line, 10.0, {"str": 100}),
    ],
}


def wrong(change: Callable[[dict[str, Any]], object]) -> list[str]:
    answer = copy.deepcopy(ANSWER)
    change(answer)
    return [check.sentence for check in verdict.compare(answer, TRUTH) if not check.holds]


def test_a_right_answer_passes_every_check() -> None:
    checks = verdict.compare(ANSWER, TRUTH)

    assert [check.sentence for check in checks if not check.holds] == []
    assert len(checks) == 5


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda answer: answer["findings"].clear(), "nothing is reported"),
        (lambda answer: answer["findings"].reverse(), "first in the table is"),
        (lambda answer: answer["findings"][0].update(verdict="growing"), "verdict growing"),
        (lambda answer: answer["findings"][0]["bytes_per_second"].update(value=2_500_000.0), "+25%"),
        (lambda answer: answer["findings"][0]["bytes_per_second"].update(value=1_500_000.0), "-25%"),
        (lambda answer: answer["findings"][0]["site"]["types"].pop(0), "str 0% (true 59%)"),
        (lambda answer: answer["findings"][1].update(verdict="leak"), "the healthy cache"),
        (
            lambda answer: answer["findings"].append(finding("leak", 1, 1.0, {})),
            "called a leak without being one: /usr/lib/python3.12/json/decoder.py:353",
        ),
    ],
)
def test_each_wrong_answer_is_noticed(change: Callable[[dict[str, Any]], object], told: str) -> None:
    assert any(told in sentence for sentence in wrong(change))


def test_the_true_rate_counts_only_sessions_of_the_time_that_was_judged() -> None:
    assert TRUTH.bytes_per_second(START_NS, START_NS + 30 * SECOND_NS) == 2_000_000
    assert TRUTH.bytes_per_second(START_NS, START_NS + 120 * SECOND_NS) == 1_000_000


def test_the_places_are_found_in_the_shop_as_it_is() -> None:
    lines = SOURCE.splitlines()
    assert "json.loads(CATALOGUE_JSON)" in lines[LEAK.line - 1]
    assert lines[LEAK.class_lines.start - 1] == "class Session:"
    assert lines[CACHE.class_lines.start - 1] == "class Pages:"
    with pytest.raises(ValueError, match="no class of the shop"):
        verdict.find_place(SOURCE, "import json")
