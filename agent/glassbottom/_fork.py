"""What happens around os.fork(): before it, the sender finishes its step; after it, the parent goes on as it was, and
the child starts afresh under an identity of its own.

Nothing of the agent's holds a lock that a child could wait for: the transport is pure Python (grpc_stream.py says why),
the C core has fork handlers of its own, and the child makes a new agent instead of repairing the old one. Of the
parent's connection it closes its copy of the descriptors.

Children of os.fork(), multiprocessing and prefork servers come through here. subprocess does not fork in Python and
needs nothing. A fork made by a C library passes by unnoticed: the child's agent then stays silent, by its pid.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._agent import Agent

_find: Callable[[], Agent | None] = lambda: None  # noqa: E731
_replace: Callable[[Agent], None] = lambda _agent: None  # noqa: E731
_installed = False
_lock = threading.Lock()
_forking = 0
_paused: Agent | None = None
_inherited: list[Agent] = []
"""Agents of parents. Never let go: what their destructors would do is the parent's business."""


def install(find: Callable[[], Agent | None], replace: Callable[[Agent], None]) -> None:
    """Registers the hooks, once: they cannot be taken back. find() tells the agent now; replace() follows it."""
    global _find, _replace, _installed
    _find, _replace = find, replace
    if not _installed:
        _installed = True
        os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)


def _before() -> None:
    """Two threads may fork at once: the first pauses the agent, the last resumes it."""
    global _forking, _paused
    agent = _find()
    if agent is None:
        return
    with agent.guard.guarded("fork.before"):
        _finish_in_multiprocessing_children()
        with _lock:
            _forking += 1
            if _forking == 1:
                _paused = agent
                agent.pause()


def _after_in_parent() -> None:
    global _forking, _paused
    agent = _paused
    if agent is None:
        return
    with agent.guard.guarded("fork.parent"), _lock:
        _forking -= 1
        if _forking == 0:
            _paused = None
            if agent is _find():
                agent.resume()


def _after_in_child() -> None:
    global _lock, _forking, _paused
    agent, _paused = _paused, None
    _lock = threading.Lock()
    _forking = 0
    if agent is not None:
        _inherited.append(agent)
        with agent.guard.guarded("fork.child"):
            _replace(agent)


# multiprocessing leaves its children by os._exit(), past atexit; it has finalizers of its own, which it forgets in each
# child before it runs what was registered here.


class _Anchor:
    """Something for multiprocessing's weak registry to hold on to."""


_anchor = _Anchor()
_anchored = False


def _finish_in_multiprocessing_children() -> None:
    global _anchored
    util = sys.modules.get("multiprocessing.util")
    if util is not None and not _anchored:
        _anchored = True
        util.register_after_fork(_anchor, _register_finalizer)


def _register_finalizer(_anchor: _Anchor) -> None:
    from multiprocessing.util import Finalize

    from ._process import _at_exit

    Finalize(None, _at_exit, exitpriority=-100)
