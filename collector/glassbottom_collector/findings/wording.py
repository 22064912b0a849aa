"""Counts and rates as people read them, for the sentences of findings."""

from __future__ import annotations

from ..model.code import Frame


def amount_text(value: float) -> str:
    """Such as "12", "0.4" or "12000"."""
    return f"{value:.0f}" if abs(value) >= 10 or value == round(value) else f"{value:.2g}"


def rate_text(per_second: float) -> str:
    """Such as "12 per second", "46 per minute" or "3 per hour"."""
    for unit, seconds in (("second", 1), ("minute", 60)):
        if abs(per_second) * seconds >= 1:
            return (
                f"{per_second * seconds:.2g} per {unit}"
                if abs(per_second) * seconds < 10
                else (f"{per_second * seconds:.0f} per {unit}")
            )
    return f"{amount_text(per_second * 3600)} per hour"


def at_text(frame: Frame | None) -> str:
    """Such as " at /srv/app/ws.py:42"; empty when the place is not known."""
    return "" if frame is None or not frame.file else f" at {frame.file}:{frame.line}"


def many(count: float, one: str, several: str = "") -> str:
    """Such as "1 task" or "12 tasks"."""
    return f"{amount_text(count)} {one if count == 1 else several or one + 's'}"
