"""Who holds what: every object of this process in a file, without stopping it.

A copy of the process writes the file (native/dump.c). The copy shares all memory with the process, and a page is
doubled only when one of the two writes to it, so what must be free is what this process writes to in the seconds that
takes. Where that might not be, or the system would not let it be promised, the dump is refused; while it is written,
the copy is ended when memory runs short.

Where no copy can be made at all, on another system than Linux or under a system that forbids it, objects are counted by
type instead, in the process: census.py.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from .. import _threads
from .._errors import CaptureError
from . import Made, Order, census, room

try:
    from .. import _native
except ImportError:  # the extension was not built; refusal() says so
    _native = None  # type: ignore[assignment]

GIB = 1 << 30
FREE_RATIO_MIN = 0.15
"""Of the memory this process may have, so much must be free before..."""
FREE_RATIO_STOP = 0.07
"""...and the copy is ended when there is only so much left."""
DIRTIED_RATIO = 0.15
"""A service writes to a part of its memory while it is dumped: counts of references, garbage collections. Twice this
share of what is resident must be free."""
DIRTIED_BYTES_MIN = 32 << 20
RESIDENT_BYTES_MAX = 8 * GIB
"""Above that it is done only when asked for with the option large=1, for the time the process stands still."""
PAUSE_MS_PER_GIB = 20.0
"""What copying the tables of a GiB takes in pages of 4 KiB (docs/benchmarks/dump.md); to be told before it is done."""
LOOK_EVERY_S = 0.25
BUSY_S_MAX = 5.0
"""So long a garbage collection under way is waited for."""
LATE_S_MAX = 10.0
"""The copy looks at the clock itself; when it is so late it hangs, and is ended."""
PROC = Path("/proc")
ENDS = {0: "complete", 1: "cut off: it would be larger than allowed", 2: "cut off: it took longer than allowed"}
BROKEN = "cut off: too many objects could not be read"


class HeapCapture:
    """`dump_heap`. Options: large=1 allows more than 8 GiB of resident memory, census=1 counts objects by type
    within the process instead."""

    kind = "dump_heap"

    def refusal(self, order: Order) -> str | None:
        import platform  # noqa: F401 - so that run() need not

        if _is_census(order):
            return census.refusal()
        return refusal(large=order.options.get("large") == "1")

    def run(self, order: Order, directory: Path, ending: _threads.Event) -> Made:
        if _is_census(order):
            return census.count(order.seconds, ending)
        return dump_heap(
            directory / "heap.dump",
            service="",  # the collector knows whom it asked
            instance_id="",
            bytes_max=order.bytes_max,
            seconds_max=order.seconds,
            ending=ending,
        )


def _is_census(order: Order) -> bool:
    return order.options.get("census") == "1" or cannot_copy() is not None


def cannot_copy() -> str | None:
    """Why this process can never be dumped, in a sentence; None when it can."""
    if _native is None:
        return "The agent's C extension is not there, and heap dumps are made by it; reinstall glassbottom."
    return _native.dump_refusal()


def refusal(*, large: bool = False, proc: Path = PROC) -> str | None:
    """Why it must not be done now, in a sentence that says what would have to change; None when it may."""
    reason = cannot_copy()
    if reason is not None:
        return reason
    instead = "; the option census=1 counts objects by type instead, without a copy"
    if _text(proc / "sys/vm/overcommit_memory") == "2":
        return (
            "This system promises no more memory than it has (vm.overcommit_memory is 2), and a copy of the process "
            f"for a moment would have to be promised all of it{instead}."
        )
    resident = room.resident_bytes(proc)
    if resident > RESIDENT_BYTES_MAX and not large:
        return (
            f"This process has {resident / GIB:.1f} GiB of resident memory and would stand still for about "
            f"{resident / GIB * PAUSE_MS_PER_GIB:.0f} ms while its tables are copied; allow that with the option "
            "large=1."
        )
    free, total = room.left_bytes(proc)
    needed = max(
        2 * (DIRTIED_BYTES_MIN + DIRTIED_RATIO * resident), 0.0 if total == float("inf") else FREE_RATIO_MIN * total
    )
    if free < needed:
        return (
            f"Of the {total / GIB:.1f} GiB of memory this process may have, {free / GIB:.2f} GiB are free, and the "
            f"memory that it writes to during a dump is doubled: {needed / GIB:.2f} GiB should be free{instead}."
        )
    return _processes_left(proc)


def _processes_left(proc: Path) -> str | None:
    """Whether the control group has room for one more process."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        path = next(line[3:] for line in (proc / "self/cgroup").read_text().splitlines() if line.startswith("0::"))
        group = Path("/sys/fs/cgroup") / path.lstrip("/")
        now, most = int(_text(group / "pids.current")), int(_text(group / "pids.max"))
        if now >= most:
            return f"The control group of this process may have {most} threads, and has them; raise pids.max."
    return None


def _text(path: Path) -> str:
    """ "" where there is no such file."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def dump_heap(
    path: Path,
    *,
    service: str,
    instance_id: str,
    bytes_max: int,
    seconds_max: float,
    clock: Callable[[], int] = time.time_ns,
    ending: _threads.Event | None = None,
) -> Made:
    """Writes a dump of this process to path, which must not exist. Source of the numbers: native/dump.c.

    clock: nanoseconds since the Unix epoch. ending: when set, the copy is ended, and what it has written is kept.
    Facts: pause_ms (how long the process stood still), objects, references, seconds, dirtied_bytes (memory doubled by
    what either of the two wrote to), resident_bytes, unreadable_objects, lost_objects, end (complete, or cut off and
    why). Raises CaptureError, and leaves no file, when there is no dump in the end.
    """
    reason = cannot_copy()
    if reason is not None:
        raise CaptureError(reason)
    resident = room.resident_bytes()
    info = {
        "format": 1,
        "pid": os.getpid(),
        "service": service,
        "instance_id": instance_id,
        "at_ns": clock(),
        "python": platform.python_version(),
        "platform": sys.platform,
        "rss_bytes": int(resident),
    }
    try:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CaptureError(f"The dump cannot be written to {path.parent}: {error.strerror}.") from error
    try:
        try:
            pid, pause_ns = _start(fd, json.dumps(info).encode(), bytes_max, seconds_max, ending or _threads.Event())
        finally:
            os.close(fd)
        end = _watch(pid, seconds_max, ending or _threads.Event())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    progress = _native.dump_progress()
    return Made(
        path,
        {
            "pause_ms": pause_ns / 1e6,
            "objects": float(progress["objects"]),
            "references": float(progress["edges"]),
            "seconds": progress["elapsed_us"] / 1e6,
            "dirtied_bytes": progress["dirtied_kib"] * 1024.0,
            "resident_bytes": resident,
            "unreadable_objects": float(progress["faults"]),
            "lost_objects": float(progress["lost"]),
            "end": end,
        },
    )


def _start(fd: int, info: bytes, bytes_max: int, seconds_max: float, ending: _threads.Event) -> tuple[int, int]:
    """Process id of the copy, and the pause in nanoseconds; waits for the end of a garbage collection."""
    until_s = time.monotonic() + BUSY_S_MAX
    while True:
        try:
            return _native.dump_start(fd, info, bytes_max=bytes_max, seconds_max=seconds_max)
        except RuntimeError as error:
            raise CaptureError(str(error)) from error
        except OSError as error:
            if not isinstance(error, BlockingIOError) or error.errno is not None:
                raise CaptureError(_no_copy(error)) from error
            if time.monotonic() > until_s:
                raise CaptureError(f"A garbage collection goes on for {BUSY_S_MAX:g} s already; try again.") from error
        if ending.wait(0.01):
            raise CaptureError("It was to end before it had begun.")


def _no_copy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"There is no room for the dump where it would be written: {error.strerror}."
    if error.errno == errno.EAGAIN:
        return "The system has no room for another process (EAGAIN): a limit, ulimit -u or pids.max, is reached."
    if error.errno == errno.ENOMEM:
        return "The system would not promise memory for a copy of this process (ENOMEM)."
    return f"This process could not be copied: {error.strerror}."


def _watch(pid: int, seconds_max: float, ending: _threads.Event) -> str:
    """Waits for the copy's end, ends it where it must be; how it ended. Raises CaptureError when there is no dump."""
    late_s = time.monotonic() + seconds_max + LATE_S_MAX
    code = None
    try:
        while (code := _native.dump_wait(pid, LOOK_EVERY_S)) is None:
            if ending.is_set():
                return "cut off: it was to end"
            if time.monotonic() > late_s:
                return "cut off: it did not end by itself"
            if room.left_ratio() < FREE_RATIO_STOP:
                raise CaptureError(
                    f"Memory ran short: less than {FREE_RATIO_STOP:.0%} were left, so the dump was given up after "
                    f"{_native.dump_progress()['objects']} objects."
                )
    except (OSError, ValueError) as error:
        raise CaptureError(f"What became of the dump is not known: {error}") from error
    finally:
        if code is None:  # whatever happened, none is left behind
            with contextlib.suppress(OSError, ValueError):
                _end(pid)
    if code in ENDS:
        return ENDS[code]
    progress = _native.dump_progress()
    if code < 0:
        raise CaptureError(
            f"The copy that wrote the dump was ended by {_signal(-code)} after {progress['objects']} objects; when "
            "memory is short, the system ends it first."
        )
    if progress["errno"]:
        what = os.strerror(progress["errno"])
        raise CaptureError(f"The dump could not be written after {progress['bytes']} bytes: {what}.")
    return BROKEN


def _end(pid: int) -> None:
    _native.dump_kill(pid)
    while _native.dump_wait(pid, LOOK_EVERY_S) is None:
        pass  # nothing survives it; a write to a slow disk may have to end first


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
