"""Every allocation for a while, native ones as well, by memray: what the sampler, which sees Python's, cannot tell.

memray notes each call of malloc and mmap, and each function that Python enters, in every thread, so the process is
slower meanwhile; how much depends on what it does. It sums up in memory and writes one file at the end: what was
alive at the peak, and what was allocated in the window and not freed in it. Whatever lives longer than the window looks
the same as a leak, so the window must be longer than a request lives.

The file is not read here: that is the collector's work.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from types import ModuleType

from .. import _threads
from .._errors import CaptureError
from . import Made, Order, room

FREE_RATIO_MIN = 0.20
FREE_RATIO_STOP = 0.10
"""What memray sums up takes memory of its own; at so little left the window ends early."""
LOOK_EVERY_S = 0.25
RSS_EVERY_MS = 1000
HEAD_BYTES = 4096
TOOL_IDS = range(3)
"""Of sys.monitoring: for debuggers, coverage and profilers."""


class MemrayCapture:
    """`dump_memray`. Options: native=1 notes native call paths too, python=1 what Python's allocator hands out."""

    kind = "dump_memray"

    def refusal(self, order: Order) -> str | None:  # noqa: ARG002 - it is the same for every order
        if not getattr(sys, "_is_gil_enabled", lambda: True)() and sys.version_info < (3, 14):
            return "memray cannot watch an interpreter without a GIL before Python 3.14."
        if "greenlet" in sys.modules:
            return (
                "greenlets are in use in this process (by gevent, or SQLAlchemy under asyncio), and memray mixes up "
                "their stacks and may crash; `glassbottom dump heap` shows what is alive without it."
            )
        other = _somebody_traces()
        if other is not None:
            return other
        free = room.left_ratio()
        if free < FREE_RATIO_MIN:
            return (
                f"Only {free:.0%} of the memory this process may have is free, and memray needs some to sum up in: at "
                f"least {FREE_RATIO_MIN:.0%} must be."
            )
        return _missing()

    def run(self, order: Order, directory: Path, ending: _threads.Event) -> Made:
        """Watches for order.seconds, or until it is to end, or memory runs short."""
        from importlib.metadata import version

        import memray

        path = directory / "memray.bin"
        try:
            tracker = memray.Tracker(
                destination=memray.FileDestination(path, overwrite=True, compress_on_exit=False),
                native_traces=order.options.get("native") == "1",
                trace_python_allocators=order.options.get("python") == "1",
                follow_fork=False,
                memory_interval_ms=RSS_EVERY_MS,
                file_format=memray.FileFormat.AGGREGATED_ALLOCATIONS,
            )
            before = room.resident_bytes()
            began_s = time.perf_counter()
            with tracker:
                watching_s = time.perf_counter()
                short = _watch(order.seconds, ending)
                watched_s = time.perf_counter() - watching_s
            took_s = time.perf_counter() - began_s
        except (RuntimeError, OSError) as error:
            raise CaptureError(f"memray could not watch: {error}.") from error
        facts: dict[str, float | str] = {
            "watched_s": watched_s,
            "begin_and_end_ms": (took_s - watched_s) * 1000,
            "resident_grown_bytes": room.resident_bytes() - before,
            "memray": version("memray"),
        }
        _blot_out_command_line(path)
        if short:
            facts["ended_early"] = f"Less than {FREE_RATIO_STOP:.0%} of the memory this process may have was left."
        left = _traced()
        if left:
            facts["threads_still_traced"] = float(left)
        return Made(path, facts)


def _blot_out_command_line(path: Path) -> None:
    """memray writes sys.argv into the head of its file, and what was typed there stays in the process. Raises
    CaptureError when it is not where it should be, and the file goes nowhere."""
    line = " ".join(sys.argv).encode("utf-8", "surrogateescape").partition(b"\0")[0]
    with path.open("r+b") as file:
        head = file.read(HEAD_BYTES + len(line))
        at = head.find(line + b"\0")
        if at < 0:
            raise CaptureError("memray's file is not of the form expected, so it cannot be made safe to send.")
        file.seek(at)
        file.write(b"-" * len(line))


def _watch(seconds: float, ending: _threads.Event) -> bool:
    """Waits; True when memory ran short."""
    until_s = time.perf_counter() + seconds
    while (left_s := until_s - time.perf_counter()) > 0:
        if ending.wait(min(left_s, LOOK_EVERY_S)):
            return False
        if room.left_ratio() < FREE_RATIO_STOP:
            return True
    return False


def _somebody_traces() -> str | None:
    """memray sets a function of sys.setprofile() in every thread, and takes it away in the end: another one, of a
    debugger, a profiler or coverage, would be gone with it."""
    if threading.gettrace() is not None or threading.getprofile() is not None or _traced():
        return (
            "A debugger, a profiler or coverage is at work in this process (sys.settrace or sys.setprofile), and "
            "memray would put it out of work; stop it first."
        )
    monitoring: ModuleType | None = getattr(sys, "monitoring", None)
    for tool_id in TOOL_IDS if monitoring is not None else ():
        name = monitoring.get_tool(tool_id) if monitoring is not None else None
        if name is not None:
            return f"{name} watches this process by sys.monitoring, and memray could go wrong beside it; stop it first."
    return None


def _traced() -> int:
    try:
        from .. import _native
    except ImportError:
        return 0
    return _native.threads_traced()


def _missing() -> str | None:
    """Imports it, so that run() need not. Why that cannot be."""
    try:
        import importlib.metadata  # noqa: F401

        import memray  # noqa: F401
    except ImportError as error:
        return f"memray cannot be imported ({error}); run: pip install 'glassbottom[captures]'."
    return None
