"""`glassbottom heap`: what is asked, how the answer reads in every format, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from glassbottom.wire.v1 import heapdump_pb2
from glassbottom_collector.cli import main

from tests.support.cli import Cli
from tests.support.golden import assert_reads_like
from tests.support.heap_double import CAPTURE, EARLIER, MIB, HeapAnswers, serving, summary
from tests.support.schemas import validate_strictly
from tests.support.terminal import become_terminal

pytestmark = pytest.mark.once

LINES = {
    "suspects": ("heap", "suspects", CAPTURE),
    "largest": ("heap", "largest", CAPTURE),
    "types": ("heap", "types", CAPTURE),
    "modules": ("heap", "modules", CAPTURE),
    "paths": ("heap", "paths", CAPTURE, "--type", "app.ws.Session"),
    "retained": ("heap", "retained", CAPTURE),
    "diff": ("heap", "diff", EARLIER, CAPTURE),
}
FINDING = 3


@pytest.fixture
def answers() -> HeapAnswers:
    return HeapAnswers()


@pytest.fixture
def cli(answers: HeapAnswers, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    with serving(answers) as address:
        yield Cli(address, capsys)


def expected_code(what: str) -> int:
    return FINDING if what == "suspects" else 0


@pytest.mark.parametrize("what", LINES)
def test_a_pipe_gets_everything_without_colours(what: str, cli: Cli) -> None:
    assert cli(*LINES[what]) == expected_code(what)

    assert cli.err == ""
    assert "\x1b" not in cli.out
    assert_reads_like(f"cli_heap_{what}.txt", cli.out)


@pytest.mark.parametrize("what", LINES)
def test_a_terminal_of_80_columns_gets_what_fits(what: str, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    out, _ = become_terminal(monkeypatch, columns=80)

    assert main(["heap", "--addr", cli.address, *LINES[what][1:]]) == expected_code(what)

    assert "\x1b[" in out.getvalue(), "with colours"
    assert max(map(len, out.text.splitlines())) <= 80
    assert_reads_like(f"cli_heap_{what}_80.txt", out.text)


@pytest.mark.parametrize("what", LINES)
def test_json_is_what_its_schema_says_and_nothing_else(what: str, cli: Cli) -> None:
    assert cli(*LINES[what], "-o", "json") == expected_code(what)

    document = json.loads(cli.out)
    shape = f"heap-{'types' if what == 'modules' else what}"
    assert document["schema"] == f"glassbottom.{shape}/1"
    validate_strictly(document, shape)
    assert cli.out.isascii()


def test_every_field_of_the_schemas_is_described(root: Path) -> None:
    for path in (root / "docs/schema").glob("heap-*.schema.json"):
        schema = json.loads(path.read_text())
        assert all("description" in field or "$ref" in field for field in schema["properties"].values()), path


@pytest.mark.parametrize("form", ["table", "folded", "speedscope", "html"])
def test_no_name_of_the_heap_reaches_the_terminal_as_a_control_character(form: str, cli: Cli) -> None:
    cli(*LINES["retained"], "-o", form)

    assert "evil" in cli.out
    assert not [character for character in cli.out if ord(character) < 32 and character != "\n"]
    assert "\u202e" not in cli.out


def test_a_drawn_tree_is_as_wide_as_what_each_object_retains(cli: Cli) -> None:
    """What the limit left out is there too, or a dict of a million small things would look like nothing."""
    assert cli(*LINES["retained"], "-o", "folded") == 0

    widths: dict[str, int] = {}
    for line in cli.out.splitlines():
        path, _, value = line.rpartition(" ")
        assert path.startswith("the whole heap")
        below = path.split(";")[1] if ";" in path else ""
        widths[below] = widths.get(below, 0) + int(value)
    assert sorted(widths.values()) == [2 * MIB, 14 * MIB, 48 * MIB]
    assert "the whole heap;app.ws.HANDLERS dict[18 204] (dict);(not shown) " in cli.out


def test_what_was_typed_reaches_the_collector(cli: Cli, answers: HeapAnswers) -> None:
    cli("heap", "largest", "--type", "app.ws.Session", "c0ffee", "--limit", "7")
    cli("heap", "paths", "c0ffee", "--object", "0x7f21c4000010")
    cli("heap", "retained", "c0ffee", "--object", "139782", "--depth", "3")
    cli("heap", "modules", "c0ffee")
    cli("heap", "diff", "c0ffee", "--limit", "4", "beef")

    dump = heapdump_pb2.DumpSelector(capture_id="c0ffee")
    assert answers.requests == [
        heapdump_pb2.LargestObjectsRequest(dump=dump, type="app.ws.Session", limit=7),
        heapdump_pb2.HolderPathsRequest(dump=dump, address=0x7F21C4000010, limit=5),
        heapdump_pb2.RetainedObjectsRequest(dump=dump, address=139782, depth=3, limit=20),
        heapdump_pb2.TypeTotalsRequest(dump=dump, group_by=heapdump_pb2.TYPE_GROUPING_MODULE, limit=30),
        heapdump_pb2.CompareDumpsRequest(before=dump, after=heapdump_pb2.DumpSelector(capture_id="beef"), limit=4),
    ]


def test_without_a_dump_the_newest_of_the_service_is_asked_for(cli: Cli, answers: HeapAnswers) -> None:
    """The only service need not be named."""
    cli("heap", "suspects")
    cli("heap", "suspects", "--service", "search", "--instance", "4f2a")

    assert answers.requests == [
        heapdump_pb2.LeakSuspectsRequest(dump=heapdump_pb2.DumpSelector(service="checkout")),
        heapdump_pb2.LeakSuspectsRequest(dump=heapdump_pb2.DumpSelector(service="search", instance_id="4f2a")),
    ]


def test_no_suspect_is_exit_code_0(cli: Cli, answers: HeapAnswers) -> None:
    answers.suspects = []

    assert cli(*LINES["suspects"]) == 0
    assert "No object, and no type, retains a suspiciously large part of the heap.\n" in cli.out


def test_a_dump_that_was_cut_short_says_so_before_its_rows(cli: Cli, answers: HeapAnswers) -> None:
    answers.dump = summary(complete=False, reason="it reached its limit of bytes")

    cli(*LINES["largest"])
    assert cli.out.splitlines()[1] == "The dump was cut short: it reached its limit of bytes"


def test_what_makes_a_comparison_doubtful_stands_above_it(cli: Cli, answers: HeapAnswers) -> None:
    answers.notes = ("The dumps are of different processes.",)

    cli(*LINES["diff"])
    assert "note: The dumps are of different processes.\n" in cli.out


def test_nothing_that_leads_there_is_an_answer(cli: Cli, answers: HeapAnswers) -> None:
    answers.paths = []

    assert cli(*LINES["paths"]) == 0
    assert "No path leads to app.ws.Session" in cli.out


def test_a_dump_that_is_gone_is_one_sentence(cli: Cli, answers: HeapAnswers) -> None:
    answers.error = (grpc.StatusCode.NOT_FOUND, "There is no capture c0ffee.")

    assert cli(*LINES["largest"]) == 1
    assert cli.err == "glassbottom heap: There is no capture c0ffee.\n"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "WHAT is missing; it is one of suspects, largest, types, modules, paths, retained, diff; see"),
        ("paths c0ffee", "paths needs either --type TYPE or --object ADDRESS."),
        ("paths c0ffee --type a --object 0x1", "paths needs either --type TYPE or --object ADDRESS."),
        ("largest c0ffee --depth 3", "--depth is for retained, not for largest."),
        ("retained c0ffee --type a", "--type is for largest and paths, not for retained."),
        ("suspects c0ffee --limit 3", "--limit is for largest and types and modules and paths and retained and diff"),
        ("largest c0ffee beef", "largest reads one dump, and 2 are named."),
        ("diff c0ffee", "diff reads two dumps, the earlier one first, and 1 is named."),
        ("diff c0ffee /tmp/x.heap", "one dump is a file and the other a capture; name both in the same way"),
        ("largest /tmp/x.heap --service shop", "--service and --instance choose among captures; a file needs neither."),
        ("retained c0ffee --object zz", "--object zz is no address of an object, such as 0x7f21c4a03d40."),
        ("retained c0ffee --object 0x10000000000000000", "is no address of an object"),
        ("retained c0ffee --depth 11", "--depth must be between 1 and 10."),
        ("largest c0ffee -o html", "-o html draws the tree of retained; largest has rows: use -o table or json."),
    ],
)
def test_a_line_that_makes_no_sense_is_refused_before_anything_is_asked(
    line: str, says: str, cli: Cli, answers: HeapAnswers
) -> None:
    assert cli("heap", *line.split()) == 2
    assert says in cli.err
    assert answers.requests == []
