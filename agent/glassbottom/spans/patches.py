"""Functions of other people's classes, replaced and put back.

A replacement asks for the current ledger each time, so where somebody has wrapped it in the meantime it may stay: it
passes calls through. It is recognised by a mark, even inside another's wrapper, so that nothing is replaced twice.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

MARK = "__glassbottom__"


class Patches:
    """What was replaced, to be undone together."""

    def __init__(self) -> None:
        self._done: list[tuple[Any, str, Any, Any]] = []

    def wrap(self, owner: Any, name: str, make: Callable[[Any], Callable[..., Any]]) -> None:
        """Replaces owner.name by make(original), with its name, signature and docstring.

        Raises LookupError where the class does not define it itself.
        """
        original = vars(owner).get(name)
        if original is None:
            raise LookupError(f"{owner.__module__}.{owner.__qualname__} has no {name} of its own")
        if getattr(original, MARK, False):
            return
        replacement = functools.wraps(original)(make(original))
        setattr(replacement, MARK, True)
        self.replace(owner, name, replacement)

    def replace(self, owner: Any, name: str, replacement: Any) -> None:
        """Replaces owner.name, whatever it is."""
        self._done.append((owner, name, vars(owner)[name], replacement))
        setattr(owner, name, replacement)

    def undo(self) -> None:
        """Puts back what is still ours to put back."""
        while self._done:
            owner, name, original, replacement = self._done.pop()
            if vars(owner).get(name) is replacement:
                setattr(owner, name, original)
