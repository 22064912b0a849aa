"""The questions about time, asked of a real collector that stored what an agent sent over the real wire."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from glassbottom_collector.pprof.v1 import profile_pb2

from tests.support.busy_service import ROUTE, Busy, busy_service
from tests.support.cli import Cli
from tests.support.schemas import validate_strictly
from tests.support.watching import PANELS, Panel, app_for, running, screen

pytestmark = pytest.mark.once  # a real service runs for seconds, and what they show does not depend on the version


FINDING = 3


@pytest.fixture(scope="module")
def busy() -> Iterator[Busy]:
    with busy_service() as busy:
        yield busy


@pytest.fixture
def cli(busy: Busy, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(busy.address, capsys)


def document(cli: Cli, *line: str, code: int = FINDING) -> dict:
    assert cli(*line, "-o", "json") == code, cli.err
    result = json.loads(cli.out)
    validate_strictly(result, line[0])
    assert cli(*line) == code, "and as a table"
    return result


def test_slow_lists_spans_coroutines_and_functions_and_the_slow_span(cli: Cli) -> None:
    slow = document(cli, "slow")

    rows = {(each["kind"], each["name"]): each for each in slow["operations"]}
    assert set(rows) == {
        ("span", ROUTE),
        ("span", "SELECT orders"),
        ("coroutine", "Orders.fetch"),
        ("function", "render"),
    }
    route = rows["span", ROUTE]
    assert (route["count"], route["flagged"], route["span_kind"]) == (3, True, "SERVER")
    assert route["p50_s"] == pytest.approx(2.0, rel=0.03)
    assert rows["span", "SELECT orders"]["flagged"] is False
    assert rows["span", "SELECT orders"]["target"] == "postgresql"
    assert rows["coroutine", "Orders.fetch"]["flagged"] is True, "400 ms are more than 100"
    assert rows["coroutine", "Orders.fetch"]["frame"]["line"] == 80
    assert rows["function", "render"]["cpu_s"] == pytest.approx(0.009)
    (span,) = slow["slow_spans"]
    assert (span["name"], span["duration_s"], span["attributes"].get("user.tier")) == (ROUTE, 2.5, "gold")
    assert span["trace_id"] == "0af7651916cd43dd8448eb211c80319c"

    assert document(cli, "slow", "--kind", "function", code=0)["operations"][0]["name"] == "render"


def test_tasks_shows_the_deadlock_and_the_loop(cli: Cli) -> None:
    (process,) = document(cli, "tasks")["processes"]

    assert process["cycles"] == [{"groups": [0, 1], "deadlock": True}]
    assert {group["path"][0]["line"] for group in process["groups"]} == {57, 22}
    (loop,) = process["loops"]
    assert (loop["thread"], loop["implementation"], loop["ready"]) == ("MainThread", "uvloop.Loop", None)
    assert loop["lag_max_s"] == pytest.approx(0.4)
    assert "DEADLOCK" in cli.out


def test_blocked_names_the_line_that_held_the_loop(cli: Cli) -> None:
    blocked = document(cli, "blocked")

    (block,) = blocked["blocks"]
    assert block["path"][0] == {"function": "Orders.fetch", "file": "/srv/checkout/orders.py", "line": 88}
    assert (block["count"], block["total_s"], block["gil_held"]) == (1, pytest.approx(0.9), False)


def test_findings_has_the_blocked_loop_with_its_line(cli: Cli) -> None:
    findings = document(cli, "findings")["findings"]

    assert "loop.blocked" in {finding["kind"] for finding in findings}
    assert "/srv/checkout/orders.py:88" in cli.out


def test_flame_sums_the_samples_of_threads(cli: Cli, busy: Busy, tmp_path: Path) -> None:
    span = ("--from", str(busy.from_ns), "--to", str(busy.to_ns))
    assert cli("flame", *span, "--type", "wall", "--split", "thread", "-o", "folded") == 0
    assert cli.out.splitlines() == [
        "worker;Worker.run (/srv/checkout/worker.py:12) 9000000000",
        "MainThread;get_order (/srv/checkout/handlers.py:31);Orders.fetch (/srv/checkout/orders.py:88) 1000000000",
    ]
    assert cli("flame", *span, "--route", ROUTE, "-o", "pprof", "--output", str(tmp_path / "cpu.pb.gz")) == 0
    profile = profile_pb2.Profile.FromString(gzip.decompress((tmp_path / "cpu.pb.gz").read_bytes()))
    assert [list(sample.value) for sample in profile.sample] == [[10, 250_000_000, 1_000_000_000]]
    assert cli("flame", *span, "--thread", "worker", "-o", "folded") == 1
    assert "(thread worker) in this range has CPU time; try --type wall" in cli.err


def test_the_live_view_has_it_all_on_one_screen(busy: Busy) -> None:
    async def story() -> None:
        async with running(app_for(busy.address)) as pilot:
            text = screen(pilot)
            assert {each.kind.name: each.error for each in pilot.app.query(Panel)} == dict.fromkeys(PANELS, "")
            for word in ("resident 120 MiB", "MainThread", "orders.py:88", "2 tasks in 1 process", ROUTE):
                assert word in text

    asyncio.run(asyncio.wait_for(story(), 60))
