"""Names for what a task waits for, and the part of its call path that is the application's.

A task that waits for a lock waits, to the interpreter, for a future in asyncio/locks.py. What a reader wants to know is
that it is a lock, and on which line of theirs. So the frames of asyncio itself, innermost, become the name, and the
path begins with the line that called into it.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import CodeType
from typing import Any

from .asyncio_objects import HOME, callbacks, type_name

Place = tuple[CodeType, int]
FRAMES_MAX = 32
LOCK = "asyncio.Lock"
YIELD = "asyncio.sleep(0)"

KNOWN: dict[tuple[str, str], str] = {
    ("locks.py", "Lock.acquire"): LOCK,
    ("locks.py", "Event.wait"): "asyncio.Event",
    ("locks.py", "Condition.wait"): "asyncio.Condition",
    ("locks.py", "Semaphore.acquire"): "asyncio.Semaphore",
    ("locks.py", "Barrier.wait"): "asyncio.Barrier",
    ("queues.py", "Queue.get"): "asyncio.Queue.get",
    ("queues.py", "Queue.put"): "asyncio.Queue.put",
    ("queues.py", "Queue.join"): "asyncio.Queue.join",
    ("tasks.py", "__sleep0"): YIELD,
    ("tasks.py", "sleep"): "asyncio.sleep",
    ("tasks.py", "wait"): "asyncio.wait",
    ("tasks.py", "wait_for"): "asyncio.wait_for",
    ("tasks.py", "as_completed.<locals>._wait_for_one"): "asyncio.as_completed",
    ("tasks.py", "_AsCompletedIterator._wait_for_one"): "asyncio.as_completed",
    ("taskgroups.py", "TaskGroup.__aexit__"): "asyncio.TaskGroup",
    ("streams.py", "StreamReader._wait_for_data"): "asyncio.StreamReader",
    ("streams.py", "FlowControlMixin._drain_helper"): "asyncio.StreamWriter.drain",
    ("streams.py", "StreamWriter.wait_closed"): "asyncio.StreamWriter.wait_closed",
    ("subprocess.py", "Process.wait"): "asyncio.Process.wait",
    ("subprocess.py", "Process.communicate"): "asyncio.Process.communicate",
    ("threads.py", "to_thread"): "asyncio.to_thread",
    ("base_events.py", "BaseEventLoop.getaddrinfo"): "asyncio.getaddrinfo",
    ("base_events.py", "Server.serve_forever"): "asyncio.Server",
    ("base_events.py", "Server.wait_closed"): "asyncio.Server",
    ("selector_events.py", "BaseSelectorEventLoop.sock_recv"): "socket.recv",
    ("selector_events.py", "BaseSelectorEventLoop.sock_recv_into"): "socket.recv",
    ("selector_events.py", "BaseSelectorEventLoop.sock_sendall"): "socket.send",
    ("selector_events.py", "BaseSelectorEventLoop.sock_accept"): "socket.accept",
    ("selector_events.py", "BaseSelectorEventLoop.sock_connect"): "socket.connect",
}
"""(file of asyncio, qualified name): what is awaited. The outermost that is known wins: an Event inside Queue.join()
or Condition.wait() is its business; but what wait_for() or a task group waits for is told by what is inside."""
_AROUND = {"asyncio.wait_for"}


def is_asyncio(code: CodeType) -> bool:
    return code.co_filename.startswith(HOME)


def name(places: Sequence[Place], waiter: Any) -> str:
    """What a task that waits at these places, innermost first, for this future waits for."""
    found = ""
    for code, _ in places:
        if not is_asyncio(code):
            break
        known = KNOWN.get((code.co_filename[len(HOME) :], code.co_qualname))
        if known is not None and found != YIELD and not (found and known in _AROUND):
            found = known
    if found and found not in _AROUND:
        return found
    if waiter is None:
        return found
    return _of_executor(waiter) or found or type_name(waiter)


def own(places: Sequence[Place]) -> list[Place]:
    """The path without asyncio's innermost frames, at most FRAMES_MAX: of more, the outermost stays."""
    first = 0
    while first < len(places) - 1 and is_asyncio(places[first][0]):
        first += 1
    path = list(places[first:])
    return path if len(path) <= FRAMES_MAX else [*path[: FRAMES_MAX - 1], path[-1]]


def _of_executor(waiter: Any) -> str:
    """run_in_executor() gives a future that is chained to one of concurrent.futures."""
    for callback in callbacks(waiter)[:4]:
        code = getattr(callback, "__code__", None) if type(callback).__name__ == "function" else None
        if code is not None and code.co_qualname == "_chain_future.<locals>._call_check_cancel":
            return "concurrent.futures.Future"
    return ""
