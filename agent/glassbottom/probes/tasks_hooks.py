"""Two mistakes that Python itself notices and tells in passing: they are counted where it tells them.

A coroutine that nobody awaited: the interpreter calls warnings._warn_unawaited_coroutine by name, whatever filters say
of the warning. Ours stands in its place, notes the code of the coroutine, and calls the original.

An exception that nobody retrieved: asyncio tells its loop's exception handler, and that, unless the application has set
one, the logger "asyncio". A filter there sees the record and lets it pass. Wrapping the handler of every loop would see
also what an application handles itself, at the price of an attribute on objects that are not ours; whoever has set a
handler knows of the exceptions.

Both belong to the process and to the last who asked; a child that was forked with them takes them over.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter, deque
from types import CodeType, TracebackType
from typing import Any, NamedTuple

CODES_MAX = 1024
FAILURES_MAX = 256
FRAMES_MAX = 32
_MESSAGE = "Task exception was never retrieved"


class Failure(NamedTuple):
    """An exception that a task ended with. path: innermost first."""

    exception: str
    path: tuple[tuple[CodeType, int], ...]


class _Filter(logging.Filter):
    def __init__(self, failures: deque[Failure]) -> None:
        super().__init__()
        self.failures = failures
        self.dropped = 0

    def filter(self, record: logging.LogRecord) -> bool:
        # Of the arguments nothing is looked at: the message is asyncio's, made already.
        if type(record.msg) is str and record.msg.startswith(_MESSAGE) and record.exc_info:
            if len(self.failures) >= FAILURES_MAX:
                self.dropped += 1
            else:
                self.failures.append(_failure(record.exc_info))
        return True


def _failure(info: tuple[Any, ...]) -> Failure:
    kind, _, trace = info
    path: deque[tuple[CodeType, int]] = deque(maxlen=FRAMES_MAX)
    while type(trace) is TracebackType:
        path.append((trace.tb_frame.f_code, trace.tb_lasti))
        trace = trace.tb_next
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return Failure(name, tuple(reversed(path)))


_codes: list[CodeType] = []
_hook: Any = None
_original: Any = None
_filter: _Filter | None = None


def install() -> None:
    """Idempotent; forgets what was noted before."""
    global _hook, _original, _filter
    _codes.clear()
    if _hook is None and hasattr(warnings, "_warn_unawaited_coroutine"):
        try:
            from .. import _native
        except ImportError:
            pass
        else:
            _original = warnings._warn_unawaited_coroutine
            _hook = _native.unawaited_hook(_original, _codes, CODES_MAX)
            warnings._warn_unawaited_coroutine = _hook
    if _filter is None:
        _filter = _Filter(deque())
    _filter.failures.clear()
    logging.getLogger("asyncio").addFilter(_filter)


def remove() -> None:
    """Takes both away; what somebody has wrapped meanwhile stays, and passes through."""
    global _hook, _filter
    if _hook is not None and warnings._warn_unawaited_coroutine is _hook:  # type: ignore[attr-defined]
        warnings._warn_unawaited_coroutine = _original  # type: ignore[attr-defined]
        _hook = None
    if _filter is not None:
        logging.getLogger("asyncio").removeFilter(_filter)
        _filter = None


def take_unawaited() -> Counter[CodeType]:
    """Coroutines nobody awaited since the last call, by their code."""
    taken = _codes[:CODES_MAX]
    del _codes[: len(taken)]
    return Counter(taken)


def take_failures() -> Counter[Failure]:
    """Exceptions nobody retrieved since the last call."""
    found: Counter[Failure] = Counter()
    while _filter is not None and _filter.failures:
        found[_filter.failures.popleft()] += 1
    return found
