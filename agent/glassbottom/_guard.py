"""The border between the agent and the application: an error of ours stops here.

guarded() swallows any Exception, logs the first of each name with its traceback, counts all, and after FAILURES_MAX
in a row turns that name off for good, so that a broken probe costs nothing and floods no log. It does not hide
KeyboardInterrupt or SystemExit: those are the application's.
"""

from __future__ import annotations

import contextlib
from types import TracebackType

from ._log import log

FAILURES_MAX = 5
"""Failures in a row after which a probe is turned off."""


class Guard:
    """Counts and contains errors by name; one for each Agent."""

    def __init__(self) -> None:
        self.errors = 0
        self.disabled: dict[str, str] = {}
        self._in_a_row: dict[str, int] = {}
        self._logged: set[str] = set()

    def guarded(self, name: str) -> _Guarded:
        """A context manager around one call of the part called `name`. Ask is_disabled(name) first."""
        return _Guarded(self, name)

    def is_disabled(self, name: str) -> bool:
        return name in self.disabled

    def _succeeded(self, name: str) -> None:
        self._in_a_row.pop(name, None)

    def _failed(self, name: str, error: Exception) -> None:
        self.errors += 1
        in_a_row = self._in_a_row.get(name, 0) + 1
        self._in_a_row[name] = in_a_row
        if name not in self._logged:
            self._logged.add(name)
            log().warning(
                "glassbottom: internal error in %s; the application is not affected and this is logged once.",
                name,
                exc_info=error,
            )
        if in_a_row == FAILURES_MAX:
            self.disabled[name] = f"{FAILURES_MAX} failures in a row, last {type(error).__name__}: {error}"
            log().error("glassbottom: %s is turned off after %s", name, self.disabled[name])


class _Guarded:
    __slots__ = ("_guard", "_name")

    def __init__(self, guard: Guard, name: str) -> None:
        self._guard = guard
        self._name = name

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None:
            self._guard._succeeded(self._name)
            return False
        if not isinstance(error, Exception):
            return False
        with contextlib.suppress(Exception):  # even a log handler of the application may raise; that stops here too
            self._guard._failed(self._name, error)
        return True
