"""A thread per request that waits for something that never comes: its objects stay, and so does its stack.

Mended: the thread is told to end.
"""

from __future__ import annotations

import threading

from tests.leakbench.case import NATIVE, REACHABLE, Case, Operation, kept

CASE = Case(
    id="T6",
    title="threads that never end",
    kinds=(REACHABLE, NATIVE),
    sites=kept(__file__),
    holder="Thread",
    bytes_per_operation=3000,
    per_second=5,
)


def listen(stop: threading.Event, number: int) -> int:
    """Waits for a client to hang up."""
    rows = [number * 1000 + each for each in range(40)]  # kept
    stop.wait()  # kept
    return len(rows)


def setup(fixed: bool) -> Operation:
    def operation(number: int) -> None:
        stop = threading.Event()  # kept
        thread = threading.Thread(target=listen, args=(stop, number), daemon=True)  # kept
        thread.start()  # kept
        if fixed:
            stop.set()
            thread.join()

    return operation
