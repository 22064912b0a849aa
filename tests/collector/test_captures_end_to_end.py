"""From an order on the command line to a file on its disk: real agent, real collector, real wire."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from glassbottom._agent import Agent

from tests.agent.conftest import Build
from tests.support.capturing import GivenCapture, give
from tests.support.cli import Cli
from tests.support.collector_thread import CollectorThread, collector_thread

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
