"""How many threads run what, and how long the interpreter lock was waited for.

Threads are grouped by the function they were started with, since a thread that leaks has many alike. That is read from
the attributes of threading's own objects; nothing of the application's is called.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import CodeType, FunctionType, MethodType
from typing import Any

from .observations import Observation

Reading = tuple[str, float, Mapping[str, str]]

TARGETS_TOLD = 20
MANY = 10
"""From so many threads of one target on it is told where the target is."""
OURS = "glassbottom-"


@dataclass(frozen=True)
class Target:
    """What threads run: name and place (function, file, line) of its definition, if it is Python."""

    name: str
    place: tuple[str, str, int] | None


class Threads:
    """Counts by target; tells of targets with many threads when their number has changed."""

    def __init__(self, alive: Callable[[], list[threading.Thread]] | None = None) -> None:
        self._alive = alive or _alive
        self._told: dict[Target, int] = {}

    def read(self, at_ns: int) -> tuple[list[Reading], list[Observation]]:
        """at_ns: Unix epoch."""
        counts: dict[Target, int] = {}
        for thread in self._alive():
            if not thread.name.startswith(OURS):
                target = target_of(thread)
                counts[target] = counts.get(target, 0) + 1
        most = sorted(counts.items(), key=lambda each: -each[1])[:TARGETS_TOLD]
        by_name: dict[str, int] = {}
        for target, count in most:  # two functions may have one name; a metric has one value
            by_name[target.name] = by_name.get(target.name, 0) + count
        readings: list[Reading] = [
            ("glassbottom.thread.count", float(count), {"code.function.name": name}) for name, count in by_name.items()
        ]
        many = {target: count for target, count in most if count >= MANY and target.place is not None}
        told, self._told = self._told, many
        observations = [
            Observation(at_ns, "thread.started", target.name, value=float(count), count=count, place=target.place)
            for target, count in many.items()
            if told.get(target) != count
        ]
        return readings, observations


def _alive() -> list[threading.Thread]:
    # Not threading.enumerate(), which takes a lock: an application may hold it for long, or a fork may have.
    return list(threading._active.values())  # type: ignore[attr-defined]


def target_of(thread: threading.Thread) -> Target:
    """By what the thread's object holds; run() deletes `_target` when it is done."""
    target = vars(thread).get("_target")
    if target is None:
        if isinstance(thread, threading._MainThread):  # type: ignore[attr-defined]
            return Target("<main thread>", None)
        if isinstance(thread, threading._DummyThread):
            return Target("<thread not started by Python>", None)
        return _described(type(thread).run, type(thread).__qualname__)
    return _described(target, type(target).__qualname__)


def _described(function: Any, otherwise: str) -> Target:
    while type(function) in (functools.partial, MethodType):
        function = function.func if type(function) is functools.partial else function.__func__
    if type(function) is FunctionType:
        # What wraps it looks like it, see _profile.py, and functools.wraps says which it is.
        inner = function.__dict__.get("__wrapped__", function)
        code: CodeType = (inner if type(inner) is FunctionType else function).__code__
        return Target(code.co_qualname, (code.co_qualname, code.co_filename, code.co_firstlineno))
    call = vars(type(function)).get("__call__")
    if type(call) is FunctionType:
        return _described(call, otherwise)
    return Target(otherwise, None)


def interpreter_lock() -> Iterator[Reading]:
    """How long the clock of the core waited for the GIL each time it wanted it: what a thread of the application would
    have waited at those moments."""
    try:
        from .. import _native
    except ImportError:
        return
    numbers = _native.clock_statistics()
    if numbers["gil_waits"]:
        yield "glassbottom.gil.waits", numbers["gil_waits"], {}
        yield "glassbottom.gil.wait_time", numbers["gil_wait_ns"] / 1e9, {}
