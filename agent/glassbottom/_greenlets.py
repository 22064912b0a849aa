"""What gevent and eventlet have replaced in this process; each answer is a sentence, or None.

Both put greenlets in the place of threads, sockets and waits, mostly in the first lines of a program, but possibly long
after the agent has started. Asking costs two look-ups, so it is asked whenever it matters.
"""

from __future__ import annotations

import sys
from typing import Any


def threads_replaced() -> str | None:
    """Why the agent cannot live in this process at all, if so: what it starts would not be a thread of its own, and
    what it waits for would let other parts of the application run in the middle of ours."""
    monkey = sys.modules.get("gevent.monkey")
    if _says(monkey, "is_module_patched", "threading"):
        return (
            "gevent has replaced threading; the agent needs real threads. Start without monkey.patch_all(thread=True)."
        )
    patcher = sys.modules.get("eventlet.patcher")
    if _says(patcher, "is_monkey_patched", "thread"):
        return "eventlet has replaced threading; the agent needs real threads. Start without monkey_patch(thread=True)."
    return None


def library_replaced() -> str | None:
    """Why coroutines cannot be watched in this process, if so: greenlets switch in the middle of a step."""
    monkey = sys.modules.get("gevent.monkey")
    if getattr(monkey, "saved", None):
        by = "gevent"
    elif getattr(sys.modules.get("eventlet.patcher"), "already_patched", None):
        by = "eventlet"
    else:
        return None
    return (
        f"Event loops and tasks are not watched: {by} has replaced parts of the standard library, and steps of "
        "coroutines cannot be told apart under it."
    )


def _says(module: Any, question: str, name: str) -> bool:
    """Also of a module that another thread is just importing."""
    ask = getattr(module, question, None)
    return ask is not None and bool(ask(name))
