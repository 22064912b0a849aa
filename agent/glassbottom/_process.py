"""The one agent of this process, and what becomes of it: init(), shutdown(), a fork, the end, greenlets.

Importing this module imports protobuf and h2, never grpcio.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Mapping
from typing import Any

from . import _describe, _fork, _threads
from ._agent import Agent
from ._config import Config
from ._errors import ConfigError
from ._greenlets import threads_replaced
from ._log import log
from ._options import from_env
from ._switch import is_disabled
from .probes import ProbeState

WITHDRAW_TIMEOUT_S = 1.0

_current: Agent | None = None
DISABLED = ProbeState("off", "Switched off by GLASSBOTTOM_DISABLE or disable=True.")
_off = ProbeState("off", "glassbottom.init() was not called.")
_lock = threading.Lock()
_at_exit_registered = False


# The public face; documented in __init__.py.


def init(
    service: str | None,
    *,
    endpoint: str | None,
    config: Config | None,
    strict: bool,
    options: Mapping[str, Any],
    provisional: bool = False,
) -> None:
    """provisional: started by `glassbottom run`; an init() in the application's code then still counts."""
    global _current, _off
    with _lock:
        try:
            wanted = _wanted(service, endpoint, config, options)
        except ConfigError as error:
            if strict:
                raise
            _off = ProbeState("off", str(error))
            log().error("glassbottom is off: %s", error)
            return
        if wanted.disable:
            _off = DISABLED
            return
        if _current is not None and _current.pid == os.getpid():
            if not _current.provisional or provisional or _current.config == wanted:
                return
            _current.stop(0.0)
            _current = None
        reason = threads_replaced()
        if reason is not None:
            _off = ProbeState("refused", reason)
            log().warning("glassbottom is off: %s", reason)
            return
        try:
            agent = Agent(wanted, provisional=provisional, withdraw=_withdraw)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is ours and not the application's
            _off = ProbeState("off", f"The agent could not be made: {type(error).__name__}: {error}")
            log().warning("glassbottom is off: an internal error kept it from starting.", exc_info=error)
            return
        with agent.guard.guarded("start"):
            _fork.install(_agent_to_fork, _replace_after_fork)
            _register_at_exit()
            agent.start()
        _current = agent


def shutdown(timeout_s: float) -> None:
    global _current, _off
    with _lock:
        agent, _current = _agent_of_this_process(), None
        _off = ProbeState("stopped", "glassbottom.shutdown() was called.")
    if agent is not None:
        # Under greenlets nothing is waited for: it is on its way out by itself.
        agent.finish(timeout_s if threads_replaced() is None else 0.0)


def flush(timeout_s: float) -> bool:
    agent = _agent_of_this_process()
    return agent is not None and agent.sender.flush(timeout_s)


def snapshot(label: str = "", wait_s: float = 0.0) -> bool:
    agent = _agent_of_this_process()
    return agent is not None and agent.request_snapshot(label, wait_s)


def status() -> dict[str, Any]:
    agent = _agent_of_this_process()
    replaced = threads_replaced() if _current is not None else None
    if agent is None or replaced is not None:
        off = ProbeState("refused", replaced) if replaced is not None else DISABLED if is_disabled() else _off
        return {
            "state": off.state,
            "reason": off.reason,
            "service": "",
            "instance_id": "",
            "session_id": "",
            "endpoint": "",
            "connected": False,
            "collector": {},
            "statistics": {},
            "probes_disabled": {},
            "incident_signal": {"state": "off", "reason": off.reason},
        }
    return agent.status()


def _wanted(service: str | None, endpoint: str | None, config: Config | None, options: Mapping[str, Any]) -> Config:
    if is_disabled():
        return Config(disable=True)
    if config is None:
        return from_env(os.environ, service=service, endpoint=endpoint, options=options)
    if service is not None or endpoint is not None or options:
        raise ConfigError("init(config=…) takes nothing else; put service, endpoint and options into the Config.")
    return config


def _agent_of_this_process() -> Agent | None:
    """The agent, unless it is a parent's that a fork without Python's knowledge brought here."""
    agent = _current
    return agent if agent is not None and agent.pid == os.getpid() else None


def _agent_to_fork() -> Agent | None:
    """The same, unless its threads were replaced meanwhile: to wait for it could then let another greenlet run, and one
    like it in the child would have no threads."""
    return _agent_of_this_process() if threads_replaced() is None else None


def _withdraw(agent: Agent, reason: str) -> None:
    """As if it had never started; in the agent's thread."""
    global _current, _off
    with _lock:
        if _current is not agent:
            return
        _current, _off = None, ProbeState("refused", reason)
    log().warning("glassbottom is off: %s", reason)
    agent.sender.end()
    agent.end_captures(0.0)
    agent.stop_probes(WITHDRAW_TIMEOUT_S)


def _register_at_exit() -> None:
    global _at_exit_registered
    if not _at_exit_registered:
        _at_exit_registered = True
        atexit.register(_at_exit)


def _at_exit() -> None:
    agent = _agent_of_this_process()
    if agent is not None:
        shutdown(agent.config.transport.shutdown_timeout_s)


def _replace_after_fork(parent: Agent) -> None:
    """In a forked child: nothing of the parent's agent is touched, an equal one starts with an identity of its own."""
    global _current, _lock
    _lock = threading.Lock()
    _threads.reset_after_fork()
    _describe.reset_after_fork()
    parent.sender.abandon()
    agent = Agent(
        parent.config,
        provisional=parent.provisional,
        connect=parent.connect,
        clock=parent.clock,
        withdraw=_withdraw,
    )
    _current = agent
    with agent.guard.guarded("start"):
        agent.start()
