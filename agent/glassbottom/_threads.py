"""The agent's own threads: unseen by the sampler, and their CPU time added up.

Each calls enter() first. The time is read from /proc by thread id, so that it costs the threads nothing; what a thread
used is kept when it has ended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path


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
