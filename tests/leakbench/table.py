"""The table of docs/benchmarks/leakbench.md, and its sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from tests.leakbench.score import RATE_TOLERANCE, TOP

HEAD = (
    "| case | what leaks | found | rank | bytes/op | stated/true | operation | kind | holder | fixed quiet "
    "| looks wrong | after |"
)
IN_TIME_OPERATIONS = 900
"""A quarter of an hour at one operation a second."""


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line a case."""
    lines = [HEAD, "|" + "---|" * (HEAD.count("|") - 1)]
    for row in rows:
        found = bool(row["found"])
        cells = [
            row["case"],
            row["title"],
            _mark(row["found"]),
            "–" if row["rank"] is None else str(row["rank"]),
            "–" if not row["true_bytes"] else f"{row['true_bytes']:.0f}",
            "–" if row["ratio"] is None else f"{row['ratio']:.2f}",
            _mark(row["operation"]),
            _mark(row["kind"]) if found else "–",
            _holder(row) if found else "–",
            _mark(row["quiet"]),
            "–" if row["quiet"] is None else f"{row['looks_wrong']}/{row['looks']}",
            "–" if row["first_leak_s"] is None else f"{row['first_leak_s']:.0f} s",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Shares over all leaks to which a question applies; one that is not found, or of which nothing is said, counts as
    answered wrongly. false_flags: mended versions and controls in which something is called a leak at the end."""
    leaky = [row for row in rows if row["found"] is not None]
    found = [row for row in leaky if row["found"]]
    quiet = [row["quiet"] for row in rows if row["quiet"] is not None]
    priced = [row for row in leaky if row["true_bytes"]]
    times = [row["first_leak_s"] for row in found if row["first_leak_s"] is not None]
    return {
        "recall": _share(row["found"] for row in leaky),
        "false_flags": len(quiet) - sum(quiet),
        "site_top1": _share(row["top"] for row in leaky),
        "holder": _share(row["holder"] for row in leaky),
        "bytes_within_20pct": _share(
            row["ratio"] is not None and abs(row["ratio"] - 1) <= RATE_TOLERANCE for row in priced
        ),
        "kind_right": _share(row["kind"] for row in leaky),
        "leaks": len(leaky),
        "found": len(found),
        "in_top_3": sum(row["rank"] <= TOP for row in found),
        "operation_named": sum(row["operation"] is True for row in found),
        "fixed_and_controls": len(quiet),
        "looks_at_fixed_and_controls": sum(row["looks"] for row in rows),
        "looks_that_called_a_leak": sum(row["looks_wrong"] for row in rows),
        "runs_with_such_a_look": sum(bool(row["looks_wrong"]) for row in rows),
        "background_accused": sum(bool(row["also_accused"]) for row in rows),
        "seconds_to_verdict_median": round(median(times), 1) if times else None,
        "within_900_operations": sum((row["first_leak_operations"] or 1e9) <= IN_TIME_OPERATIONS for row in found),
    }


def _share(answers: Any) -> float | None:
    """Of right answers, among those that apply."""
    known = [answer for answer in answers if answer is not None]
    return round(sum(known) / len(known), 3) if known else None


def _holder(row: Mapping[str, Any]) -> str:
    return "none told" if row["holder"] is False and not row["held"] else _mark(row["holder"])


def _mark(value: bool | None) -> str:
    return "–" if value is None else ("yes" if value else "**no**")
