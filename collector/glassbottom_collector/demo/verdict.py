"""Is the verdict right? The answer of `glassbottom leaks -o json` beside what is known to be true.

Pure: documents in, sentences out. The truth comes from elsewhere: the sessions that the clients opened, and what one
session holds by measure.py.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

MIB = 2**20
RATE_TOLERANCE = 0.20
# A type with a smaller part of a session's objects than this is not asked for: a sample stands for thousands of them.
TYPE_SHARE_MIN = 0.05
# A share may be off by this much, or by three sampling errors where few samples tell of the type.
TYPE_SHARE_TOLERANCE = 0.05


@dataclass(frozen=True)
class Place:
    """A line of the shop, and the first and last line of the class it is in."""

    line: int
    class_lines: range


@dataclass(frozen=True)
class Truth:
    """leak, cache: where the shop leaks, and where its healthy cache allocates. sessions_at_ns: Unix epoch.

    session_bytes: what one session holds. session_types: how many objects of each type are in it.
    """

    leak: Place
    cache: Place
    session_bytes: float
    session_types: Mapping[str, int]
    sessions_at_ns: Sequence[int]

    def bytes_per_second(self, from_ns: int, to_ns: int) -> float:
        """How fast the shop really leaked in that range."""
        opened = sum(from_ns <= at_ns < to_ns for at_ns in self.sessions_at_ns)
        return opened * self.session_bytes / ((to_ns - from_ns) / 1e9)


@dataclass(frozen=True)
class Check:
    """One claim, whether it holds, and with which numbers."""

    holds: bool
    sentence: str


def find_place(source: str, marker: str) -> Place:
    """The line of the shop's source that has this text inside a class. Raises ValueError when there is none."""
    line = next((number for number, text in enumerate(source.splitlines(), 1) if marker in text), 0)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef) and node.lineno <= line <= (node.end_lineno or 0):
            return Place(line, range(node.lineno, (node.end_lineno or 0) + 1))
    raise ValueError(f"no class of the shop has a line with {marker!r}")


def compare(answer: Mapping[str, Any], truth: Truth) -> list[Check]:
    """What `glassbottom leaks` said, claim by claim. answer: the document glassbottom.leaks/1."""
    findings = answer["findings"]
    first = findings[0] if findings else None
    checks = [_first_line(first, truth)]
    if first is not None and checks[0].holds:
        checks += [_rate(answer, first, truth), _types(first, truth)]
    return [*checks, _cache(findings, truth), _nobody_else(findings, truth)]


def _first_line(first: Mapping[str, Any] | None, truth: Truth) -> Check:
    right = f"shop.py:{truth.leak.line}"
    if first is None:
        return Check(False, f"nothing is reported, but {right} leaks.")
    said = _shop_line(first)
    where = f"shop.py:{said}" if said else f"{first['site']['frame']}"
    holds = first["verdict"] == "leak" and said == truth.leak.line
    return Check(holds, f"first in the table is {where}, verdict {first['verdict']}; the line that leaks is {right}.")


def _rate(answer: Mapping[str, Any], first: Mapping[str, Any], truth: Truth) -> Check:
    from_ns, to_ns = (_ns(answer["covered"][end]) for end in ("from", "to"))
    true = truth.bytes_per_second(from_ns, to_ns)
    said = first["bytes_per_second"]["value"]
    off = said / true - 1
    sentence = (
        f"it grows by {said / MIB:.2f} MiB/s; true are {true / MIB:.2f} MiB/s "
        f"({len(truth.sessions_at_ns)} sessions of {truth.session_bytes / MIB:.2f} MiB): {off:+.0%}."
    )
    return Check(abs(off) <= RATE_TOLERANCE, sentence)


def _types(first: Mapping[str, Any], truth: Truth) -> Check:
    site = first["site"]
    told = {each["type"]: each for each in site["types"]}
    said = _shares({name: each["live_objects"] for name, each in told.items()}, truth.session_types)
    true = {name: share for name, share in _shares(truth.session_types).items() if share >= TYPE_SHARE_MIN}
    holds = True
    for name, share in true.items():
        # How many samples are behind it: each stands for about the same number of bytes.
        samples = told[name]["live_bytes"] / site["live_bytes"] * site["samples"] if name in told else 0.0
        tolerance = max(TYPE_SHARE_TOLERANCE, 3 * share / math.sqrt(max(samples, 1.0)))
        holds = holds and abs(said.get(name, 0.0) - share) <= tolerance
    parts = ", ".join(f"{name} {said.get(name, 0.0):.0%} (true {share:.0%})" for name, share in true.items())
    return Check(holds, f"its objects are {parts}.")


def _cache(findings: Sequence[Mapping[str, Any]], truth: Truth) -> Check:
    verdicts = sorted({found["verdict"] for found in findings if _shop_line(found) in truth.cache.class_lines})
    said = ", ".join(verdicts) or "nothing to report"
    return Check("leak" not in verdicts, f"the healthy cache, shop.py:{truth.cache.line}, is not accused: {said}.")


def _nobody_else(findings: Sequence[Mapping[str, Any]], truth: Truth) -> Check:
    accused = [found for found in findings if found["verdict"] == "leak"]
    strangers = [found for found in accused if _shop_line(found) not in truth.leak.class_lines]
    named = ", ".join(f"{found['site']['frame']['file']}:{found['site']['frame']['line']}" for found in strangers)
    return Check(not strangers, f"called a leak without being one: {named or 'nothing'}.")


def _shop_line(finding: Mapping[str, Any]) -> int:
    """The line of shop.py the finding is about, or was called from; 0 where neither is the shop's."""
    for frame in (finding["site"]["frame"], finding["application_frame"]):
        if frame and frame["file"].endswith("shop.py"):
            return int(frame["line"])
    return 0


def _shares(counts: Mapping[str, float], only: Container[str] | None = None) -> dict[str, float]:
    """Each count's share. only: types to look at; blocks that are no objects, such as a dict's table, are not."""
    kept = {name: count for name, count in counts.items() if only is None or name in only}
    total = sum(kept.values())
    return {name: count / total for name, count in kept.items()} if total else {}


def _ns(text: str) -> int:
    """RFC 3339 with nanoseconds, which datetime reads to the microsecond."""
    return int(datetime.fromisoformat(text[:26] + "+00:00").timestamp() * 1e9)
