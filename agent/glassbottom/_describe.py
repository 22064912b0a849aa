"""What the application tells of itself when its state is captured: feature flags, the tenant, the size of a pool.

A function is registered under a name and called when somebody captures the state, in a thread of its own: what it
waits for, it keeps waiting alone. Only plain values are taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from . import _threads

NAMES_MAX = 64
NAME_CHARACTERS_MAX = 100
ENTRIES_MAX = 200
VALUE_CHARACTERS_MAX = 500
WAIT_S = 0.5
"""For each; so that some that hang do not keep the others waiting."""

Plain = str | int | float | bool | None
_functions: dict[str, Callable[[], object]] = {}
_hanging: dict[str, _threads.Thread] = {}
subject: Callable[[], Mapping[str, Any]] = dict
"""What the agent of this process knows of itself; set when it starts."""


def describe(name: str, function: Callable[[], object] | None) -> None:
    """Registers, replaces or, with None, takes back."""
    if not isinstance(name, str) or not name.strip() or len(name) > NAME_CHARACTERS_MAX:
        raise ValueError(f"describe() needs a name of 1 to {NAME_CHARACTERS_MAX} characters, such as flags.")
    if function is None:
        _functions.pop(name, None)
        return
    if not callable(function):
        raise TypeError("describe() needs a function without arguments that returns a value or a mapping of values.")
    if name not in _functions and len(_functions) >= NAMES_MAX:
        raise ValueError(f"{NAMES_MAX} functions are registered already; combine some into one that returns a mapping.")
    _functions[name] = function


def descriptions(ending: _threads.Event) -> dict[str, Any]:
    """What each says: a value, a mapping of values, or {"error": a sentence}. Waits at most WAIT_S for each."""
    return {name: _ask(name, function) for name, function in list(_functions.items()) if not ending.is_set()}


def reset_after_fork() -> None:
    """Threads that hung stayed with the parent."""
    _hanging.clear()


def _ask(name: str, function: Callable[[], object]) -> Any:
    before = _hanging.get(name)
    if before is not None and not before.wait(0.0):
        return {"error": "It has not returned since it was last asked."}
    _hanging.pop(name, None)
    told: list[Any] = []

    def call() -> None:
        try:
            told.append(_plain(function()))
        except Exception as error:  # noqa: BLE001 - the application's; told by its class, for its text may hold values
            told.append({"error": f"It raised {type(error).__name__}."})

    thread = _threads.Thread(call, "glassbottom-describe")
    try:
        thread.start()
    except RuntimeError:
        return {"error": "There was no thread for it."}
    if not thread.wait(WAIT_S):
        _hanging[name] = thread
        return {"error": f"It did not return within {WAIT_S:g} s."}
    return told[0] if told else {"error": "It ended its thread."}


def _plain(told: object) -> Any:
    if not isinstance(told, Mapping):
        return _value(told)
    found: dict[str, Plain] = {}
    for name, each in told.items():
        if len(found) >= ENTRIES_MAX:
            found["..."] = f"{len(told) - ENTRIES_MAX} more are left out"
            break
        if type(name) is str:
            found[name[:NAME_CHARACTERS_MAX]] = _value(each)
    return found


def _value(told: object) -> Plain:
    """Anything but a plain value is told by its type."""
    if told is None or isinstance(told, bool):
        return told
    if isinstance(told, str):
        return str.__str__(told)[:VALUE_CHARACTERS_MAX]
    if type(told) is int:
        return told if -(2**63) <= told < 2**63 else f"<int of {told.bit_length()} bits>"
    if type(told) is float:
        return told if math.isfinite(told) else repr(told)
    return f"<{type(told).__name__}>"
