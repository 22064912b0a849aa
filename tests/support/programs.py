"""Programs that a test starts: with the agent on their path, quick intervals, and an end."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.collector_process import python_environment

ROOT = Path(__file__).resolve().parents[2]
QUICK = {
    "GLASSBOTTOM_SNAPSHOT_INTERVAL_S": "0.3",
    "GLASSBOTTOM_RUNTIME_INTERVAL_S": "0.3",
    "GLASSBOTTOM_HEARTBEAT_INTERVAL_S": "0.3",
    "GLASSBOTTOM_CONNECT_DELAY_S": "0.05",
    "GLASSBOTTOM_BACKOFF_S_MAX": "0.5",
}


def environment(endpoint: str, **more: str) -> dict[str, str]:
    """This process's environment, with the agent importable and pointed at a collector."""
    path = os.pathsep.join([str(ROOT / "agent"), str(ROOT)])
    return {**os.environ, "PYTHONPATH": path, "GLASSBOTTOM_ENDPOINT": endpoint, **QUICK, **more}


def python(code: str, endpoint: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end, which must come within a minute."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment(endpoint, **environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )


@contextlib.contextmanager
def waiting(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A program that has said "ready", lives until a line comes from its standard input, and must end well."""
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=python_environment(None),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.close()
        assert process.wait(30) == 0


class Server:
    """A server process that says on stderr where it listens."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._seen = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._seen:
                self.lines.append(line)
                self._seen.notify_all()
        with self._seen:
            self.lines.append("<end>")
            self._seen.notify_all()

    def wait_for_line(self, pattern: str, timeout_s: float = 30.0) -> re.Match[str]:
        """The first line that matches; AssertionError when the process ends first."""

        def found() -> re.Match[str] | None:
            return next((match for line in self.lines if (match := re.search(pattern, line))), None)

        with self._seen:
            self._seen.wait_for(lambda: found() or "<end>" in self.lines, timeout_s)
            match = found()
        assert match is not None, "".join(self.lines)
        return match


@contextlib.contextmanager
def server(command: Sequence[str], environ: dict[str, str], stdin: int | None = None) -> Iterator[Server]:
    """Starts a server and ends it, gently if it lets itself be ended. stdin: as subprocess takes it."""
    process = subprocess.Popen(command, env=environ, stdin=stdin, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        yield Server(process)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
