"""Flame graphs of time and memory: types, units, labels, narrowing, and where the file goes."""

from __future__ import annotations

import gzip
import json
import math
import re
from pathlib import Path

import pytest
from glassbottom.wire.v1 import query_pb2
from glassbottom_collector.cli import main
from glassbottom_collector.pprof.v1 import profile_pb2

from tests.support.cli import Cli
from tests.support.query_double import Answers, serving
from tests.support.query_double_memory import AT, AT_NS, BEFORE, BEFORE_NS, HEAP
from tests.support.query_double_time import OTHER_ROUTE, ROUTE, TIMES
from tests.support.terminal import become_terminal

CPU = ("flame", "--service", "checkout", "--from", BEFORE, "--to", AT)
WALL = (*CPU, "--type", "wall")
HEAP_NOW = ("flame", "--service", "checkout", "--at", AT)


def read_pprof(cli: Cli, path: Path, *line: str) -> profile_pb2.Profile:
    assert cli(*line, "-o", "pprof", "--output", str(path)) == 0, cli.err
    return profile_pb2.Profile.FromString(gzip.decompress(path.read_bytes()))


def page_data(page: str) -> dict:
    match = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert match is not None
    return json.loads(match[1])


def folded(cli: Cli, *line: str) -> dict[str, int]:
    """Value by call path."""
    assert cli(*line, "-o", "folded") == 0, cli.err
    return {path: int(value) for path, _, value in (line.rpartition(" ") for line in cli.out.splitlines())}


def test_the_range_the_kind_and_the_narrowing_reach_the_collector(cli: Cli, answers: Answers) -> None:
    assert cli(*WALL, "--route", ROUTE, "--thread", "MainThread", "-o", "folded") == 0

    (request,) = answers.requests
    assert request == query_pb2.ProfileRequest(
        selector=query_pb2.Selector(service="checkout"),
        kind=query_pb2.PROFILE_KIND_TIME,
        from_ns=BEFORE_NS,
        at_ns=AT_NS,
        route=ROUTE,
        thread="MainThread",
    )


def test_a_heap_is_asked_for_at_a_moment(cli: Cli, answers: Answers) -> None:
    assert cli(*HEAP_NOW, "--type", "inuse_space", "-o", "folded") == 0

    (request,) = answers.requests
    assert (request.kind, request.at_ns, request.from_ns) == (query_pb2.PROFILE_KIND_HEAP, AT_NS, 0)


@pytest.mark.parametrize(
    ("kind", "total"),
    [
        ("cpu", math.fsum(path.cpu_s for path in TIMES) * 1e9),
        ("wall", math.fsum(path.wall_s for path in TIMES) * 1e9),
        ("inuse_space", math.fsum(path.live_bytes for path in HEAP)),
        ("inuse_objects", math.fsum(path.live_objects for path in HEAP)),
        ("alloc_space", math.fsum(path.live_bytes * 2.5 for path in HEAP)),
        ("alloc_objects", math.fsum(path.live_objects * 2.5 for path in HEAP)),
    ],
)
def test_every_format_begins_with_the_type_asked_for_and_has_its_total(
    kind: str, total: float, cli: Cli, tmp_path: Path
) -> None:
    line = (*(CPU if kind in {"cpu", "wall"} else HEAP_NOW), "--type", kind)

    assert sum(folded(cli, *line).values()) == round(total)
    assert cli(*line, "-o", "html") == 0
    assert sum(page_data(cli.out)["values"][0]) == round(total)
    assert cli(*line, "-o", "speedscope") == 0
    assert json.loads(cli.out)["profiles"][0]["endValue"] == round(total)
    profile = read_pprof(cli, tmp_path / "x.pb.gz", *line)
    names = [profile.string_table[each.type] for each in profile.sample_type]
    assert profile.string_table[profile.default_sample_type] == kind
    assert sum(sample.value[names.index(kind)] for sample in profile.sample) == round(total)


def test_every_format_names_the_unit(cli: Cli, tmp_path: Path) -> None:
    profile = read_pprof(cli, tmp_path / "cpu.pb.gz", *CPU)
    text = profile.string_table
    assert [(text[each.type], text[each.unit]) for each in profile.sample_type] == [
        ("samples", "count"),
        ("cpu", "nanoseconds"),
        ("wall", "nanoseconds"),
    ]
    assert (text[profile.period_type.type], text[profile.period_type.unit]) == ("wall", "nanoseconds")
    assert profile.period == pytest.approx(1e9 * sum(p.wall_s for p in TIMES) / sum(p.samples for p in TIMES), rel=1e-6)
    assert (profile.time_nanos, profile.duration_nanos) == (BEFORE_NS, AT_NS - BEFORE_NS)

    cli(*CPU, "-o", "html")
    data = page_data(cli.out)
    assert data["columns"] == [
        {"name": "CPU time", "unit": "nanoseconds"},
        {"name": "wall time", "unit": "nanoseconds"},
        {"name": "samples", "unit": "count"},
    ]
    assert data["title"] == "checkout: CPU time from 2026-11-23 13:55:10Z to 2026-11-23 14:05:10Z"
    assert "nanoseconds: [" in cli.out, "and the page knows how to read it"

    cli(*WALL, "-o", "speedscope")
    document = json.loads(cli.out)
    assert [(each["name"], each["unit"]) for each in document["profiles"]] == [
        ("wall time", "nanoseconds"),
        ("CPU time", "nanoseconds"),
        ("samples", "none"),
    ]


def test_pprof_samples_carry_route_thread_and_task_as_labels(cli: Cli, tmp_path: Path) -> None:
    profile = read_pprof(cli, tmp_path / "cpu.pb.gz", *CPU)
    text = profile.string_table
    labels = [{text[label.key]: text[label.str] for label in sample.label} for sample in profile.sample]

    assert {"route": ROUTE, "thread": "MainThread", "task": "run_asgi"} in labels
    assert {"route": OTHER_ROUTE, "thread": "MainThread", "task": "run_asgi"} in labels
    assert {"thread": "worker-loop"} in labels
    assert len(labels) == len(TIMES), "equal call paths of different routes stay apart"

    heap = read_pprof(cli, tmp_path / "heap.pb.gz", *HEAP_NOW, "--type", "inuse_space")
    text = heap.string_table
    assert {text[label.str] for sample in heap.sample for label in sample.label} == {"GET /ws", "GET /catalog"}


def test_a_route_or_a_thread_narrows_it_and_the_title_says_so(cli: Cli) -> None:
    paths = folded(cli, *WALL, "--route", OTHER_ROUTE)
    assert list(paths.values()) == [2_500_000_000]

    paths = folded(cli, *WALL, "--thread", "worker-loop")
    assert list(paths) == ["<module> (/srv/checkout/app/main.py:9)"]

    cli(*WALL, "--route", ROUTE, "-o", "html")
    assert page_data(cli.out)["title"].endswith(f", route {ROUTE}")
    assert sum(folded(cli, *HEAP_NOW, "--type", "inuse_space", "--route", "GET /catalog").values()) == round(
        HEAP[2].live_bytes
    )


def test_equal_call_paths_are_one_line_unless_split(cli: Cli) -> None:
    together = folded(cli, *WALL)
    apart = folded(cli, *WALL, "--split", "route")

    assert sum(together.values()) == sum(apart.values())
    (sleeping,) = [path for path in together if path.endswith("Orders.fetch (/srv/checkout/app/orders/service.py:88)")]
    assert apart[f"{ROUTE};{sleeping}"] + apart[f"{OTHER_ROUTE};{sleeping}"] == together[sleeping]
    assert {path.split(";")[0] for path in apart} == {ROUTE, OTHER_ROUTE, "no route"}


@pytest.mark.parametrize(("by", "outermost"), [("thread", "MainThread"), ("task", "run_asgi"), ("route", ROUTE)])
def test_every_format_can_be_split(by: str, outermost: str, cli: Cli, tmp_path: Path) -> None:
    assert any(path.startswith(f"{outermost};") for path in folded(cli, *WALL, "--split", by))
    for form in ("html", "speedscope"):
        assert cli(*WALL, "--split", by, "-o", form) == 0
        assert outermost in cli.out
    profile = read_pprof(cli, tmp_path / "x.pb.gz", *WALL, "--split", by)
    functions = {each.id: profile.string_table[each.name] for each in profile.function}
    lines = {each.id: functions[each.line[0].function_id] for each in profile.location}
    assert outermost in {lines[sample.location_id[-1]] for sample in profile.sample}


@pytest.mark.parametrize("form", ["folded", "speedscope", "html"])
@pytest.mark.parametrize("more", [(), ("--split", "thread")])
def test_no_name_from_elsewhere_reaches_a_file_as_a_control_character(
    form: str, more: tuple[str, ...], cli: Cli
) -> None:
    cli(*WALL, *more, "-o", form)

    assert "evil" in cli.out
    assert not [character for character in cli.out if ord(character) < 32 and character != "\n"]
    assert "\u202e" not in cli.out


def test_nothing_sampled_is_a_sentence_and_no_empty_file(cli: Cli, tmp_path: Path) -> None:
    target = tmp_path / "flame.html"

    assert cli(*CPU, "--route", "GET /nothing", "--output", str(target)) == 1
    assert cli.err == (
        "glassbottom flame: no sample of checkout (route GET /nothing) in this range has CPU time; "
        "try --type wall, or a longer range.\n"
    )
    assert cli(*HEAP_NOW, "--type", "inuse_space", "--route", "GET /nothing", "--output", str(target)) == 1
    assert "no sampled allocation of checkout (route GET /nothing) by then" in cli.err
    assert not target.exists()


@pytest.mark.parametrize(("form", "suffix"), [("html", "html"), ("speedscope", "speedscope.json"), ("pprof", "pb.gz")])
def test_on_a_terminal_a_graph_goes_to_a_file_whose_name_is_said(
    form: str, suffix: str, answers: Answers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answers.services = ("../../check\x1bout",)
    monkeypatch.chdir(tmp_path)
    out, err = become_terminal(monkeypatch)

    with serving(answers) as address:
        assert main(["flame", "--addr", address, "--from", BEFORE, "--to", AT, "-o", form]) == 0

    name = f"_check_out-cpu-20261123T140510Z.{suffix}"
    assert out.getvalue() == ""
    assert err.text.splitlines()[-1].endswith(f"glassbottom flame: wrote {name}")
    assert (tmp_path / name).stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_folded_stacks_are_text_and_go_to_the_terminal(
    answers: Answers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    out, _ = become_terminal(monkeypatch)

    with serving(answers) as address:
        assert main([*WALL, "--addr", address, "-o", "folded"]) == 0

    assert out.text.count("\n") == 4
    assert list(tmp_path.iterdir()) == []
