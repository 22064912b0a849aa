"""The table of docs/benchmarks/leakbench.md, and its sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from tests.leakbench.score import RATE_TOLERANCE, TOP

HEAD = "| case | what leaks | found | rank | bytes/op | stated/true | operation | kind | holder | fixed quiet | after |"


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line a case."""
    lines = [HEAD, "|" + "---|" * (HEAD.count("|") - 1)]
    for row in rows:
        cells = [
            row["case"],
            row["title"],
            _mark(row["found"]),
            "–" if row["rank"] is None else str(row["rank"]),
            "–" if not row["true_bytes"] else f"{row['true_bytes']:.0f}",
            "–" if row["ratio"] is None else f"{row['ratio']:.2f}",
            _mark(row["operation"]),
            _mark(row["kind"]),
            _mark(row["holder"]),
            _mark(row["quiet"]),
            "–" if row["first_leak_s"] is None else f"{row['first_leak_s']:.0f} s",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Shares over all cases to which each question applies."""
    leaky = [row for row in rows if row["found"] is not None]
    found = [row for row in leaky if row["found"]]
    quiet = [row["quiet"] for row in rows if row["quiet"] is not None]
    ratios = [row["ratio"] for row in found if row["ratio"] is not None]
    times = [row["first_leak_s"] for row in found if row["first_leak_s"] is not None]
    return {
        "leaks": len(leaky),
        "found": len(found),
        "in_top_3": sum(row["rank"] <= TOP for row in found),
        "rate_within_20_percent": sum(abs(ratio - 1) <= RATE_TOLERANCE for ratio in ratios),
        "operation_named": sum(row["operation"] is True for row in found),
        "kind_right": sum(row["kind"] is True for row in found),
        "holder_named": sum(row["holder"] is True for row in found),
        "fixed_and_controls": len(quiet),
        "fixed_and_controls_quiet": sum(quiet),
        "background_accused": sum(bool(row["also_accused"]) for row in rows),
        "seconds_to_verdict_median": round(median(times), 1) if times else None,
    }


def _mark(value: bool | None) -> str:
    return "–" if value is None else ("yes" if value else "**no**")
