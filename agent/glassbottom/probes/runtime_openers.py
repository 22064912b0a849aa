"""Who opens descriptors that stay open, looked up only while their number keeps growing.

Nobody remembers who opened a descriptor; Python's audit events tell when something is about to be opened. A hook for
them cannot be taken away again, therefore it is put in only when descriptors have grown over several readings, and from
then on it returns at once while they do not: 0.1 µs for each audit event, such as an open(), an import, a log record.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

from .observations import Observation
from .runtime_descriptors import type_of
from .runtime_gc import Path, path_of

GROWING_READINGS = 4
GROWN_MIN = 5
"""Descriptors more than so many readings ago, and never fewer in between: then who opens them is looked up."""
CALM_READINGS = 30
"""So many readings without a new highest number: then no more."""
WATCHED_MAX = 4096
LOOK_EVERY_NS = 1_000_000
"""An opening is looked up at most so often, some 10 µs each; the others are passed over."""
PATHS_TOLD = 5
SURVIVORS_MIN = 3


@dataclass(frozen=True, slots=True)
class Opening:
    """One that was about to happen. at_ns: perf_counter_ns(). socket: the object whose descriptor it will be."""

    at_ns: int
    kind: str
    path: Path
    socket: weakref.ref[Any] | None = None


class Openers:
    """Remembers for descriptors opened while they grow by which call path, and tells of those that stay open.

    A socket is known by its object, which is there before the event. A file's descriptor comes after it, but which
    number it will get is known: the lowest that is free, which a duplicate of any other takes for a moment. Another
    thread may be quicker, and whether it is still that file is seen later only by its type, so of many one may be told
    in another's place.
    """

    def __init__(self) -> None:
        self._counts: deque[int] = deque(maxlen=GROWING_READINGS)
        self._highest = 0
        self._calm = 0
        self._spare = -1
        self._opened: dict[int, Opening] = {}
        """By number; sockets by a number below zero, made of their id."""
        self._looked_ns = 0
        self._asked_ns = 0
        self._agents_thread = 0
        self.armed = False
        self.overflowed = 0
        """Openings not remembered because so many are already."""

    def start(self) -> None:
        if _listening is not None:  # in a forked child: the parent's
            _listening.disarm()

    def observe(self, count: int) -> None:
        """After each reading: begins when descriptors grow, and ends when they have not for long."""
        self._agents_thread = threading.get_ident()
        self._counts.append(count)
        counts = list(self._counts)
        if count > self._highest:
            self._highest, self._calm = count, 0
        else:
            self._calm += 1
        if not self.armed:
            growing = all(later >= earlier for earlier, later in itertools.pairwise(counts))
            if len(counts) == GROWING_READINGS and growing and counts[-1] >= counts[0] + GROWN_MIN:
                self.arm()
        elif self._calm >= CALM_READINGS:
            self.disarm()
            self._highest = count

    def arm(self) -> None:
        """Listens from now on."""
        global _listening
        if self._spare < 0:
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._calm = 0
        self._asked_ns = time.perf_counter_ns()
        self.armed = True
        _listening = self
        _install()

    def disarm(self) -> None:
        """Forgets everything and listens no more."""
        global _listening
        self.armed = False
        if _listening is self:
            _listening = None
        self._opened.clear()
        spare, self._spare = self._spare, -1
        if spare >= 0:
            with contextlib.suppress(OSError):
                os.close(spare)

    def opening(self, event: str, arguments: tuple[Any, ...]) -> None:
        """In the thread that is about to open something, below the hook."""
        now_ns = time.perf_counter_ns()
        if now_ns - self._looked_ns < LOOK_EVERY_NS or threading.get_ident() == self._agents_thread:
            return
        self._looked_ns = now_ns
        if event == "socket.__new__":
            number, kind, socket = -id(arguments[0]), "socket", weakref.ref(arguments[0])
        elif type(arguments[0]) is int:  # open() of a descriptor that is there already
            return
        else:
            number, kind, socket = os.dup(self._spare), "file", None
            os.close(number)
        if len(self._opened) >= WATCHED_MAX and number not in self._opened:
            self.overflowed += 1
            return
        self._opened[number] = Opening(now_ns, kind, path_of(_opener()), socket)

    def read(self, at_ns: int, links: Mapping[int, str]) -> list[Observation]:
        """links: of a look just now. Tells of what was opened before the last call and is open still."""
        before_ns, self._asked_ns = self._asked_ns, time.perf_counter_ns()
        survivors: dict[tuple[Any, ...], list[Opening]] = {}
        for number, opening in list(self._opened.items()):
            if not _is_open(number, opening, links):
                if self._opened.get(number) is opening:  # and not overwritten meanwhile
                    del self._opened[number]
            elif opening.at_ns < before_ns and opening.path:
                key = (opening.kind, *((id(code), offset) for code, offset in opening.path))
                survivors.setdefault(key, []).append(opening)
        told = sorted(survivors.values(), key=lambda alike: -len(alike))[:PATHS_TOLD]
        return [
            Observation(
                at_ns=at_ns,
                kind="fd.opened",
                name=alike[0].path[0][0].co_qualname,
                value=float(len(alike)),
                count=len(alike),
                path=alike[0].path,
                attributes={"fd.type": alike[0].kind},
            )
            for alike in told
            if len(alike) >= SURVIVORS_MIN
        ]


def _is_open(number: int, opening: Opening, links: Mapping[int, str]) -> bool:
    if opening.socket is None:
        return type_of(links.get(number, "")) == opening.kind
    socket = opening.socket()
    if socket is None:
        return False
    import _socket

    return _socket.socket.fileno(socket) >= 0  # the plain one: a subclass may have its own


def _opener() -> FrameType | None:
    """The frame below which the hook was called."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return frame


_listening: Openers | None = None
_installed = False


def _install() -> None:
    global _installed
    if not _installed:
        _installed = True
        sys.addaudithook(_audited)


def _audited(event: str, arguments: tuple[Any, ...]) -> None:
    openers = _listening
    if openers is None or event not in ("open", "socket.__new__"):
        return
    # What is raised here would be raised into whoever opens something, such as that no descriptor is left.
    with contextlib.suppress(Exception):
        openers.opening(event, arguments)
