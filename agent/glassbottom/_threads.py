"""The agent's own threads: unseen by the sampler, and their CPU time added up.

Each is a Thread of this module and calls enter() first. The time is read from /proc by thread id, so that it costs the
threads nothing; what a thread used is kept when it has ended.

gevent and eventlet replace locks, waits and sleep, possibly while these threads live. With what they put in their place
a thread would start a hub of its own, import modules and wait for other threads that do the same, and two of them can
wait for each other for ever. So the agent's threads wait by what is bound here, and is what it was when the agent came.
"""

from __future__ import annotations

import contextlib
import threading
from _thread import LockType, allocate_lock
from collections import deque
from collections.abc import Callable
from pathlib import Path
from select import select as select
from time import sleep as sleep

from ._greenlets import threads_replaced


class Event:
    """threading.Event with real locks. No lock is held while it is set, so a signal handler may set it too."""

    def __init__(self) -> None:
        self._is_set = False
        self._waiters: deque[LockType] = deque()

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        while self._waiters:
            with contextlib.suppress(IndexError):  # one that gave up waiting just now
                self._waiters.popleft().release()

    def clear(self) -> None:
        self._is_set = False

    def wait(self, timeout_s: float | None = None) -> bool:
        """Whether it was set."""
        if self._is_set:
            return True
        waiter = allocate_lock()
        waiter.acquire()
        self._waiters.append(waiter)
        # Set since the question above: whoever did so may have looked for waiters before this one came.
        if self._is_set:
            with contextlib.suppress(ValueError):
                self._waiters.remove(waiter)
            return True
        if waiter.acquire(timeout=-1 if timeout_s is None else min(max(timeout_s, 0.0), threading.TIMEOUT_MAX)):
            return True
        with contextlib.suppress(ValueError):
            self._waiters.remove(waiter)
        return self._is_set


class Thread(threading.Thread):
    """A daemon that ends without a word, also where gevent has replaced what threads are called meanwhile."""

    def __init__(self, target: Callable[..., None], name: str, args: tuple[object, ...] = ()) -> None:
        super().__init__(target=target, name=name, args=args, daemon=True)
        self._has_ended = Event()

    def wait(self, timeout_s: float | None = None) -> bool:
        """join(), by what is real; whether it has ended."""
        if not self._has_ended.wait(timeout_s):
            return False
        if threads_replaced() is None:
            self.join(timeout_s)  # a moment more, and it is off every list
        return True

    def run(self) -> None:
        try:
            super().run()
        finally:
            # Where a thread ends, threading takes it off its list under the name it has by then.
            ident = threading.get_ident()
            threads = getattr(threading, "_active", {})
            if ident != self.ident and threads.get(self.ident) is self:
                threads[ident] = threads.pop(self.ident)
            self._has_ended.set()


class _Ledger:
    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.lock = threading.Lock()
        self.cpu_ns_by_thread: dict[int, int] = {}
        self.cpu_ns_ended = 0


_ledger = _Ledger()
_exclude: list[Callable[[], None]] = []


def exclude_with(exclude: Callable[[], None]) -> None:
    """Names the native function that hides the calling thread from the sampler."""
    _exclude[:] = [exclude]


def enter() -> None:
    """To be called by a thread of the agent before it does anything."""
    with _ledger.lock:
        _ledger.cpu_ns_by_thread.setdefault(threading.get_native_id(), 0)
    for exclude in _exclude:
        exclude()


def cpu_seconds() -> float:
    """CPU time of the agent's threads since they exist, as far as /proc tells (Linux)."""
    with _ledger.lock:
        for thread_id in list(_ledger.cpu_ns_by_thread):
            try:
                text = Path(f"/proc/self/task/{thread_id}/schedstat").read_bytes()
                _ledger.cpu_ns_by_thread[thread_id] = int(text.split()[0])
            except (OSError, ValueError, IndexError):
                _ledger.cpu_ns_ended += _ledger.cpu_ns_by_thread.pop(thread_id)
        return (_ledger.cpu_ns_ended + sum(_ledger.cpu_ns_by_thread.values())) / 1e9


def reset_after_fork() -> None:
    """The child has none of them, and the lock may have been held."""
    _ledger.reset()
