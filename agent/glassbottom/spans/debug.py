"""The debug mode: every span's start and end goes to the log, with how long it took, and slow ones as warnings.

For laptops and mirrors. It formats text for every span, so it is never the default.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from .ledger import Ledger

LOGGER = "glassbottom.spans"


def logging_functions(
    ledger: Ledger, start: Callable[..., None], end: Callable[[Any], None]
) -> tuple[Callable[..., None], Callable[[Any], None]]:
    """The same functions, which also log."""
    slow_s = ledger.config.slow_ms / 1e3

    def logged_start(span: Any, parent_context: Any = None) -> None:
        start(span, parent_context)
        with ledger.guard.guarded("spans.debug"):
            started(span._kind.name, span._name)

    def logged_end(span: Any) -> None:
        end(span)
        with ledger.guard.guarded("spans.debug"):
            duration_s = (span._end_time - span._start_time) / 1e9
            ended(span._kind.name, span._name, duration_s, span._status.status_code.name == "ERROR", slow_s)

    return logged_start, logged_end


def begin() -> None:
    """Lets the lines through, and gives them somewhere to go if the application has not configured logging."""
    logger = logging.getLogger(LOGGER)
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    if not logger.hasHandlers():
        logger.addHandler(logging.StreamHandler())


def started(kind: str, name: str) -> None:
    """One line."""
    logging.getLogger(LOGGER).info("start %s %s", kind, name)


def ended(kind: str, name: str, duration_s: float, failed: bool, slow_s: float) -> None:
    """One line; a warning that says SLOW beyond slow_s."""
    is_slow = duration_s > slow_s
    logging.getLogger(LOGGER).log(
        logging.WARNING if is_slow else logging.INFO,
        "end %s %s %.1f ms %s%s",
        kind,
        name,
        duration_s * 1e3,
        "error" if failed else "ok",
        f" SLOW, limit {slow_s * 1e3:g} ms" if is_slow else "",
    )
