"""`glassbottom dump heap` of a service at work: a gunicorn worker with requests, a gRPC stream, a handler of SIGCHLD.

Whatever becomes of the dump, each request is answered over the stream that was open before, the handler hears of
nothing, the command ends with a sentence, and the next dump is made as if nothing had been.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import dump_reader
from tests.support.cli import Cli
from tests.support.collector_process import collector_process
from tests.support.programs import environment, server

pytestmark = pytest.mark.once


class Service:
    """Asks a worker all the time. answered, failed: requests since the beginning. heard, last: told at the end, what
    the handler of signals has heard, and which process is the worker."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.answered = 0
        self.failed: list[str] = []
        self.heard: list[str] | None = None
        self.last = 0
        self._ended = threading.Event()
        self._client = threading.Thread(target=self._ask)
        self.worker = int(self.get("/worker"))

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=60) as answer:
            return bytes(answer.read())

    def _ask(self) -> None:
        while not self._ended.is_set():
            try:
                assert self.get("/hello") == b"/HELLO"
                self.answered += 1
            except Exception as error:
                self.failed.append(repr(error))

    @contextlib.contextmanager
    def asked(self) -> Iterator[Service]:
        self._client.start()
        try:
            yield self
        finally:
            self._ended.set()
            self._client.join(60)
            self.heard = json.loads(self.get("/heard"))
            self.last = int(self.get("/worker"))
            self.get("/end")

    def copies(self) -> list[int]:
        """Process ids of the worker's children that write a dump."""
        found = []
        for path in Path(f"/proc/{self.worker}/task").glob("*/children"):
            with contextlib.suppress(OSError):  # a thread that has ended
                found += [int(pid) for pid in path.read_text().split()]
        return [pid for pid in found if _name(pid) == "gb-heap-dump"]


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def dump(cli: Cli, *line: str) -> int:
    """Orders one, again while the worker is about to connect, or rests after the one before; how that ended."""
    deadline_s = time.monotonic() + 60
    while True:
        code = cli("dump", "heap", "--service", "dumped", *line)
        said = cli.out + cli.err
        if code == 0 or not any(words in said for words in ("is connected", "has sent data", "try again")):
            return code
        assert time.monotonic() < deadline_s, said
        time.sleep(0.1)


def test_requests_streams_and_handlers_of_signals_do_not_notice_a_dump_nor_its_death(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--workers", "1", "--threads", "4", "--bind", "127.0.0.1:0"]
    gunicorn = [sys.executable, "-m", "gunicorn", *options, "tests.apps.dumped_wsgi:app"]
    place = tmp_path / "captures"
    place.mkdir()
    with (
        collector_process() as collector,
        server(gunicorn, environment(collector.address, GLASSBOTTOM_CAPTURE_DIR=str(place))) as running,
    ):
        port = running.wait_for_line(r"Listening at: http://127\.0\.0\.1:(\d+)")[1]
        cli = Cli(collector.address, capsys)
        with Service(int(port)).asked() as service:
            assert dump(cli, "--output", str(tmp_path / "first.heap")) == 0, cli.out + cli.err
            assert "stored, " in cli.out
            _check(tmp_path / "first.heap", service.worker)
            before = service.answered

            assert _killed(cli, service) == 1, cli.out + cli.err
            assert "The copy that wrote the dump was ended by SIGKILL" in " ".join(cli.out.split())
            assert list(place.iterdir()) == [], "nothing of it is left behind"

            assert dump(cli, "--max-bytes", "1MiB", "-o", "json") == 0, cli.out + cli.err
            assert "cut off: it would be larger" in json.loads(cli.out)["capture"]["texts"]["end"]
            assert service.answered > before
        assert service.failed == []
        assert service.heard == []
        assert service.last == service.worker


def _killed(cli: Cli, service: Service) -> int:
    """Orders dumps until one was killed while it was written; how that one ended."""
    for _ in range(20):
        killer = _Killer(service)
        killer.start()
        code = dump(cli)
        killer.done.set()
        killer.join()
        if killer.killed and code != 0:
            return code
    raise AssertionError("no copy was met while it ran")


class _Killer(threading.Thread):
    """Kills the first copy it meets."""

    def __init__(self, service: Service) -> None:
        super().__init__()
        self.done = threading.Event()
        self.killed = False
        self._service = service

    def run(self) -> None:
        while not self.done.is_set() and not self.killed:
            for pid in self._service.copies():
                os.kill(pid, signal.SIGKILL)
                self.killed = True


def _check(path: Path, pid: int) -> None:
    info, end = dump_reader.ends(path)
    assert info["pid"] == pid
    assert end is not None
    assert end[0] > 300_000
    assert end[2] == 0
