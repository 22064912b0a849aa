"""A named snapshot's whole way: a program says "before" and "after", the collector keeps both, and the command line
tells the line that grew between them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.cli import Cli
from tests.support.collector_process import CollectorProcess, collector_process
from tests.support.programs import waiting
from tests.support.schemas import validate_strictly

PROGRAM = """
import sys
import glassbottom

kept = []

def grow_in_a_test():
    kept.append(bytes(100_000))

settings = {"connect_delay_s": 0, "interval_bytes": 65536, "runtime_interval_s": 0.2}
glassbottom.init(service="labels", endpoint=sys.argv[1], **settings)
kept.append(bytes(5_000_000))
assert glassbottom.snapshot("before", wait_s=30)
for _ in range(200):
    grow_in_a_test()
assert glassbottom.snapshot("after", wait_s=30)
assert glassbottom.flush(30)
print("ready", flush=True)
sys.stdin.readline()
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


def document(cli: Cli, *line: str) -> dict:
    assert cli("snapshot", *line, "-o", "json") == 0, cli.err
    result = json.loads(cli.out)
    validate_strictly(result, f"snapshot-{line[0]}")
    return result


def test_both_moments_are_listed_with_what_the_process_held(cli: Cli) -> None:
    before, after = document(cli, "list", "--service", "labels")["snapshots"]
    assert (before["label"], before["baseline"]) == ("before", True)
    assert (after["label"], after["baseline"]) == ("after", False)
    assert after["growth_bytes"] == pytest.approx(20e6, rel=0.2)
    assert after["memory"]["resident_bytes"] > after["live_bytes"]
    assert after["memory"]["parts"]["python"] > 10e6


def test_what_changed_is_the_line_that_grew_and_by_how_much(cli: Cli) -> None:
    diff = document(cli, "diff", "before", "after", "--service", "labels")
    assert diff["delta_bytes"] == pytest.approx(20e6, rel=0.2)
    assert abs(diff["delta_bytes"] - 20e6) < 5 * diff["delta_bytes_stderr"] + 1e6
    worst = diff["changes"][0]
    assert worst["site"]["frame"]["function"] == "grow_in_a_test"
    assert worst["significant"]
    assert worst["delta_bytes"] == pytest.approx(20e6, rel=0.2)
    by_type = document(cli, "diff", "--service", "labels", "--by", "type")
    assert sum(change["delta_bytes"] for change in by_type["changes"]) == pytest.approx(20e6, rel=0.2)
    assert by_type["changes"][0]["site"]["frame"] is None
    assert (by_type["before"]["label"], by_type["after"]["label"]) == ("before", None)


def test_an_operator_takes_one_and_compares_with_it(cli: Cli) -> None:
    assert cli("snapshot", "take", "--service", "labels", "--label", "by hand") == 0
    diff = document(cli, "diff", "after", "by hand", "--service", "labels")
    assert (diff["before"]["label"], diff["after"]["label"]) == ("after", "by hand")
    assert not any(change["significant"] and change["delta_bytes"] > 5e6 for change in diff["changes"])
