"""Heap dumps of servers at work: requests and streams go on, and children are looked after as before."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import dump_reader
from tests.support.programs import environment, python, server

pytestmark = pytest.mark.once


def test_gunicorn_answers_while_a_worker_and_then_the_master_is_dumped(tmp_path: Path) -> None:
    """And the master, which waits for any child, replaces a worker that dies afterwards."""
    trigger = tmp_path / "trigger"
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "--preload",
        "--workers",
        "1",
        "--threads",
        "4",
        "--bind",
        "127.0.0.1:0",
    ]
    with server([*command, "tests.apps.dumping_wsgi:app"], environment("", TRIGGER=str(trigger))) as gunicorn:
        port = gunicorn.wait_for_line(r"Listening at: http://127\.0\.0\.1:(\d+)")[1]
        answered = 0
        failed: list[Exception] = []
        ended = threading.Event()

        def get(path: str) -> bytes:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
                return bytes(answer.read())

        def ask() -> None:
            nonlocal answered
            while not ended.is_set():
                try:
                    get("/")
                    answered += 1
                except Exception as error:
                    failed.append(error)

        worker = int(get("/"))
        client = threading.Thread(target=ask)
        client.start()
        try:
            assert json.loads(get(f"/dump{tmp_path}/worker.heap")) == [worker, "complete"]
            trigger.touch()
            _wait_for(Path(f"{trigger}.done").exists)
        finally:
            ended.set()
            client.join(60)
        assert json.loads(Path(f"{trigger}.done").read_bytes()) == [gunicorn.process.pid, "complete"]
        assert failed == []
        assert answered > 0
        for path, pid in ((tmp_path / "worker.heap", worker), (Path(f"{trigger}.heap"), gunicorn.process.pid)):
            info, end = dump_reader.ends(path)
            assert info["pid"] == pid
            assert end is not None
            assert end[0] > 200_000
        assert int(get("/")) == worker
        os.kill(worker, signal.SIGKILL)
        _wait_for(lambda: any("Booting worker" in line and str(worker) not in line for line in gunicorn.lines))
        assert int(get("/")) != worker
    assert gunicorn.process.returncode == 0


def _wait_for(happened: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < until_s
        time.sleep(0.01)


STREAM = """
import os, queue, sys, time
from concurrent.futures import ThreadPoolExecutor
import grpc
from glassbottom import _native

def echo(requests, context):
    for request in requests:
        yield request.upper()

handlers = grpc.method_handlers_generic_handler("t.Echo", {"Chat": grpc.stream_stream_rpc_method_handler(echo)})
server = grpc.server(ThreadPoolExecutor(4), handlers=[handlers])
port = server.add_insecure_port("127.0.0.1:0")
server.start()
channel = grpc.insecure_channel(f"127.0.0.1:{port}")
to_send = queue.SimpleQueue()
answers = channel.stream_stream("/t.Echo/Chat")(iter(to_send.get, None))
to_send.put(b"before")
print(next(answers))
read_end, write_end = os.pipe()
pid, _ = _native.dump_start(write_end, b"{}", bytes_max=1 << 30, seconds_max=60.0)
os.close(write_end)
while _native.dump_progress()["objects"] == 0:
    time.sleep(0.001)
for number in range(20):  # the copy waits for its pipe
    to_send.put(b"meanwhile")
    assert next(answers) == b"MEANWHILE"
to_send.put(None)
print(list(answers))  # the end of the stream comes through
channel.close()
server.stop(None).wait()
print(_native.dump_wait(pid, 0.0))
while os.read(read_end, 1 << 20):  # until the last descriptor of the pipe is closed
    pass
print(_native.dump_wait(pid, 60.0))
"""


def test_grpc_streams_stay_open_during_a_dump_and_close_when_they_are_closed() -> None:
    done = python(STREAM, "")
    assert done.stdout.splitlines() == ["b'BEFORE'", "[]", "None", "0"], done.stderr
