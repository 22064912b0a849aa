"""Captures of real processes: while they fork, end, and lose their collector in the middle of a file."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from glassbottom.wire.v1 import control_pb2, control_pb2_grpc, ingest_pb2

from tests.support.collector_process import CollectorProcess, collector_process
from tests.support.programs import Server, environment, server

pytestmark = pytest.mark.once

PROGRAM = """
import os, sys, threading, types
import glassbottom
from glassbottom import captures
from tests.support.capturing import MODULE, GivenCapture

size, waits = int(sys.argv[1]), sys.argv[2] == "waits"
capture = GivenCapture(bytes(range(256)) * (size // 256), {"objects": 3.0}, waits=waits)
module = types.ModuleType(f"glassbottom.captures.{MODULE}")
module.Given = lambda: capture
sys.modules[module.__name__] = module
captures.KINDS["dump_heap"] = (MODULE, "Given")
glassbottom.init(service="captured")

def say(*words):
    print(*words, file=sys.stderr, flush=True)

say("ready", os.getpid())
for line in sys.stdin:
    match line.strip():
        case "begun":
            capture.begins.wait(30)
            say("begun", capture.directories[-1])
        case "fork":
            child = os.fork()
            if child == 0:
                glassbottom.flush(20)
                numbers = glassbottom.status()["statistics"]
                say("child", numbers["captures_running"], os.path.isdir(capture.directories[-1]))
                glassbottom.shutdown(5)
                os._exit(0)
            os.waitpid(child, 0)
            say("forked", os.path.isdir(capture.directories[-1]))
        case "go on":
            capture.goes_on.set()
        case "end":
            break
"""


class Program:
    def __init__(self, running: Server) -> None:
        self.running = running

    def tell(self, word: str) -> None:
        assert self.running.process.stdin is not None
        self.running.process.stdin.write(f"{word}\n")
        self.running.process.stdin.flush()

    def hear(self, pattern: str) -> str:
        return self.running.wait_for_line(pattern)[1]


@contextlib.contextmanager
def program(address: str, place: Path, size: int = 256, waits: bool = False) -> Iterator[Program]:
    environ = environment(address, GLASSBOTTOM_CAPTURE_DIR=str(place), PYTHONUNBUFFERED="1")
    command = [sys.executable, "-c", PROGRAM, str(size), "waits" if waits else ""]
    with server(command, environ, subprocess.PIPE) as running:
        found = Program(running)
        found.hear(r"^ready (\d+)")
        yield found


def until(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    """Asks again and again, for what another process does to files."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def ordered(address: str) -> str:
    """A capture that goes on without us; its id. The agent may still be about to connect."""
    request = control_pb2.CaptureRequest(
        service="captured", kind=ingest_pb2.COMMAND_KIND_DUMP_HEAP, asked_by="me", detached=True
    )
    ids: list[str] = []

    def begun() -> bool:
        for response in control_pb2_grpc.ControlServiceStub(channel).Capture(request, timeout=30):
            if response.record.state not in (control_pb2.CAPTURE_STATE_ORDERED, control_pb2.CAPTURE_STATE_REFUSED):
                ids.append(response.record.id)
                return True
        return False

    with grpc.insecure_channel(address) as channel:
        until(begun)
    return ids[0]


def record(data: Path, capture_id: str) -> dict:
    """The last row of a capture in the collector's record."""
    lines = (data / "captures" / "audit.jsonl").read_text().splitlines()
    return [row for line in lines if (row := json.loads(line))["id"] == capture_id][-1]


def test_a_child_forked_meanwhile_knows_nothing_of_it_and_leaves_it_alone(tmp_path: Path) -> None:
    data, place = tmp_path / "data", tmp_path / "place"
    place.mkdir()
    with collector_process(data) as collector, program(collector.address, place, waits=True) as running:
        capture_id = ordered(collector.address)
        running.tell("begun")
        directory = Path(running.hear(r"^begun (\S+)"))
        running.tell("fork")
        assert running.hear(r"^child (.*)") == "0.0 True"
        assert running.hear(r"^forked (.*)") == "True"
        running.tell("go on")
        until(lambda: record(data, capture_id)["state"] == "stored")
        until(lambda: not directory.exists())
        assert len(list((data / "captures").glob("*.dump_heap"))) == 1


def test_a_process_that_ends_says_that_its_capture_has(tmp_path: Path) -> None:
    data, place = tmp_path / "data", tmp_path / "place"
    place.mkdir()
    with collector_process(data) as collector, program(collector.address, place, waits=True) as running:
        capture_id = ordered(collector.address)
        running.tell("end")
        until(lambda: record(data, capture_id)["state"] == "failed")
        assert record(data, capture_id)["reason"] == "The process ended before everything was stored."
        assert running.running.process.wait(20) == 0
        assert list(place.iterdir()) == []


def test_a_collector_killed_in_the_middle_of_a_file_gets_the_rest_when_it_is_back(tmp_path: Path) -> None:
    data, place, size = tmp_path / "data", tmp_path / "place", 12 << 20
    place.mkdir()
    before = CollectorProcess(data)
    try:
        with program(before.address, place, size=size):
            capture_id = ordered(before.address)
            part = data / "captures" / f"{capture_id}.dump_heap.part"
            until(lambda: part.exists() and part.stat().st_size > 1 << 20)
            before.kill()
            assert part.stat().st_size < size
            with collector_process(data, listen=before.address):
                until(lambda: (data / "captures" / f"{capture_id}.dump_heap").exists())
                until(lambda: record(data, capture_id)["state"] == "stored")
            whole = bytes(range(256)) * (size // 256)
            assert (data / "captures" / f"{capture_id}.dump_heap").read_bytes() == whole
    finally:
        before.kill()
