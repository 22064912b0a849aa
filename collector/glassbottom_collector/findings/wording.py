"""Counts and rates as people read them, for the sentences of findings."""

from __future__ import annotations

from ..model.code import Frame
from ..model.leak import Rate


def amount_text(value: float) -> str:
    """Such as "12", "0.4" or "12000"."""
    return f"{value:.0f}" if abs(value) >= 10 or value == round(value) else f"{value:.2g}"


def rate_text(rate: Rate) -> str:
    """Such as "46 per minute, 95 % between 44 and 48"; in the unit in which the rate is a number to read."""
    unit, seconds = next(
        ((unit, seconds) for unit, seconds in (("second", 1), ("minute", 60)) if abs(rate.per_second) * seconds >= 1),
        ("hour", 3600),
    )
    middle, low, high = (f"{each * seconds:.3g}" for each in (rate.per_second, rate.low, rate.high))
    return f"{middle} per {unit}, 95 % between {low} and {high}"


def at_text(frame: Frame | None) -> str:
    """Such as " at /srv/app/ws.py:42"; empty when the place is not known."""
    return "" if frame is None or not frame.file else f" at {frame.file}:{frame.line}"


def many(count: float, one: str, several: str = "") -> str:
    """Such as "1 task" or "12 tasks"."""
    return f"{amount_text(count)} {one if count == 1 else several or one + 's'}"
