"""Where every thread is, now or for a while, as py-spy sees it from outside: also threads that hold the GIL in C.

py-spy is a program of its own, started by this process to look at it. It copies memory and never stops a thread
(`--nonblocking`), so that it cannot leave one stopped; the price is now and then a stack that was torn as it changed.
Values of variables are never asked for.

Where Yama guards processes, only ancestors may look; this process lets in the one it started, for as long as that runs.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .. import _threads
from .._errors import CaptureError
from . import Made, Order

if TYPE_CHECKING:
    import subprocess

STACKS_SECONDS_MAX = 20.0
RATE_HZ = 50
RATE_HZ_MAX = 200
LOOK_EVERY_S = 0.05
WRITE_SECONDS_MAX = 15.0
"""For py-spy to write down what it has, after it was told to stop."""
ERROR_BYTES_MAX = 4096
ATTEMPTS = 2
YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")
STATUS = Path("/proc/self/status")
PTRACE_CAPABILITY = 1 << 19
RAW_FLAGS = ("--nonblocking", "--full-filenames")


class StacksCapture:
    """`dump_stacks`: JSON, a list of threads with their frames."""

    kind = "dump_stacks"

    def refusal(self, order: Order) -> str | None:  # noqa: ARG002 - it is the same for every order
        return _refusal()

    def run(self, order: Order, directory: Path, ending: _threads.Event) -> Made:
        """One look."""
        path = directory / "stacks.json"
        arguments = ["dump", "--json", *RAW_FLAGS, "--pid", str(os.getpid())]
        took_s = _py_spy(arguments, directory, ending, min(order.seconds, STACKS_SECONDS_MAX), stdout=path)
        return Made(_within(path, order), {"took_ms": took_s * 1000, "py_spy": version()})


class CpuCapture:
    """`dump_cpu`: call paths with counts, one a line, as flame graphs are made from.

    Options: rate_hz (50); idle=1 also counts threads that wait; gil=1 counts only who holds the GIL.
    """

    kind = "dump_cpu"

    def refusal(self, order: Order) -> str | None:
        try:
            rate_hz = int(order.options.get("rate_hz", RATE_HZ))
        except ValueError:
            rate_hz = 0
        if not 1 <= rate_hz <= RATE_HZ_MAX:
            return f"The option rate_hz must be a whole number from 1 to {RATE_HZ_MAX} samples a second."
        return _refusal()

    def run(self, order: Order, directory: Path, ending: _threads.Event) -> Made:
        """Looks for order.seconds, or until it is to end."""
        path = directory / "cpu.folded"
        rate_hz = int(order.options.get("rate_hz", RATE_HZ))
        arguments = ["record", "--format", "raw", *RAW_FLAGS, "--threads", "--rate", str(rate_hz)]
        arguments += ["--duration", str(max(1, round(order.seconds))), "--output", str(path), "--pid", str(os.getpid())]
        arguments += [f"--{name}" for name in ("idle", "gil") if order.options.get(name) == "1"]
        limit_s = order.seconds + WRITE_SECONDS_MAX
        took_s = _py_spy(arguments, directory, ending, limit_s, stop_gently=True)
        return Made(_within(path, order), {"took_s": took_s, "rate_hz": float(rate_hz), "py_spy": version()})


def program() -> str | None:
    """Where py-spy is: beside this interpreter, or on the PATH."""
    from shutil import which

    return which("py-spy", path=str(Path(sys.executable or "").parent)) or which("py-spy")


def version() -> str:
    """Of the installed package; empty where that does not say."""
    from importlib import metadata

    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version("py-spy")
    return ""


def _refusal() -> str | None:
    import importlib.metadata  # noqa: F401 - used in run()
    import shutil  # noqa: F401
    import signal
    import subprocess  # noqa: F401

    if program() is None:
        return (
            "py-spy is not installed beside this interpreter or on its PATH; run: pip install 'glassbottom[captures]'."
        )
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return "py-spy cannot look at an interpreter without a GIL."
    handler = signal.getsignal(signal.SIGCHLD)
    if callable(handler):
        return (
            "This process handles SIGCHLD itself and would hear of the end of py-spy as of a child of its own; run "
            "py-spy beside it instead: docs/captures.md says how."
        )
    return _not_permitted()


def _not_permitted() -> str | None:
    """Why the kernel would not let a child look at this process."""
    try:
        from .. import _native
    except ImportError as error:
        return f"This needs the native part of the agent, which cannot be loaded: {error}."
    privileged = _has_ptrace()
    if not _native.is_dumpable() and not privileged:
        return "The kernel lets nobody look at this process: it has changed its user since it began, or asked for that."
    try:
        scope = int(YAMA.read_text())
    except (OSError, ValueError):
        scope = 0
    if scope >= 3:
        return "kernel.yama.ptrace_scope is 3 on this machine, so no process may look at another one."
    if scope == 2 and not privileged:
        return (
            "kernel.yama.ptrace_scope is 2 on this machine, so looking takes CAP_SYS_PTRACE, which this process lacks."
        )
    return None


def _has_ptrace() -> bool:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in STATUS.read_text(errors="replace").splitlines():
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) & PTRACE_CAPABILITY)
    return False


def _py_spy(
    arguments: Sequence[str],
    directory: Path,
    ending: _threads.Event,
    limit_s: float,
    *,
    stdout: Path | None = None,
    stop_gently: bool = False,
) -> float:
    """Runs it to its end; seconds. stop_gently: told to end early, it is let write what it has.

    Raises CaptureError with what it said when it failed, took longer than limit_s, or was to end.
    """
    found = program()
    if found is None:
        raise CaptureError("py-spy has gone since the order was accepted; install it again.")
    began_s = time.perf_counter()
    for attempt in range(ATTEMPTS):
        until_s = began_s + limit_s
        ended, code, words = _run([found, *arguments], directory, ending, until_s, stdout, stop_gently)
        took_s = time.perf_counter() - began_s
        if not ended:
            raise CaptureError(f"py-spy was still looking after {took_s:.0f} s, or had to end early, and was stopped.")
        if code == 0:
            break
        # It may have looked before this thread, which must wait for the GIL, could say that it may.
        if attempt + 1 == ATTEMPTS or not _says_permission(words):
            raise CaptureError(f"py-spy failed: {_last_words(words)}")
    return took_s


def _run(
    line: Sequence[str],
    directory: Path,
    ending: _threads.Event,
    until_s: float,
    stdout: Path | None,
    stop_gently: bool,
) -> tuple[bool, int, str]:
    """Whether it ended by itself or as it was told, its exit code, and the end of what it said."""
    import signal
    import subprocess

    from .. import _native

    said = directory / "py-spy.err"
    with (stdout or Path(os.devnull)).open("wb") as out, said.open("wb") as error:
        # Descriptors are closed in the child, and no handler of os.register_at_fork() runs.
        process = subprocess.Popen(
            line, stdin=subprocess.DEVNULL, stdout=out, stderr=error, cwd=directory, env={"LC_ALL": "C"}
        )
        try:
            _native.allow_tracer(process.pid)
            ended = _wait(process, ending, until_s)
            if not ended and stop_gently:
                process.send_signal(signal.SIGINT)
                ended = _wait(process, _threads.Event(), time.perf_counter() + WRITE_SECONDS_MAX)
        finally:
            _native.allow_tracer(0)
            if process.poll() is None:
                process.kill()
                _wait(process, _threads.Event(), time.perf_counter() + WRITE_SECONDS_MAX)
    words = said.read_bytes()[-ERROR_BYTES_MAX:].decode(errors="replace")
    said.unlink()
    return ended, process.returncode or 0, words


def _wait(process: subprocess.Popen[bytes], ending: _threads.Event, until_s: float) -> bool:
    """False when it still runs by then, or is to end. A child that somebody else has reaped counts as ended well."""
    while process.poll() is None:
        if time.perf_counter() >= until_s or ending.wait(LOOK_EVERY_S):
            return process.poll() is not None
    return True


def _last_words(words: str) -> str:
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    # It ends with "Error: …", and "Reason: …" where the system refused.
    told = [line for line in lines if line.startswith(("Error:", "Reason:"))] or lines[-1:]
    sentence = " ".join(told)[:300].rstrip(".")
    if _says_permission(sentence):
        sentence += "; a container needs CAP_SYS_PTRACE for it, or a seccomp profile that allows process_vm_readv"
    return f"{sentence or 'it did not say why'}."


def _says_permission(words: str) -> bool:
    return any(each in words for each in ("ermission", "EPERM", "os error 1)"))


def _within(path: Path, order: Order) -> Path:
    try:
        size = path.stat().st_size
    except OSError:
        raise CaptureError("py-spy ended well and wrote nothing; it may not have seen a single thread.") from None
    if size > order.bytes_max:
        raise CaptureError(f"py-spy wrote {size} bytes and {order.bytes_max} were allowed; look for a shorter time.")
    return path
