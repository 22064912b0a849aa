"""A real collector in a process of its own, on a free port and a directory of its own."""

from __future__ import annotations

import collections
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
READY = re.compile(r"glassbottom collector (\S+) listening on (\S+), data in (.*)")


class CollectorProcess:
    """A running collector. `address` is HOST:PORT, `data` its directory, `lines` the end of its stderr."""

    def __init__(
        self,
        data: Path,
        listen: str = "127.0.0.1:0",
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        self.data = data
        self.address = ""
        self.lines: collections.deque[str] = collections.deque(maxlen=500)
        self._ready = threading.Event()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "glassbottom_collector.server", "--data", str(data), "--listen", listen, *arguments],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            text=True,
            env=python_environment(environment),
        )
        self._reader = threading.Thread(target=self._read, name="collector-stderr", daemon=True)
        self._reader.start()
        if not self._ready.wait(timeout_s) or not self.address:
            self.kill()
            raise RuntimeError("The collector did not become ready:\n" + "\n".join(self.lines))

    @property
    def pid(self) -> int:
        """Of the collector."""
        return self.process.pid

    def stop(self, timeout_s: float = 20.0) -> int:
        """SIGTERM, then waits for the drain; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout_s)
        self._reader.join(timeout_s)
        return code

    def kill(self) -> None:
        """SIGKILL: what a crash looks like."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(20)
        self._reader.join(20)

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stderr:
            for line in stderr:
                self.lines.append(line.rstrip("\n"))
                if found := READY.search(line):
                    self.address = found[2]
                    self._ready.set()
        self._ready.set()


@contextlib.contextmanager
def collector_process(
    data: Path | None = None,
    *,
    listen: str = "127.0.0.1:0",
    arguments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[CollectorProcess]:
    """A collector that is ready; drained at the end.

    data: its directory; by default a temporary one that is deleted. arguments: more of its command line.
    """
    directory = Path(tempfile.mkdtemp(prefix="glassbottom-")) if data is None else data
    try:
        running = CollectorProcess(directory, listen, arguments, environment)
        try:
            yield running
        finally:
            try:
                running.stop()
            except subprocess.TimeoutExpired:
                running.kill()
                raise
    finally:
        if data is None:
            shutil.rmtree(directory, ignore_errors=True)


def python_environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment, with this checkout's two source roots and its tests importable."""
    environment = dict(os.environ)
    roots = [str(ROOT / "agent"), str(ROOT / "collector"), str(ROOT)]
    environment["PYTHONPATH"] = os.pathsep.join([*roots, environment.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment.update(more or {})
    return environment
