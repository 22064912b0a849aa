"""What a person may type for a moment or a length of time.

A moment is `now`, a length of time ago (`10m`, `2h30m`, also `now-10m`), RFC 3339 (`2026-11-23T14:05:00Z`; without an
offset it is local time, as on the clock of whoever typed it), or a Unix time in seconds, milliseconds, microseconds or
nanoseconds, told apart by their number of digits. There are no words like "yesterday".
"""

from __future__ import annotations

import argparse
import contextlib
import re
import time
from collections.abc import Iterator
from datetime import datetime

from .exits import UsageError

SECOND_NS = 1_000_000_000
_UNITS_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)", re.ASCII)
_LENGTH = re.compile(rf"(?:{_PART.pattern})+", re.ASCII)
_EPOCH = re.compile(r"(\d{9,19})(\.\d+)?", re.ASCII)
_STAMP = re.compile(r"(\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?)?)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)?", re.ASCII)
_EXAMPLES = "use now, a time ago like 10m or 2h30m, RFC 3339 like 2026-11-23T14:05:00Z, or a Unix time"

# The protocol carries 64 bits of nanoseconds.
_LATEST_NS = 2**63 - 1


_standing_ns: list[int] = []


def now_ns() -> int:
    """What `now` is: the clock's time, or when an archive was captured while one is being asked."""
    return _standing_ns[-1] if _standing_ns else time.time_ns()


@contextlib.contextmanager
def standing_at(at_ns: int) -> Iterator[None]:
    """Inside, it is always that moment."""
    _standing_ns.append(at_ns)
    try:
        yield
    finally:
        _standing_ns.pop()


def moment_ns(text: str, now_ns: int) -> int:
    """The moment meant by `text`, nanoseconds since the Unix epoch. Raises UsageError."""
    word = text.strip()
    if word == "now":
        return now_ns
    ago = word.removeprefix("now-")
    if _LENGTH.fullmatch(ago):
        return _within_range(now_ns - length_ns(ago), text)
    epoch = _EPOCH.fullmatch(word)
    if epoch:
        digits, fraction = epoch.groups()
        scale = 10 ** (9 if len(digits) <= 11 else 6 if len(digits) <= 14 else 3 if len(digits) <= 17 else 0)
        return _within_range(int(digits) * scale + round(float(fraction or 0) * scale), text)
    stamp = _STAMP.fullmatch(word.upper())
    if stamp:
        whole, fraction, offset = stamp.groups(default="")
        # datetime knows microseconds only, and a moment copied from our own JSON must mean the same snapshot again.
        with contextlib.suppress(ValueError, OverflowError):
            at = datetime.fromisoformat(whole + offset).astimezone()
            return _within_range(int(at.timestamp()) * SECOND_NS + int(fraction.ljust(9, "0") or 0), text)
    raise UsageError(f"{text!r} is not a time; {_EXAMPLES}.")


def length_ns(text: str) -> int:
    """The length of time meant by `text`, such as `2h30m`, in nanoseconds. Raises UsageError."""
    if not _LENGTH.fullmatch(text):
        raise UsageError(f"{text!r} is not a length of time; use 90s, 10m, 2h30m, 1d or 1w.")
    return round(sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(text)) * SECOND_NS)


def add_range_arguments(parser: argparse.ArgumentParser, begins: str, ends: str, default: str = "1h") -> None:
    """Declares `--from` and `--to`; begins and ends are what their help says."""
    parser.add_argument("--from", dest="start", metavar="TIME", default=default, help=f"{begins} ({default})")
    parser.add_argument("--to", dest="end", metavar="TIME", default="now", help=f"{ends} (now)")


def range_ns(start: str, end: str, now_ns: int) -> tuple[int, int]:
    """The range from `start` to `end`, nanoseconds since the Unix epoch. Raises UsageError when it is empty."""
    from_ns, to_ns = moment_ns(start, now_ns), moment_ns(end, now_ns)
    if to_ns <= from_ns:
        raise UsageError(f"the range is empty: --to {end} is not after --from {start}.")
    return from_ns, to_ns


def _within_range(ns: int, text: str) -> int:
    if not 0 < ns <= _LATEST_NS:
        raise UsageError(f"{text!r} is not between 1970 and 2262.")
    return ns
