"""Numbers as people read them, for the sentences of evidence."""

from __future__ import annotations

import math


def bytes_text(value: float) -> str:
    """Such as "1.9 MiB" or "-340 KiB", as the command line writes them."""
    size = abs(value)
    for unit, factor in (("GiB", 2.0**30), ("MiB", 2.0**20), ("KiB", 2.0**10)):
        if size >= 0.9995 * factor:
            return f"{_three(value / factor)} {unit}"
    return f"{value:.0f} B"


def rate_text(per_second: float) -> str:
    """Such as "1.9 MiB/s"."""
    return f"{bytes_text(per_second)}/s"


def time_text(seconds: float) -> str:
    """Such as "45 s", "12 min" or "3.5 h"."""
    if seconds < 120:
        return f"{_three(seconds)} s"
    if seconds < 2 * 3600:
        return f"{_three(seconds / 60)} min"
    return f"{_three(seconds / 3600)} h" if seconds < 48 * 3600 else f"{_three(seconds / 86400)} days"


def chance_text(p: float) -> str:
    """Such as "p = 0.03" or "p < 1e-9"."""
    if p < 1e-9:
        return "p < 1e-9"
    return f"p = {p:.1e}" if p < 0.001 else f"p = {p:.2g}"


def percent_text(share: float) -> str:
    """Such as "42 %"."""
    return f"{100 * share:.0f} %"


def _three(value: float) -> str:
    """Three significant digits without an exponent or trailing zeros behind the point."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
