"""What the process works on now: a route or another entry into it, as a small number in a context variable.

Set where a request begins and where its route becomes known, read by the C core where it takes a sample of the heap or
of a thread (labels.c). Contexts are what threads, tasks and executors hand on, so a label follows the work it is for.
Without the C core nobody would read it, and nothing is set.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

LABELS_MAX = 4095
"""The core's own bound; its last number is for all names that come after."""

label: ContextVar[int] = ContextVar("glassbottom.label", default=0)
"""0 stands for none."""

_native: ModuleType | None = None
numbers: dict[str, int] = {}
"""Of the names met so far; spans.c reads it."""
_names: dict[int, str] = {0: ""}


def start() -> None:
    """From now on samples carry the label. Does nothing without the C core."""
    global _native
    try:
        from . import _native as core
    except ImportError:
        return
    core.set_label_variable(label)
    _native = core


def stop() -> None:
    """Samples carry none any more."""
    global _native
    core, _native = _native, None
    if core is not None:
        core.set_label_variable(None)


def number(name: str) -> int:
    """Of a label, made on first use; 0 without the C core."""
    if _native is None:
        return 0
    found: int = _native.label(name)
    _names.setdefault(found, _native.label_name(found))
    # Those beyond the bound share a number; to keep each name for it would be a table without a bound.
    if found < LABELS_MAX:
        numbers[name] = found
    return found


def enter(name: str) -> Token[int] | None:
    """Labels what the calling context does from now on; leave() takes it back."""
    found = numbers.get(name) or number(name)
    return label.set(found) if found else None


def leave(token: Token[int] | None) -> None:
    """Restores what was before enter(). Does nothing in another context than that of enter(): there it never was."""
    if token is not None:
        try:
            label.reset(token)
        except (ValueError, RuntimeError):
            return


def current_name() -> str:
    """The label of the calling context; "" for none."""
    return _names.get(label.get(), "")


def statistics() -> dict[str, float]:
    return {"labels": len(_names) - 1, "labels_max": LABELS_MAX}
