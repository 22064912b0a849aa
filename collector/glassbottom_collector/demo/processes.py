"""The processes of the demonstration: started, waited for, and ended whatever happens.

Each is the leader of a session of its own, so that Ctrl-C reaches only us and the order of ending stays ours. What a
process writes is kept to a bounded tail, and shown only when it fails.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..errors import CollectorError

START_S_MAX = 30.0
STOP_S_MAX = 15.0
TAIL_LINES = 40
# A minute of evidence instead of an hour's: so look five times as often as in production, and four times as closely.
SNAPSHOT_INTERVAL_S = 2.0
INTERVAL_BYTES = 128 * 1024


class ProcessFailed(CollectorError):  # noqa: N818 - says what happened, as its neighbours do
    """A process of the demonstration did not start, or ended early; the message has its last lines."""


class Process:
    """A child that is ready when a line of its stderr matches. more: variables added to environment()."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        ready: str,
        *,
        more: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> None:
        self.name = name
        self._ready = re.compile(ready)
        self._seen = threading.Event()
        self._found: re.Match[str] | None = None
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._child = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment(more),
            cwd=directory,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name=f"demo-{name}", daemon=True)
        self._reader.start()

    def wait_until_ready(self, meanwhile: Callable[[], None]) -> re.Match[str]:
        """The line it said it with. meanwhile is called now and then, and may raise to end the wait.

        Raises ProcessFailed when the process ends, or START_S_MAX pass, without that line.
        """
        until_s = time.monotonic() + START_S_MAX
        while not self._seen.wait(0.1):
            meanwhile()
            if time.monotonic() > until_s:
                raise ProcessFailed(f"The {self.name} was not ready within {START_S_MAX:g} s.\n{self.tail()}")
        if self._found is None:
            raise ProcessFailed(f"The {self.name} ended before it was ready.\n{self.tail()}")
        return self._found

    def check(self) -> None:
        """Raises ProcessFailed when it has ended by itself."""
        if self._child.poll() is not None:
            self._reader.join(1)
            raise ProcessFailed(f"The {self.name} ended with code {self._child.returncode}.\n{self.tail()}")

    def stop(self) -> None:
        """SIGTERM, then SIGKILL where that is not enough."""
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)
            try:
                self._child.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        self._reader.join(1)

    def tail(self) -> str:
        """The last lines it wrote."""
        return "\n".join(self._tail)

    def _read(self) -> None:
        assert self._child.stderr is not None
        with self._child.stderr as stderr:
            for line in stderr:
                self._tail.append(line.rstrip())
                if self._found is None and (found := self._ready.search(line)):
                    self._found = found
                    self._seen.set()
        self._seen.set()


def collector(data: Path) -> Process:
    """A collector with an empty store of its own on a free port of the loopback; group 1 is its HOST:PORT."""
    command = ["-m", "glassbottom_collector.server", "--data", str(data), "--listen", "127.0.0.1:0"]
    return Process("collector", command, r"glassbottom collector \S+ listening on (\S+), data in")


def shop(directory: Path, endpoint: str) -> Process:
    """The shop, from its file in a directory, served by uvicorn on a free port; group 1 is its HOST:PORT."""
    command = ["-m", "uvicorn", "shop:app", "--host", "127.0.0.1", "--port", "0", "--no-access-log"]
    settings = {
        "GLASSBOTTOM_ENDPOINT": endpoint,
        "GLASSBOTTOM_SNAPSHOT_INTERVAL_S": f"{SNAPSHOT_INTERVAL_S:g}",
        "GLASSBOTTOM_INTERVAL_BYTES": f"{INTERVAL_BYTES}",
    }
    ready = r"Uvicorn running on http://(127\.0\.0\.1:\d+)"
    return Process("shop", command, ready, more=settings, directory=directory)


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ours without settings of the agent's: a person's own must not decide how the demonstration goes."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GLASSBOTTOM_", "OTEL_"))}
    return {**kept, **(more or {})}
