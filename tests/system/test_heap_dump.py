"""A heap dump's whole way: ordered on the command line, written by a copy of the process, stored, and asked."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli import Cli
from tests.support.collector_process import collector_process
from tests.support.programs import Server, environment, server
from tests.support.schemas import validate_strictly

pytestmark = pytest.mark.once

PROGRAM = """
import sys
import glassbottom

class Session:
    def __init__(self, number):
        self.messages = [bytes(100) for _ in range(20)]
        self.number = number

HANDLERS = {}

def connect(count):
    for _ in range(count):
        HANDLERS[f"client-{len(HANDLERS)}"] = Session(len(HANDLERS))

glassbottom.init(service="shop")
connect(2000)
print("ready", file=sys.stderr, flush=True)
for line in sys.stdin:
    connect(int(line))
    print("connected", len(HANDLERS), file=sys.stderr, flush=True)
"""
HELD = "__main__.HANDLERS dict[2 000] -> Session"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with collector_process() as collector:
        yield collector.address


@pytest.fixture(scope="module")
def program(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    place = str(tmp_path_factory.mktemp("captures"))
    environ = environment(address, GLASSBOTTOM_CAPTURE_DIR=place, PYTHONUNBUFFERED="1")
    with server([sys.executable, "-c", PROGRAM], environ, subprocess.PIPE) as running:
        running.wait_for_line("^ready")
        yield running


@pytest.fixture
def cli(address: str, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(address, capsys)


def document(cli: Cli, *line: str, code: int = 0) -> dict:
    assert cli("heap", *line, "-o", "json") == code, cli.err
    result = json.loads(cli.out)
    validate_strictly(result, f"heap-{line[0]}")
    return result


def dumped(cli: Cli, program: Server, path: Path) -> None:
    """Takes a dump. The agent may still be about to connect, and rests between two captures."""
    deadline_s = time.monotonic() + 60
    while cli("dump", "heap", "--service", "shop", "--output", str(path)) != 0:
        said = cli.out + cli.err
        assert program.process.poll() is None, said
        assert any(words in said for words in ("is connected", "has sent data", "try again")), said
        assert time.monotonic() < deadline_s, said
        time.sleep(0.1)


def test_a_running_process_is_dumped_asked_about_and_goes_on(cli: Cli, program: Server, tmp_path: Path) -> None:
    dumped(cli, program, tmp_path / "before.heap")

    suspects = document(cli, "suspects", "--service", "shop", code=3)
    assert suspects["dump"]["service"] == "shop"
    assert suspects["dump"]["complete"], suspects["dump"]["reason"]
    assert suspects["suspects"][0]["point"]["text"] == "__main__.HANDLERS dict[2 000]"

    (path,) = document(cli, "paths", "--service", "shop", "--type", "__main__.Session")["paths"]
    assert (path["text"], path["objects"]) == (HELD, 2000)
    largest = document(cli, "largest", "--service", "shop", "--type", "__main__.Session", "--limit", "1")
    assert largest["objects"][0]["retained"] > 2000, "with its list of messages"

    assert program.process.stdin is not None
    program.process.stdin.write("500\n")
    program.process.stdin.flush()
    program.wait_for_line("^connected 2500")
    dumped(cli, program, tmp_path / "after.heap")

    files = [str(tmp_path / "before.heap"), str(tmp_path / "after.heap")]
    grown = document(cli, "diff", *files)["growth"]
    rows = [row for row in grown if "HANDLERS" in row["path"]]
    assert {row["objects_after"] - row["objects_before"] for row in rows} & {500, 501}
