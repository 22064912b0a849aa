"""How late event loops are, by a heartbeat in each.

A heartbeat is a timer every quarter of a second, set by the loop's own call_later(); how much later than asked it fires
is how long everything else in that loop had to wait. It belongs to the loop as any timer does: it is no task, keeps
neither the loop nor the program alive, and goes when the loop is closed. The registry holds loops by weak references.

A loop that is stopped and run again was not late meanwhile. A beat tells by the hook for asynchronous generators that
every run of a loop sets anew, an object of its own each time.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from asyncio import AbstractEventLoop
from collections.abc import Iterable, Iterator
from contextvars import Context
from typing import Any

from .._guard import Guard
from .durations import Durations
from .thread_names import thread_name

PERIOD_S = 0.25
PERIOD_NS = 250_000_000
LOOPS_MAX = 64
HEARTBEAT = "tasks.heartbeat"


class Heartbeat:
    """One loop's. ready: callbacks that waited at the last beat; -1 where the loop does not tell."""

    __slots__ = (
        "__weakref__",
        "_context",
        "_owner",
        "beats",
        "implementation",
        "lag",
        "loop",
        "number",
        "ready_max",
        "thread_id",
    )

    def __init__(self, owner: Loops, loop: AbstractEventLoop, number: int) -> None:
        kind = type(loop)
        self.loop = weakref.ref(loop)
        self.number = number
        self.implementation = f"{kind.__module__}.{kind.__qualname__}"
        self.thread_id = 0
        self.lag = Durations()
        self.ready_max = -1
        self.beats = 0
        self._owner = owner
        self._context = Context()  # an empty one: not that of whatever the loop does at the moment

    def begin(self, loop: AbstractEventLoop) -> None:
        """From any thread. Raises RuntimeError when the loop is closed."""
        loop.call_soon_threadsafe(self._arm, context=self._context)

    def thread(self) -> str:
        return thread_name(self.thread_id)

    # In the loop's thread.

    def _arm(self) -> None:
        loop = self.loop()
        if loop is not None and self._owner.is_beating:
            self.thread_id = threading.get_ident()
            with self._owner.guard.guarded(HEARTBEAT):
                due_ns, run = time.monotonic_ns() + PERIOD_NS, sys.get_asyncgen_hooks().firstiter
                loop.call_later(PERIOD_S, self._beat, due_ns, run, context=self._context)

    def _beat(self, due_ns: int, run_before: object) -> None:
        loop, owner = self.loop(), self._owner
        if loop is None or not owner.is_beating or owner.pid != os.getpid():
            return
        now_ns = time.monotonic_ns()
        run = sys.get_asyncgen_hooks().firstiter
        try:
            if run is run_before:
                self.lag.record(now_ns - due_ns)
                self.beats += 1
                ready = ready_callbacks(loop)
                if ready > self.ready_max:
                    self.ready_max = ready
            else:
                self.thread_id = threading.get_ident()
            loop.call_later(PERIOD_S, self._beat, now_ns + PERIOD_NS, run, context=self._context)
        except Exception:
            with owner.guard.guarded(HEARTBEAT):
                raise


class Loops:
    """Every event loop that was met and still is. In the agent's thread, but for the beats."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.pid = os.getpid()
        self.is_beating = True
        self.dropped = 0
        self.beats_ended = 0
        self._numbers = 0
        self._beats: dict[int, Heartbeat] = {}

    def meet(self, loops: Iterable[Any]) -> None:
        """Begins a heartbeat in each that is new."""
        for loop in loops:
            self.number(loop)

    def number(self, loop: Any) -> Heartbeat | None:
        """The heartbeat of a loop, which may be new; None for one that is closed or one too many."""
        found = self._beats.get(id(loop))
        if found is not None and found.loop() is loop:
            return found
        if len(self._beats) >= LOOPS_MAX:
            self._forget_gone()
        if len(self._beats) >= LOOPS_MAX:
            self.dropped += 1
            return None
        if not isinstance(loop, AbstractEventLoop) or loop.is_closed():
            return None
        beat = Heartbeat(self, loop, self._numbers + 1)
        try:
            beat.begin(loop)
        except RuntimeError:  # closed between two lines
            return None
        self._numbers += 1
        self._beats[id(loop)] = beat
        return beat

    def running(self) -> Iterator[tuple[AbstractEventLoop, Heartbeat]]:
        """Loops that run now."""
        self._forget_gone()
        for beat in list(self._beats.values()):
            loop = beat.loop()
            if loop is not None and loop.is_running():
                yield loop, beat

    def open(self) -> list[AbstractEventLoop]:
        """Loops that are not closed, whether they run or not."""
        self._forget_gone()
        return [loop for beat in list(self._beats.values()) if (loop := beat.loop()) is not None]

    def known(self) -> list[AbstractEventLoop]:
        """The same from any thread: those that are gone are only left out, and forgotten by the others."""
        return [loop for beat in list(self._beats.values()) if (loop := beat.loop()) is not None]

    def end(self) -> None:
        """Every heartbeat ends at its next beat."""
        self.is_beating = False

    def beats(self) -> int:
        """Beats of all loops since the start."""
        return self.beats_ended + sum(beat.beats for beat in list(self._beats.values()))

    def __len__(self) -> int:
        return len(self._beats)

    def _forget_gone(self) -> None:
        for key, beat in list(self._beats.items()):
            loop = beat.loop()
            if loop is None or loop.is_closed():
                self.beats_ended += beat.beats
                del self._beats[key]


def ready_callbacks(loop: object) -> int:
    """Callbacks ready to run; -1 where the loop does not tell. asyncio's own loops keep them in a deque."""
    ready = getattr(loop, "_ready", None)
    return len(ready) if ready is not None and type(ready).__name__ == "deque" else -1
