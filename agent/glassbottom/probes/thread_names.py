"""Names of threads by ident, without running a line of the application's.

`threading.enumerate()` takes a lock, and `Thread.name` may be a property of somebody's subclass. So the dictionary
behind them is looked into, and the name read where Thread itself keeps it.
"""

from __future__ import annotations

import threading


def thread_name(ident: int) -> str:
    """The name `threading` knows it by; "thread-" and the ident of one that has ended, or that it never knew."""
    thread = getattr(threading, "_active", {}).get(ident)
    try:
        name = object.__getattribute__(thread, "_name")
    except AttributeError:
        name = None
    return name if type(name) is str and name else f"thread-{ident}"
