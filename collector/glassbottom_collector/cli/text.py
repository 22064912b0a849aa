"""Text from elsewhere, made harmless, and numbers, made readable.

Names of services, functions, files and types come from the processes we watch, and whoever controls those must not
control the terminal of the person who looks. Nothing here truncates: fitting a width is the business of
formats/table.py.
"""

from __future__ import annotations

import math
import unicodedata
from datetime import UTC, datetime

# Control characters, invisible format characters (the bidirectional overrides among them), line and paragraph
# separators, and halves of surrogate pairs.
_UNSAFE = {"Cc", "Cf", "Zl", "Zp", "Cs"}

_SIZES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_COUNTS = ("", "k", "M", "G", "T")
_SECONDS = (("ns", 1e-9), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0))


def safe(text: str) -> str:
    """The text with every character that could move a cursor, hide or reorder text replaced by its escape."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        _escape(character) if unicodedata.category(character) in _UNSAFE else character for character in text
    )


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def size(value: float, signed: bool = False) -> str:
    """Bytes with a binary unit and three significant digits: `12.4 MiB`."""
    return _with_unit(value, 1024.0, _SIZES, signed)


def size_with_error(value: float, stderr: float, signed: bool = False) -> str:
    """Bytes with a standard error in the same unit: `12.4 ± 0.8 MiB`."""
    if not (math.isfinite(value) and math.isfinite(stderr)) or stderr <= 0:
        return size(value, signed)
    unit, factor = _unit(max(abs(value), stderr), 1024.0, _SIZES)
    decimals = 0 if unit == "B" or stderr / factor >= 9.95 else 1 if stderr / factor >= 0.095 else 2
    sign = "+" if signed else ""
    return f"{value / factor:{sign}.{decimals}f} ± {stderr / factor:.{decimals}f} {unit}"


def rate(bytes_per_second: float, signed: bool = False) -> str:
    """Bytes per second: `2.10 MiB/s`."""
    return size(bytes_per_second, signed) + "/s"


def interval(low: float, high: float) -> str:
    """A confidence interval in bytes per second, both ends in one unit: `1.90 to 2.31 MiB/s`."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "unknown"
    unit, factor = _unit(max(abs(low), abs(high)), 1024.0, _SIZES)
    return f"{_digits(low / factor, unit)} to {_digits(high / factor, unit)} {unit}/s"


def count(value: float, signed: bool = False) -> str:
    """Objects: `1.2 k`."""
    return _with_unit(value, 1000.0, _COUNTS, signed).rstrip()


def share(part: float, whole: float) -> str:
    """Part of a whole, in percent: `76 %`; `?` when there is no whole."""
    if not whole > 0 or not math.isfinite(part):
        return "?"
    percent = 100 * part / whole
    return f"{percent:.0f} %" if percent >= 9.95 else f"{percent:.1f} %"


def moment(ns: int) -> str:
    """A moment, UTC, to the second: `2026-11-23 14:05:10Z`."""
    return f"{datetime.fromtimestamp(ns // 10**9, UTC):%Y-%m-%d %H:%M:%S}Z" if ns else "never"


def duration(seconds: float) -> str:
    """A length of time in its two largest units: `3m58s`."""
    if not math.isfinite(seconds):
        return "?"
    if abs(seconds) < 10:
        return f"{seconds:.1f}s"
    left = round(seconds)
    for large, small, factor, part in (("d", "h", 86400, 3600), ("h", "m", 3600, 60), ("m", "s", 60, 1)):
        if left >= factor:
            rest = left % factor // part
            return f"{left // factor}{large}{rest}{small}" if rest else f"{left // factor}{large}"
    return f"{left}s"


def elapsed(seconds: float) -> str:
    """How long something took, three significant digits: `850 µs`, `12.4 ms`, `1.25 s`; from 100 s on as `duration`."""
    if not math.isfinite(seconds):
        return "?"
    if seconds >= 99.95:
        return duration(seconds)
    if seconds <= 0:
        return "0 s"
    unit, factor = next((unit, factor) for unit, factor in _SECONDS if seconds / factor < 999.5)
    return f"{_digits(seconds / factor, unit)} {unit}"


def plural(number: float, one: str, many: str = "") -> str:
    """A number with its noun: `1 process`, `12 processes`."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"


def _with_unit(value: float, base: float, units: tuple[str, ...], signed: bool) -> str:
    if not math.isfinite(value):
        return "?"
    unit, factor = _unit(abs(value), base, units)
    number = _digits(value / factor, unit)
    return f"{'+' if signed and value > 0 else ''}{number} {unit}"


def _unit(magnitude: float, base: float, units: tuple[str, ...]) -> tuple[str, float]:
    factor = 1.0
    for unit in units[:-1]:
        # 999.5 and not the base, so that no number needs four digits.
        if magnitude / factor < 999.5:
            return unit, factor
        factor *= base
    return units[-1], factor


def _digits(value: float, unit: str) -> str:
    magnitude = abs(value)
    if unit in {"", "B"}:
        return f"{value:.0f}" if magnitude >= 9.995 or value == round(value) else f"{value:.1f}"
    return f"{value:.0f}" if magnitude >= 99.95 else f"{value:.1f}" if magnitude >= 9.995 else f"{value:.2f}"
