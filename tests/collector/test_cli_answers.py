"""What each verb writes, where, and how it ends."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from glassbottom.wire.v1 import control_pb2, ingest_pb2, query_pb2
from glassbottom_collector.cli import main

from tests.support.cli import Cli
from tests.support.golden import assert_reads_like
from tests.support.query_double import Answers
from tests.support.query_double_memory import AT, AT_NS, BEFORE, BEFORE_NS, INSTANCE, OTHER_INSTANCE
from tests.support.schemas import validate_strictly
from tests.support.terminal import become_terminal

LINES = {
    "services": ("services", "--from", BEFORE, "--to", AT),
    "status": ("status",),
    "top": ("top", "--service", "checkout", "--at", AT),
    "top-by-type": ("top", "--service", "checkout", "--at", AT, "--by", "type"),
    "top-by-route": ("top", "--service", "checkout", "--at", AT, "--by", "route"),
    "slow": ("slow", "--service", "checkout", "--from", BEFORE, "--to", AT),
    "tasks": ("tasks", "--service", "checkout", "--at", AT),
    "blocked": ("blocked", "--service", "checkout", "--from", BEFORE, "--to", AT),
    "findings": ("findings", "--service", "checkout", "--from", BEFORE, "--to", AT),
    "timeline": ("timeline", "--service", "checkout", "--from", BEFORE, "--to", AT, "--points", "30"),
    "diff": ("diff", "--service", "checkout", "--from", BEFORE, "--to", AT),
    "leaks": ("leaks", "--service", "checkout", "--from", BEFORE, "--to", AT),
    "snapshot": ("snapshot", "--service", "checkout"),
}
FINDING = 3


def expected_code(name: str) -> int:
    return FINDING if name in {"leaks", "slow", "tasks", "blocked", "findings"} else 0


@pytest.mark.parametrize("name", LINES)
def test_a_pipe_gets_the_whole_table_without_colours(name: str, cli: Cli) -> None:
    assert cli(*LINES[name]) == expected_code(name)

    assert cli.err == ""
    assert "\x1b" not in cli.out
    assert_reads_like(f"cli_{name}.txt", cli.out.replace(cli.address, "ADDRESS"))


@pytest.mark.parametrize("name", LINES)
def test_a_terminal_of_80_columns_gets_a_table_that_fits(name: str, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    out, _ = become_terminal(monkeypatch, columns=80)

    assert main([LINES[name][0], "--addr", cli.address, *LINES[name][1:]]) == expected_code(name)

    assert "\x1b[" in out.getvalue(), "with colours"
    assert max(map(len, out.text.splitlines())) <= 80
    assert_reads_like(f"cli_{name}_80.txt", out.text.replace(cli.address, "ADDRESS"))


@pytest.mark.parametrize("name", LINES)
def test_json_is_what_its_schema_says_and_nothing_else(name: str, cli: Cli) -> None:
    assert cli(*LINES[name], "-o", "json") == expected_code(name)

    document = json.loads(cli.out)
    verb = LINES[name][0]
    assert document["schema"] == f"glassbottom.{verb}/1"
    validate_strictly(document, verb)
    assert cli.out.isascii()
    assert cli.err == ""


def test_the_strict_schema_would_notice_an_undescribed_field(cli: Cli) -> None:
    cli(*LINES["leaks"], "-o", "json")
    document = json.loads(cli.out)
    for spoil in (
        lambda d: d.update(more=1),
        lambda d: d["findings"][0]["site"].update(more=1),
        lambda d: d["findings"][0].pop("p_value"),
        lambda d: d.update({"from": "yesterday"}),
    ):
        spoilt = copy.deepcopy(document)
        spoil(spoilt)
        with pytest.raises(AssertionError):
            validate_strictly(spoilt, "leaks")


@pytest.mark.parametrize("verb", sorted({line[0] for line in LINES.values()}))
def test_every_field_of_the_schemas_is_described(verb: str, root: Path) -> None:
    schema = json.loads((root / f"docs/schema/{verb}.schema.json").read_text())

    assert all("description" in field or "$ref" in field for field in schema["properties"].values())


def test_json_keeps_names_exactly_and_numbers_unrounded(cli: Cli) -> None:
    cli(*LINES["top"], "-o", "json")

    document = json.loads(cli.out)
    assert any("\x1b[31m" in site["frame"]["function"] for site in document["sites"])
    assert document["totals"]["live_bytes"] != round(document["totals"]["live_bytes"])
    assert document["at"] == "2026-11-23T14:05:10.000000000Z"


def test_what_is_not_known_is_null_in_json_and_not_a_word_json_does_not_have(cli: Cli) -> None:
    cli(*LINES["leaks"], "-o", "json")
    unclear = json.loads(cli.out)["findings"][2]
    assert unclear["verdict"] == "unclear"
    assert unclear["bytes_per_second"] == {"value": 10.0, "low": None, "high": None}

    cli(*LINES["timeline"], "-o", "json")
    assert json.loads(cli.out)["series"][0]["values"][0] is None


@pytest.mark.parametrize("form", ["table", "folded", "speedscope", "html"])
def test_no_name_from_elsewhere_reaches_the_terminal_as_a_control_character(form: str, cli: Cli) -> None:
    cli(*LINES["top"], "-o", form)

    assert "evil" in cli.out
    assert not [character for character in cli.out if ord(character) < 32 and character != "\n"]
    assert "\u202e" not in cli.out


def test_rich_markup_in_a_name_is_text(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    out, _ = become_terminal(monkeypatch, columns=200)

    main([*LINES["top"], "--addr", cli.address])

    assert "/tmp/[link]x.py:7 evil\\x1b[31m[bold red]x[/]" in out.text


def test_the_selector_the_moment_and_the_limit_reach_the_collector(cli: Cli, answers: Answers) -> None:
    cli("top", "--service", "checkout", "--instance", "4f2a", "--at", AT, "--by", "function", "--limit", "7")

    (request,) = answers.requests
    assert request == query_pb2.TopRequest(
        selector=query_pb2.Selector(service="checkout", instance_id="4f2a"),
        at_ns=AT_NS,
        group_by=query_pb2.GROUP_BY_FUNCTION,
        limit=7,
    )


def test_diff_asks_for_both_moments(cli: Cli, answers: Answers) -> None:
    cli(*LINES["diff"])

    assert (answers.requests[0].before_ns, answers.requests[0].after_ns) == (BEFORE_NS, AT_NS)


def test_the_only_service_need_not_be_named(cli: Cli) -> None:
    assert cli("top", "--at", AT) == 0
    assert cli.out.startswith("checkout at ")


def test_several_services_are_listed_rather_than_guessed_between(cli: Cli, answers: Answers) -> None:
    answers.services = ("checkout", "search\x1b[2J")

    assert cli("top") == 2
    assert cli.err == "glassbottom top: --service is needed; there are: checkout, search\\x1b[2J.\n"


def test_no_service_at_all_says_how_to_start_one(cli: Cli, answers: Answers) -> None:
    answers.services = ()

    assert cli("leaks") == 1
    assert "glassbottom run -- python app.py" in cli.err
    assert cli("services") == 0
    assert cli.out == "No service sent data in this range.\n"


def test_no_leak_is_exit_code_0(cli: Cli, answers: Answers) -> None:
    del answers.leaks.findings[0]

    assert cli(*LINES["leaks"]) == 0
    assert "no leak in 214 sites" in cli.out


def test_a_report_about_nothing_is_still_a_report(cli: Cli, answers: Answers) -> None:
    answers.leaks = query_pb2.LeakReport(notes=["Only 1 snapshot so far; ask again in a minute."])

    assert cli(*LINES["leaks"]) == 0
    assert "note: Only 1 snapshot so far" in cli.out
    assert cli(*LINES["leaks"], "-o", "json") == 0
    assert json.loads(cli.out)["covered"] is None


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        ((), 0),
        (("--fail-on-growth",), FINDING),
        (("--fail-on-growth", "10MiB"), FINDING),
        (("--fail-on-growth", "1GiB"), 0),
        (("--fail-on-growth", "67000000"), FINDING),
    ],
)
def test_growth_fails_a_diff_only_when_asked_to_and_beyond_the_size(
    flags: tuple[str, ...], code: int, cli: Cli
) -> None:
    assert cli(*LINES["diff"], *flags) == code
    assert cli(*LINES["diff"], *flags, "-o", "json") == code


def test_growth_that_noise_explains_fails_nothing(cli: Cli, answers: Answers) -> None:
    for change in answers.changes:
        change.significant = False

    assert cli(*LINES["diff"], "--fail-on-growth") == 0


def outcome(
    instance_id: str, how: ingest_pb2.CommandOutcome.ValueType, reason: str = ""
) -> control_pb2.InstanceOutcome:
    return control_pb2.InstanceOutcome(instance_id=instance_id, outcome=how, reason=reason)


def test_a_process_that_refuses_a_snapshot_is_exit_code_4_and_one_that_fails_is_1(cli: Cli, answers: Answers) -> None:
    refused = outcome(OTHER_INSTANCE, ingest_pb2.COMMAND_OUTCOME_REFUSED, "snapshots are switched off here.")
    failed = outcome(INSTANCE, ingest_pb2.COMMAND_OUTCOME_FAILED, "no answer within 30 s.")

    answers.outcomes = (*answers.outcomes, refused)
    assert cli("snapshot", "--service", "checkout") == 4
    assert "a1b2c3d4  refused  snapshots are switched off here." in cli.out

    answers.outcomes = (refused, failed)
    assert cli("snapshot", "--service", "checkout") == 1


def test_a_snapshot_of_nobody_is_an_error(cli: Cli, answers: Answers) -> None:
    answers.outcomes = ()

    assert cli("snapshot", "--service", "checkout") == 1
    assert cli.err == (
        "glassbottom snapshot: no process of checkout is connected now; `glassbottom status` shows what is.\n"
    )


def test_output_goes_to_a_file_when_asked_and_nothing_to_stdout(cli: Cli, tmp_path: Path) -> None:
    assert cli(*LINES["leaks"], "--output", str(tmp_path / "report.txt")) == FINDING

    assert cli.out == ""
    assert (tmp_path / "report.txt").read_text().startswith("VERDICT")


def test_a_file_that_cannot_be_written_is_one_sentence(cli: Cli, tmp_path: Path) -> None:
    target = tmp_path / "absent" / "heap.pb.gz"

    assert cli("top", "--at", AT, "-o", "pprof", "--output", str(target)) == 1
    assert cli.err == f"glassbottom top: cannot write {target}: No such file or directory.\n"


def test_pprof_is_not_written_to_a_terminal(cli: Cli, answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = become_terminal(monkeypatch)

    assert main(["top", "--service", "checkout", "--addr", cli.address, "-o", "pprof"]) == 2

    assert out.getvalue() == ""
    assert "pprof is binary and this is a terminal; add --output" in err.text
    assert answers.requests == [], "refused before the work, not after"


def test_progress_is_shown_to_a_person_and_wiped(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = become_terminal(monkeypatch)

    main([*LINES["leaks"], "--addr", cli.address])

    assert "reading snapshots 16/24 …" in err.getvalue()
    assert err.getvalue().endswith("\r\x1b[2K")
    assert "reading snapshots" not in out.getvalue()
