"""The command line asks a real collector that stored what an agent sent over the real wire."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from glassbottom_collector.cli import main
from glassbottom_collector.pprof.v1 import profile_pb2

from tests.support.cli import Cli
from tests.support.leaking_service import EVERY_S, LEAK_BYTES_PER_S, SECOND_NS, SNAPSHOTS, Story, leaking_service
from tests.support.schemas import validate_strictly


@pytest.fixture(scope="module")
def story() -> Iterator[Story]:
    with leaking_service() as story:
        yield story


@pytest.fixture
def cli(story: Story, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(story.address, capsys)


def document(cli: Cli, *line: str, code: int = 0) -> dict:
    assert cli(*line, "-o", "json") == code, cli.err
    result = json.loads(cli.out)
    validate_strictly(result, line[0])
    return result


def test_the_service_and_its_process_are_listed(cli: Cli, story: Story) -> None:
    (service,) = document(cli, "services")["services"]
    assert (service["name"], service["processes"], service["processes_connected"]) == ("checkout", 1, 1)

    status = document(cli, "status")
    (process,) = status["processes"]
    assert (process["pid"], process["connected"], process["sampler_state"]) == (4711, True, "running")
    assert process["statistics"]["agent_cpu_ratio"] == 0.004
    assert status["collector"]["problems"] == []


def test_top_names_the_lines_and_what_they_hold(cli: Cli, story: Story) -> None:
    top = document(cli, "top")

    assert top["service"] == "checkout", "the only one there is"
    assert top["totals"]["live_bytes"] == pytest.approx(story.live_bytes)
    first, second = top["sites"]
    assert first["frame"] == {"function": "Manager.on_connect", "file": "/srv/checkout/handlers.py", "line": 42}
    assert second["frame"]["function"] == "Catalog.load"
    assert first["types"][0]["type"] == "bytes"
    assert first["live_bytes_stderr"] > 0

    by_type = document(cli, "top", "--by", "type")
    assert [site["type"] for site in by_type["sites"]] == ["bytes"]
    assert cli("top") == 0
    assert "/srv/checkout/handlers.py:42 Manager.on_connect" in cli.out


def test_pprof_and_top_agree_to_the_byte(cli: Cli, story: Story, tmp_path: Path) -> None:
    at = str(story.last_ns)
    totals = document(cli, "top", "--at", at)["totals"]
    assert cli("top", "--at", at, "-o", "pprof", "--output", str(tmp_path / "heap.pb.gz")) == 0

    profile = profile_pb2.Profile.FromString(gzip.decompress((tmp_path / "heap.pb.gz").read_bytes()))
    assert sum(sample.value[3] for sample in profile.sample) == round(totals["live_bytes"])
    assert sum(sample.value[2] for sample in profile.sample) == round(totals["live_objects"])
    assert profile.period == 524288


@pytest.mark.parametrize("form", ["folded", "speedscope", "html"])
def test_every_whole_profile_format_names_the_leaking_line(form: str, cli: Cli, story: Story) -> None:
    for line in (("top",), ("diff", "--from", str(story.first_ns), "--to", str(story.last_ns))):
        assert cli(*line, "-o", form) == 0
        assert "Manager.on_connect" in cli.out


def test_diff_and_timeline_show_the_growth(cli: Cli, story: Story) -> None:
    span = ("--from", str(story.first_ns), "--to", str(story.last_ns))
    grown = (SNAPSHOTS - 1) * EVERY_S * LEAK_BYTES_PER_S

    diff = document(cli, "diff", *span)
    assert diff["changes"][0]["site"]["frame"]["line"] == 42
    assert diff["changes"][0]["delta_bytes"] == pytest.approx(grown)
    assert cli("diff", *span, "--fail-on-growth", "100MiB") == 3
    assert cli("diff", *span, "--fail-on-growth", "10GiB") == 0

    timeline = document(cli, "timeline", *span, "--points", "13", "--sites", "1")
    live = next(series for series in timeline["series"] if series["name"] == "live_bytes")
    known = [value for value in live["values"] if value is not None]
    assert known[-1] - known[0] == pytest.approx(grown, rel=0.2)


def test_leaks_accuses_the_leak_and_not_the_cache(cli: Cli, story: Story) -> None:
    span = ("--from", str(story.first_ns - SECOND_NS), "--to", str(story.last_ns + SECOND_NS))
    leaks = document(cli, "leaks", *span, "--all", code=3)

    worst, *others = leaks["findings"]
    assert (worst["verdict"], worst["site"]["frame"]["line"]) == ("leak", 42)
    assert worst["bytes_per_second"]["value"] == pytest.approx(LEAK_BYTES_PER_S, rel=0.2)
    assert all(finding["verdict"] == "stable" for finding in others)
    assert cli("leaks", *span) == 3
    assert cli.out.splitlines()[1].startswith("leak")


def test_a_snapshot_is_taken_by_the_agent(cli: Cli, story: Story) -> None:
    def obey() -> None:
        command = story.agent.wait_command()
        story.agent.send_heap(time.time_ns(), story.sites)
        story.agent.answer(command.id)

    agent = threading.Thread(target=obey)
    agent.start()
    taken = document(cli, "snapshot")
    agent.join(10)

    assert [each["outcome"] for each in taken["outcomes"]] == ["done"]


def test_what_cannot_be_answered_is_one_sentence(cli: Cli) -> None:
    assert cli("top", "--service", "chekout") == 1
    assert "checkout" in cli.err
    assert cli.err.count("\n") == 1

    assert cli("top", "--instance", "ffff") == 1
    assert cli.err.count("\n") == 1


def test_the_collector_verb_is_the_collector(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["collector", "--help"]) == 0
    assert "--listen" in capsys.readouterr().out

    (tmp_path / "bad.yaml").write_text("lisen: 1\n")
    assert main(["collector", "--config", str(tmp_path / "bad.yaml")]) != 0
    assert "lisen" in capsys.readouterr().err
