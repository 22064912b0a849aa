"""From an order on the command line to a file on its disk: real agent, real collector, real wire."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from glassbottom._agent import Agent
from glassbottom._errors import CaptureError
from glassbottom_collector.cli import dump, main

from tests.agent.conftest import Build
from tests.support.capturing import GivenCapture, give
from tests.support.cli import Cli
from tests.support.collector_thread import CollectorThread, collector_thread
from tests.support.schemas import validate_strictly
from tests.support.terminal import become_terminal

pytestmark = pytest.mark.once

Agents = Callable[..., Agent]


@pytest.fixture
def agents() -> Iterator[Build]:
    build = Build()
    yield build
    for agent in build.agents:
        agent.stop(5.0)


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[CollectorThread]:
    with collector_thread(tmp_path / "data") as running:
        yield running


@pytest.fixture
def cli(collector: CollectorThread, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(collector.address, capsys)


def connected(agents: Agents, collector: CollectorThread, **options: object) -> Agent:
    agent = agents(collector.address, **options)
    collector.wait_for(lambda: any(live.connected for live in collector.collector.registry.instances()))
    return agent


def test_a_file_goes_the_whole_way(
    agents: Agents, collector: CollectorThread, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(700_000)
    capture = GivenCapture(content, {"pause_ms": 1.5, "objects": 12_000.0, "note": "whole"})
    give(monkeypatch, capture)
    connected(agents, collector)

    assert cli("dump", "heap", "--service", "tested", "-o", str(tmp_path / "heap")) == 0, cli.err

    assert (tmp_path / "heap").read_bytes() == content
    assert "stored, 684 KiB" in cli.out
    assert "pause_ms  1.50 ms" in cli.out
    (row,) = collector.collector.captures.list("tested")
    assert collector.collector.captures.path_of(row.id).read_bytes() == content
    collector.wait_for(lambda: not capture.directories[0].exists())


def test_what_is_said_as_json_is_what_the_schemas_say(
    agents: Agents, collector: CollectorThread, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(monkeypatch, GivenCapture(b"abc", {"objects": 3.0}))
    connected(agents, collector)
    assert cli("dump", "heap", "--for", "5s", "--option", "native=1", "-o", "json", "--output", f"{tmp_path}/heap") == 0
    document = json.loads(cli.out)
    validate_strictly(document, "dump")
    assert document["capture"]["options"] == {"native": "1"}
    assert document["capture"]["seconds"] == 5.0
    assert document["capture"]["numbers"] == {"objects": 3.0}
    assert document["written_to"] == f"{tmp_path}/heap"
    capture_id = document["capture"]["id"]

    assert cli("captures", "-o", "json") == 0
    listed = json.loads(cli.out)
    validate_strictly(listed, "captures")
    assert [each["id"] for each in listed["captures"]] == [capture_id]
    assert cli("captures", "show", capture_id[:10], "-o", "json") == 0
    assert json.loads(cli.out)["capture"] == document["capture"]


def test_a_refusal_is_exit_code_4_with_its_reason_and_stays_in_the_list(
    agents: Agents, collector: CollectorThread, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(monkeypatch, GivenCapture(refuses="A debugger is active; end it first."))
    connected(agents, collector)
    assert cli("dump", "heap") == 4
    assert "A debugger is active; end it first." in cli.out
    assert cli("dump", "memray") == 4
    assert 'does not allow "dump_memray"' in cli.out
    assert cli("captures", "--service", "tested") == 0
    assert "A debugger is active" in cli.out
    assert cli.out.count("refused") == 2


def test_a_failure_is_exit_code_1(
    agents: Agents, collector: CollectorThread, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(monkeypatch, GivenCapture(error=CaptureError("Out of luck.")))
    connected(agents, collector)
    assert cli("dump", "heap") == 1
    assert "failed" in cli.out
    assert "Out of luck." in cli.out


def test_a_capture_without_a_file_tells_its_facts(
    agents: Agents, collector: CollectorThread, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts: dict[str, float | str] = {"freed_bytes": 2048.0, "took_s": 0.25, "grown_bytes_per_s": 1024.0, "note": "fine"}
    give(monkeypatch, GivenCapture(None, facts), "gc_collect")
    connected(agents, collector)
    assert cli("dump", "gc", "-o", str(tmp_path / "file")) == 0
    told = [line.split(maxsplit=1) for line in cli.out.splitlines()]
    assert ["freed_bytes", "2.00 KiB"] in told
    assert ["took_s", "250 ms"] in told
    assert ["grown_bytes_per_s", "1.00 KiB/s"] in told
    assert ["note", "fine"] in told
    assert not (tmp_path / "file").exists()
    (capture,) = collector.collector.captures.list()
    assert cli("captures", "get", capture.id, "--output", str(tmp_path / "file")) == 1
    assert "has no file" in cli.err
    assert list(tmp_path.glob("file*")) == []


def test_one_that_was_detached_can_be_fetched_and_called_off_later(
    agents: Agents, collector: CollectorThread, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = GivenCapture(b"abc", waits=True)
    give(monkeypatch, capture)
    connected(agents, collector)
    assert cli("dump", "heap", "--detach") == 0
    (row,) = collector.collector.captures.list()
    assert f"`glassbottom captures show {row.id[:8]}` shows how far it is." in cli.out
    assert cli("captures", "get", row.id, "--output", str(tmp_path / "heap")) == 1
    assert "is not complete yet; it is running" in cli.err
    capture.goes_on.set()
    collector.wait_for(lambda: collector.collector.captures.get(row.id).ended)
    assert cli("captures", "get", row.id[:8], "--output", str(tmp_path / "heap")) == 0
    assert (tmp_path / "heap").read_bytes() == b"abc"
    assert cli("captures", "cancel", row.id) == 2
    assert "has ended already" in cli.err


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (("dump", "heap", "-o", "a", "--output", "b"), "both -o a and --output b name a file"),
        (("dump", "heap", "-o", "a", "--detach"), "--detach does not wait"),
        (("dump", "heap", "--max-bytes", "much"), "--max-bytes much is not a size"),
        (("dump", "heap", "--option", "native"), "--option native is not NAME=VALUE"),
        (("dump", "heap", "--for", "long"), "'long' is not a length of time"),
        (("dump", "universe"), "invalid choice: 'universe'"),
        (("captures", "get"), "captures get takes one id"),
        (("captures", "burn"), "captures burn is not known"),
        (("captures", "list", "abc"), "captures list takes no id"),
    ],
)
def test_a_line_that_makes_no_sense_is_exit_code_2(line: tuple[str, ...], sentence: str, cli: Cli) -> None:
    assert cli(*line) == 2
    assert sentence in cli.err


def test_what_there_is_not_is_said(collector: CollectorThread, cli: Cli, tmp_path: Path) -> None:
    assert cli("captures") == 0
    assert cli.out == "Nothing was captured yet; `glassbottom dump` does.\n"
    assert cli("captures", "show", "abc") == 1
    assert "there is no capture abc" in cli.err
    assert cli("dump", "heap", "--service", "nobody", "-o", str(tmp_path / "x")) == 1
    assert "No process of nobody is connected; no agent is connected." in cli.err


def test_on_a_terminal_of_80_columns_everything_fits(
    agents: Agents, collector: CollectorThread, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "A debugger is active in this process; end it first, and then order the capture once more, if need be."
    give(monkeypatch, GivenCapture(refuses=reason))
    connected(agents, collector)
    out, _ = become_terminal(monkeypatch, columns=80)
    assert main(["dump", "heap", "--addr", cli.address]) == 4
    assert main(["captures", "--addr", cli.address]) == 0
    assert "\x1b[" in out.getvalue(), "with colours"
    assert max(map(len, out.text.splitlines())) <= 80
    assert " ".join(out.text.split()).count(reason) == 1, "wrapped where one is shown, shortened in the list"
    assert "A debugger is active in this process;…" in out.text


@pytest.mark.parametrize("size", ["4096", "4KiB", "4 KiB", "4096b"])
def test_sizes_are_read_as_people_write_them(size: str) -> None:
    assert dump._bytes(size) == 4096
