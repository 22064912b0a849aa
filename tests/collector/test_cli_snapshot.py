"""`glassbottom snapshot take|list|diff`: what is asked, what is written, and what makes no sense."""

from __future__ import annotations

import json
import time

import pytest
from glassbottom.wire.v1 import control_pb2, query_pb2, snapshots_pb2
from glassbottom_collector.cli import main

from tests.support.cli import Cli
from tests.support.golden import assert_reads_like
from tests.support.query_double import Answers
from tests.support.query_double_memory import AT, AT_NS, INSTANCE
from tests.support.schemas import validate_strictly
from tests.support.terminal import become_terminal

pytestmark = pytest.mark.once

LINES = {
    "snapshot-list": ("snapshot", "list", "--service", "checkout"),
    "snapshot-diff": ("snapshot", "diff", "before", "after", "--service", "checkout"),
}


@pytest.mark.parametrize("name", LINES)
def test_a_pipe_gets_the_whole_table_and_a_terminal_one_that_fits(
    name: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli(*LINES[name]) == 0
    assert "\x1b" not in cli.out
    assert_reads_like(f"cli_{name}.txt", cli.out)

    out, _ = become_terminal(monkeypatch, columns=80)
    assert main([LINES[name][0], "--addr", cli.address, *LINES[name][1:]]) == 0
    assert max(map(len, out.text.splitlines())) <= 80
    assert_reads_like(f"cli_{name}_80.txt", out.text)


@pytest.mark.parametrize("name", LINES)
def test_json_is_what_its_schema_says_and_nothing_else(name: str, cli: Cli) -> None:
    assert cli(*LINES[name], "-o", "json") == 0
    document = json.loads(cli.out)
    assert document["schema"] == f"glassbottom.{name}/1"
    validate_strictly(document, name)
    assert cli.out.isascii()


@pytest.mark.parametrize("words", [(), ("take",)])
def test_a_snapshot_is_taken_with_or_without_a_word_and_a_name(
    words: tuple[str, ...], cli: Cli, answers: Answers
) -> None:
    assert cli("snapshot", *words, "--service", "checkout", "--label", "before") == 0
    assert cli("snapshot", *words, "--service", "checkout", "--instance", "4f2a") == 0
    assert [each for each in answers.requests if isinstance(each, control_pb2.TakeSnapshotRequest)] == [
        control_pb2.TakeSnapshotRequest(service="checkout", label="before"),
        control_pb2.TakeSnapshotRequest(service="checkout", instance_id="4f2a"),
    ]


def asked(answers: Answers) -> snapshots_pb2.DiffSnapshotsRequest:
    (request,) = [each for each in answers.requests if isinstance(each, snapshots_pb2.DiffSnapshotsRequest)]
    return request


def test_both_sides_are_names_and_what_also_reads_as_a_time_is_sent_as_that_too(cli: Cli, answers: Answers) -> None:
    assert cli("snapshot", "diff", "before~1", AT, "--service", "checkout", "--by", "type", "--limit", "7") == 0
    request = asked(answers)
    assert (request.before.label, request.before.at_ns) == ("before~1", 0)
    assert (request.after.label, request.after.at_ns) == (AT, AT_NS)
    assert (request.group_by, request.limit) == (query_pb2.GROUP_BY_TYPE, 7)


def test_sides_that_are_left_out_are_left_to_the_collector(cli: Cli, answers: Answers) -> None:
    assert cli("snapshot", "diff", "--service", "checkout", "--instance", INSTANCE) == 0
    request = asked(answers)
    assert not request.HasField("before")
    assert not request.HasField("after")
    assert request.selector.instance_id == INSTANCE


def test_a_list_reaches_back_seven_days_unless_told_otherwise(cli: Cli, answers: Answers) -> None:
    before_ns = time.time_ns()
    assert cli("snapshot", "list", "--service", "checkout") == 0
    (request,) = [each for each in answers.requests if isinstance(each, snapshots_pb2.ListSnapshotsRequest)]
    assert request.range.to_ns - request.range.from_ns == 7 * 86_400 * 10**9 + 1
    assert request.range.to_ns > before_ns


def test_an_empty_list_says_how_to_take_one(cli: Cli, answers: Answers) -> None:
    answers.snapshots = snapshots_pb2.ListSnapshotsResponse()
    assert cli("snapshot", "list", "--service", "checkout") == 0
    assert "snapshot take --label NAME" in cli.out


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (("make",), "snapshot make is not known; use snapshot take, list, or diff [BEFORE [AFTER]]."),
        (("take", "before"), "snapshot take does not take 'before'; see glassbottom snapshot --help."),
        (("diff", "a", "b", "c"), "snapshot diff does not take 'c'; see glassbottom snapshot --help."),
        (("list", "--label", "x"), "--label means nothing with snapshot list; leave it out."),
        (("take", "--by", "type"), "--by means nothing with snapshot take; leave it out."),
        (("diff", "--from", "1h"), "--from means nothing with snapshot diff; leave it out."),
        (("--label", " "), "--label is empty; give the snapshot a name, or leave --label out."),
        (("list", "--limit", "0"), "--limit must be at least 1."),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_asked(
    line: tuple[str, ...], sentence: str, cli: Cli, answers: Answers
) -> None:
    assert cli("snapshot", *line) == 2
    assert cli.err == f"glassbottom snapshot: {sentence}\n"
    assert answers.requests == []
