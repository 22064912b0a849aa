"""SIGUSR2: somebody at the machine wants this process looked at, and has nothing but `kill`.

The signal is taken only while nobody else wants it, which is asked of Python and of the kernel, for a handler of C code
(faulthandler.register, say) is not known to Python. The handler sets two fields and wakes the sender: no lock is taken
that code interrupted in the middle could be holding. What the application installs later replaces ours, and then ours
is gone: status() says so. gunicorn's master, which uses SIGUSR2 itself, does just that, and its workers set it back to
the default before they load the application.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from ._log import log
from .wire.v1 import ingest_pb2

EVERY_S = 60.0
"""Of several signals within this time one is passed on."""
STATUS = Path("/proc/self/status")

_call: Callable[[], None] | None = None


def _handler(_number: int, _frame: FrameType | None) -> None:
    call = _call
    if call is not None:
        call()


class IncidentSignal:
    """The signal as one agent has it. start() and stop() in the application's thread, take() in the sender's."""

    def __init__(self, name: str, wake: Callable[[], None], clock_ns: Callable[[], int] = time.time_ns) -> None:
        self.name = name
        self._wake = wake
        self._clock_ns = clock_ns
        self._reason = "The agent is stopped." if name else "The configuration turns it off."
        self._called_at_ns = 0
        self._next_s = float("-inf")
        self._calls = self._sent = self._unsent = 0

    def start(self) -> None:
        """Takes the signal when nobody has it; state() says why not."""
        global _call
        if not self.name:
            return
        number = getattr(signal, self.name)
        if signal.getsignal(number) is not _handler:
            self._reason = _refusal(number, self.name)
            if self._reason:
                return
            try:
                signal.signal(number, _handler)
            except ValueError:
                self._reason = f"{self.name} can only be taken in the main thread, and init() was called in another."
                return
        self._reason = ""
        _call = self._called

    def stop(self) -> None:
        """Gives it back if it is still ours and may be."""
        global _call
        if _call != self._called:
            return
        _call = None
        self._reason = "The agent is stopped."
        number = getattr(signal, self.name)
        if threading.current_thread() is threading.main_thread() and signal.getsignal(number) is _handler:
            try:
                signal.signal(number, signal.SIG_DFL)
            except ValueError:  # not in the main interpreter
                return

    def take(self, now_s: float) -> list[ingest_pb2.SessionRequest]:
        """What to tell the collector of it now."""
        at_ns, self._called_at_ns = self._called_at_ns, 0
        if not at_ns:
            return []
        if now_s < self._next_s:
            self._unsent += 1
            log().warning("glassbottom: %s is passed on once in %.0f s; this one is not.", self.name, EVERY_S)
            return []
        self._next_s = now_s + EVERY_S
        self._sent += 1
        log().warning("glassbottom: %s: the collector is asked to capture this incident.", self.name)
        return [ingest_pb2.SessionRequest(incident_call=ingest_pb2.IncidentCall(at_ns=at_ns, reason=self.name))]

    def state(self) -> dict[str, str]:
        """For status(): "running", "off" or "refused", and why."""
        if not self._reason and signal.getsignal(getattr(signal, self.name)) is not _handler:
            return {"state": "refused", "reason": f"The application has taken {self.name} since."}
        if not self._reason:
            return {"state": "running", "reason": ""}
        return {"state": "refused" if self.name else "off", "reason": self._reason}

    def statistics(self) -> dict[str, float]:
        """By the names of docs/status.md."""
        return {
            "incident_signals_total": self._calls,
            "incident_calls_total": self._sent,
            "incident_calls_unsent_total": self._unsent,
        }

    def _called(self) -> None:
        """In the main thread, between any two lines of the application's."""
        self._calls += 1
        self._called_at_ns = self._clock_ns()
        self._wake()


def _refusal(number: int, name: str) -> str:
    """Why it is not to be taken; "" when it may."""
    found = signal.getsignal(number)
    if found is signal.SIG_IGN:
        return f"This process ignores {name}."
    if found is not signal.SIG_DFL or _is_caught(number):
        return f"{name} was in use before the agent came."
    return ""


def _is_caught(number: int) -> bool:
    """Whether the kernel knows a handler, Python's or not; False where it does not tell."""
    try:
        for line in STATUS.read_bytes().splitlines():
            if line.startswith(b"SigCgt:"):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    except (OSError, ValueError, IndexError):
        return False
    return False
