"""The command line asks a real collector about heap dumps it has stored."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli import Cli
from tests.support.collector_thread import CollectorThread, collector_thread
from tests.support.schemas import validate_strictly
from tests.support.stored_dumps import SECOND, chat, put

pytestmark = pytest.mark.once

A = "aa1" + "0" * 29
FINDING = 3


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CollectorThread]:
    """With two dumps of one process, ten minutes apart."""
    with collector_thread(tmp_path_factory.mktemp("collector")) as running:
        now_ns = time.time_ns()
        for name, sessions, at_ns in (("c1", 100, now_ns - 600 * SECOND), ("c2", 400, now_ns)):
            content = chat(sessions, at_ns=at_ns, instance_id=A)
            put(running.collector.captures, name, content, at_ns=at_ns, instance_id=A)
        yield running


@pytest.fixture
def cli(collector: CollectorThread, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(collector.address, capsys)


def document(cli: Cli, *line: str, code: int = 0, shape: str = "") -> dict:
    assert cli("heap", *line, "-o", "json") == code, cli.err
    result = json.loads(cli.out)
    validate_strictly(result, f"heap-{shape or line[0]}")
    return result


def test_the_newest_dump_of_a_service_is_asked_when_none_is_named(cli: Cli) -> None:
    suspects = document(cli, "suspects", "--service", "shop", code=FINDING)

    assert suspects["dump"]["capture"].startswith("c2")
    assert suspects["suspects"][0]["point"]["text"] == "app.ws.HANDLERS list[400]"


def test_every_question_about_a_dump_is_answered(cli: Cli) -> None:
    paths = document(cli, "paths", "c2", "--type", "Session")
    assert paths["paths"][0]["text"] == "app.ws.HANDLERS list[400] -> Session"
    address = paths["paths"][0]["steps"][0]["address"]

    tree = document(cli, "retained", "c2", "--object", address, "--depth", "1", "--limit", "3")
    assert [row["depth"] for row in tree["objects"]] == [0, 1, 1, 1]
    assert tree["objects"][0]["children_left"] == 397

    assert document(cli, "largest", "c2", "--type", "Session")["objects"][0]["type"] == "app.ws.Session"
    assert document(cli, "types", "c2")["group_by"] == "type"
    assert document(cli, "modules", "c2", shape="types")["group_by"] == "module"


def test_two_dumps_are_compared_and_one_can_be_drawn(cli: Cli, tmp_path: Path) -> None:
    (row, *_) = document(cli, "diff", "c1", "c2")["growth"]
    assert "app.ws.HANDLERS" in row["path"]

    page = tmp_path / "retained.html"
    assert cli("heap", "retained", "c2", "-o", "html", "--output", str(page)) == 0
    assert "app.ws.HANDLERS list[400]" in page.read_text()


def test_what_is_not_there_is_told_with_what_to_do(cli: Cli) -> None:
    assert cli("heap", "types", "0099") == 1
    assert "`glassbottom captures` lists what was asked for" in cli.err
    assert cli("heap", "types", "--service", "search") == 1
    assert "take one with `glassbottom dump heap --service search`" in cli.err
    assert cli("heap", "paths", "c2", "--type", "Sesion") == 1
    assert "no object of type Sesion" in cli.err
    assert cli("heap", "largest", "c") == 2
    assert "2 captures have an id that begins with c" in cli.err


def test_what_is_kept_of_them_is_counted(cli: Cli) -> None:
    assert cli("heap", "types", "c2") == 0
    assert cli("status", "-o", "json") == 0

    statistics = json.loads(cli.out)["collector"]["statistics"]
    assert statistics["heap_dumps_loaded"] >= 1
    assert 0 < statistics["heap_dumps_objects"] <= statistics["heap_dumps_objects_max"]
