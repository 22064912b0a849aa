"""The deep captures' whole way: ordered by the command line, made in a real process, stored and read by a collector."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli import Cli
from tests.support.collector_process import CollectorProcess, collector_process
from tests.support.programs import waiting
from tests.support.schemas import validate_strictly

pytestmark = pytest.mark.once

PROGRAM = """
import sys, threading
import glassbottom

kept = []
done = threading.Event()

def keep_in_a_test():
    while not done.wait(0.01):
        kept.append(bytearray(100_000))
        del kept[500:]
        sum(range(20_000))

settings = {"connect_delay_s": 0, "heartbeat_interval_s": 0.2}
kinds = "snapshot,dump_memray,dump_stacks,dump_cpu,gc_collect,malloc_trim,state"
glassbottom.init(service="deep", endpoint=sys.argv[1], commands=kinds, **settings)
worker = threading.Thread(target=keep_in_a_test, name="worker")
worker.start()
print("ready" if glassbottom.snapshot("x", wait_s=30) and glassbottom.flush(30) else "not ready", flush=True)
sys.stdin.readline()
done.set()
worker.join()
"""


@pytest.fixture(scope="module")
def collector() -> Iterator[CollectorProcess]:
    with collector_process() as collector:
        yield collector


@pytest.fixture(scope="module")
def program(collector: CollectorProcess) -> Iterator[subprocess.Popen[str]]:
    with waiting(PROGRAM, collector.address) as process:
        yield process


@pytest.fixture
def cli(collector: CollectorProcess, program: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(collector.address, capsys)


def dumped(cli: Cli, what: str, watch: str) -> dict:
    """The record of a capture, once the desk is free."""
    deadline_s = time.monotonic() + 60
    while True:
        code = cli("dump", what, "--service", "deep", "--for", watch, "-o", "json")
        # Between two captures the process rests as long as the last one ran, and there is no event for its end.
        if code != 4 or "try again" not in cli.out or time.monotonic() > deadline_s:
            break
        time.sleep(0.2)
    assert code == 0, cli.out + cli.err
    return json.loads(cli.out)


def read(cli: Cli, capture_id: str) -> dict:
    assert cli("read", capture_id, "-o", "json") == 0, cli.err
    document = json.loads(cli.out)
    validate_strictly(document, "read")
    return document


def identity(record: dict) -> str:
    return str(record.get("capture", record)["id"])


@pytest.mark.parametrize(("what", "watch"), [("memray", "1s"), ("stacks", "20s"), ("cpu", "1s")])
def test_a_recording_is_made_stored_and_read(what: str, watch: str, cli: Cli) -> None:
    document = read(cli, identity(dumped(cli, what, watch)))
    assert document["kind"] == f"dump_{what}"
    functions = {frame["function"] for path in document["paths"] for frame in path["frames"]}
    assert "keep_in_a_test" in {function.rpartition(".")[2] for function in functions}


@pytest.mark.parametrize(("what", "fact"), [("gc", "pause_ms"), ("trim", "trim_ms")])
def test_facts_alone_are_told(what: str, fact: str, cli: Cli) -> None:
    assert fact in json.dumps(dumped(cli, what, "200ms"))


def test_the_state_of_a_process_is_stored_as_json_and_read_says_so(cli: Cli, tmp_path: Path) -> None:
    record = dumped(cli, "state", "5s")
    path = tmp_path / "state.json"
    assert cli("captures", "get", identity(record)[:8], "--output", str(path)) == 0, cli.err
    document = json.loads(path.read_text())
    assert set(document) == {"state", "logs"}
    assert document["state"]["agent"]["status"]["service"] == "deep"
    assert "keep_in_a_test" in {
        frame["function"] for thread in document["state"]["threads"] for frame in thread["stack"]
    }
    assert cli("read", identity(record)[:8]) != 0
    assert "is the state of a process" in cli.err
    assert "captures get" in cli.err
    assert cli("read", str(path)) != 0
    assert "state.json is the state of a process" in cli.err
