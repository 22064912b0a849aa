"""What `slow`, `tasks`, `blocked` and `findings` say beyond their tables, and how they end."""

from __future__ import annotations

import json

import pytest
from glassbottom.wire.v1 import common_pb2, operations_pb2, query_pb2
from glassbottom_collector.cli import awaits
from hypothesis import given
from hypothesis import strategies as st

from tests.support import query_double_time
from tests.support.cli import Cli
from tests.support.query_double import Answers
from tests.support.query_double_memory import AT, AT_NS, BEFORE, BEFORE_NS

FINDING = 3
BETWEEN = ("--service", "checkout", "--from", BEFORE, "--to", AT)


# ---- slow -----------------------------------------------------------------------------------------------------------


def test_slow_asks_for_kinds_thresholds_and_range(cli: Cli, answers: Answers) -> None:
    cli(
        "slow", *BETWEEN, "--kind", "span", "--kind", "function", "--span-ms", "300", "--async-ms", "50", "--limit", "3"
    )

    (request,) = answers.requests
    assert request == query_pb2.SlowRequest(
        selector=query_pb2.Selector(service="checkout"),
        range=query_pb2.Range(from_ns=BEFORE_NS, to_ns=AT_NS),
        kinds=[operations_pb2.OPERATION_KIND_SPAN, operations_pb2.OPERATION_KIND_FUNCTION],
        limit=3,
        span_ms=300,
        async_ms=50,
    )


def test_slow_asks_for_everything_with_the_specified_thresholds_unless_told_otherwise(
    cli: Cli, answers: Answers
) -> None:
    cli("slow", *BETWEEN)

    (request,) = answers.requests
    assert (list(request.kinds), request.limit, request.span_ms, request.async_ms) == ([], 10, 1000, 100)


def test_slow_is_a_finding_only_when_a_row_is_flagged(cli: Cli) -> None:
    assert cli("slow", *BETWEEN) == FINDING
    assert cli("slow", *BETWEEN, "--kind", "function") == 0
    assert cli("slow", *BETWEEN, "--kind", "function", "-o", "json") == 0


def test_slow_marks_what_is_above_its_threshold_without_colours_too(cli: Cli) -> None:
    cli("slow", *BETWEEN)

    lines = cli.out.splitlines()
    assert [line.split()[1] == "!" for line in lines[1:5]] == [True, True, False, False]
    assert "(p95 over 1000 ms for spans, 100 ms for the rest)" in cli.out


def test_cpu_time_known_for_some_only_is_said_to_be_a_part(cli: Cli) -> None:
    cli("slow", *BETWEEN)
    assert "≥ 82.5 s" in cli.out

    cli("slow", *BETWEEN, "-o", "json")
    operations = json.loads(cli.out)["operations"]
    assert [each["cpu_s"] for each in operations] == [82.5, 31.0, None, 0.0029]
    assert [each["busy_s"] for each in operations] == [None, 64.0, None, None]


def test_nothing_slow_because_nothing_ended_is_a_sentence(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, answers: Answers
) -> None:
    monkeypatch.setattr(query_double_time, "OPERATIONS", ())

    assert cli("slow", *BETWEEN) == 0
    assert cli.out == "checkout: no span, coroutine or profiled function ended in this range.\n"


# ---- tasks ----------------------------------------------------------------------------------------------------------


def test_tasks_asks_for_the_moment_and_the_limit(cli: Cli, answers: Answers) -> None:
    cli("tasks", "--service", "checkout", "--instance", "4f2a", "--at", AT, "--limit", "7")

    (request,) = answers.requests
    assert request == query_pb2.TasksRequest(
        selector=query_pb2.Selector(service="checkout", instance_id="4f2a"), at_ns=AT_NS, limit=7
    )


def test_a_service_without_event_loops_is_told_so(cli: Cli, answers: Answers) -> None:
    answers.tasks = query_pb2.TasksResponse()
    answers.blocked = query_pb2.BlockedResponse()

    assert cli("tasks", "--service", "checkout") == 1
    assert cli.err.startswith("glassbottom tasks: no process of checkout ran an event loop by then;")
    assert cli("blocked", "--service", "checkout", "-o", "json") == 1
    assert cli.err.startswith("glassbottom blocked: no process of checkout ran an event loop in this range;")
    assert cli.out == ""


def test_a_deadlock_is_a_finding_without_any_other(cli: Cli, answers: Answers) -> None:
    del answers.tasks.findings[:]
    assert cli("tasks", "--service", "checkout") == FINDING
    assert "DEADLOCK" in cli.out

    # Without the edge that closes the circle.
    del answers.tasks.processes[0].waits[2]
    assert cli("tasks", "--service", "checkout") == 0
    assert "DEADLOCK" not in cli.out


def test_edges_to_groups_that_are_not_listed_are_no_error(cli: Cli, answers: Answers) -> None:
    answers.tasks.processes[0].waits.add(waiter=0, awaited=99, count=1)
    answers.tasks.processes[0].waits.add(waiter=99, awaited=0, count=1)

    assert cli("tasks", "--service", "checkout") == FINDING


def process(counts: list[int], *edges: tuple[int, int, int]) -> query_pb2.ProcessTasks:
    """Groups of so many tasks; edges of waiter, awaited, pairs."""
    return query_pb2.ProcessTasks(
        groups=[
            query_pb2.TaskGroupSummary(count=count, path=[common_pb2.Frame(function=f"f{at}", file="a.py", line=at)])
            for at, count in enumerate(counts)
        ],
        waits=[query_pb2.WaitsFor(waiter=waiter, awaited=awaited, count=pairs) for waiter, awaited, pairs in edges],
    )


def test_a_circle_in_which_some_task_waits_for_something_else_is_no_deadlock() -> None:
    """Three recursive tasks, of which the innermost works: two pairs for three tasks."""
    assert awaits.cycles(process([3], (0, 0, 2))) == [awaits.Cycle((0,), False)]
    assert awaits.cycles(process([2], (0, 0, 2))) == [awaits.Cycle((0,), True)]
    assert awaits.cycles(process([1, 1], (0, 1, 1))) == []
    assert awaits.cycles(process([5, 1], (0, 1, 1), (1, 0, 1))) == [awaits.Cycle((0, 1), False)]


def test_a_task_that_gathers_cannot_hide_one_that_awaits_something_else() -> None:
    """Two tasks, three pairs, two of them into the circle: both may be the same task's."""
    assert awaits.cycles(process([2, 1, 1], (0, 1, 2), (0, 2, 1), (1, 0, 1))) == [awaits.Cycle((0, 1), False)]
    # A single task that gathers is stuck with one of them.
    assert awaits.cycles(process([1, 1, 1], (0, 1, 1), (0, 2, 1), (1, 0, 1))) == [awaits.Cycle((0, 1), True)]


def test_the_tree_begins_at_those_nobody_awaits_and_follows_each_group_once() -> None:
    lines = awaits.tree(process([1, 1, 1, 1], (0, 2, 1), (1, 2, 1), (2, 3, 1)))

    assert [(line.depth, line.group, line.mark) for line in lines] == [
        (0, 0, ""),
        (1, 2, ""),
        (2, 3, ""),
        (0, 1, ""),
        (1, 2, "above"),
    ]


def test_a_circle_nobody_else_awaits_is_drawn_too() -> None:
    lines = awaits.tree(process([1, 1], (0, 1, 1), (1, 0, 1)))

    assert [(line.depth, line.group, line.mark) for line in lines] == [(0, 0, ""), (1, 1, ""), (2, 0, "deadlock")]


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7), st.integers(1, 3)), max_size=40))
def test_every_edge_is_drawn_once_whatever_the_graph(edges: list[tuple[int, int, int]]) -> None:
    graph = process([1] * 8, *edges)

    lines = awaits.tree(graph)

    drawn = []
    path: list[int] = []
    for line in lines:
        del path[line.depth :]
        if path:
            drawn.append((path[-1], line.group))
        path.append(line.group)
    assert sorted(drawn) == sorted({(waiter, awaited) for waiter, awaited, _ in edges})
    in_circles = {group for cycle in awaits.cycles(graph) for group in cycle.groups}
    assert {line.group for line in lines if line.mark in {"cycle", "deadlock"}} <= in_circles


# ---- blocked --------------------------------------------------------------------------------------------------------


def test_blocked_shows_a_few_frames_and_all_when_asked(cli: Cli) -> None:
    assert cli("blocked", *BETWEEN) == FINDING
    assert "    and 5 more" in cli.out
    assert "<module>" not in cli.out

    assert cli("blocked", *BETWEEN, "--stacks") == FINDING
    assert "more" not in cli.out
    assert "    /srv/checkout/app/main.py:9 <module>" in cli.out


def test_blocked_leads_to_the_applications_line_and_says_when_native_code_held_the_gil(cli: Cli) -> None:
    cli("blocked", *BETWEEN)

    first, second = [line for line in cli.out.splitlines() if line.startswith(("1 ", "2 "))]
    assert "/srv/checkout/app/orders/service.py:88 Orders.fetch" in first
    assert "GIL" not in first
    assert second.endswith("GIL held by native code")


def test_loops_that_nothing_held_are_exit_code_0_with_their_lag(cli: Cli, answers: Answers) -> None:
    del answers.blocked.blocks[:]

    assert cli("blocked", *BETWEEN) == 0
    assert "checkout: nothing held an event loop, 2026-11-23 13:55:20Z to" in cli.out
    assert "uvloop.Loop" in cli.out


# ---- findings -------------------------------------------------------------------------------------------------------


def test_a_healthy_service_has_nothing_found_and_exit_code_0(cli: Cli, answers: Answers) -> None:
    answers.findings = query_pb2.FindingsResponse()

    assert cli("findings", *BETWEEN) == 0
    assert cli.out == "checkout: Nothing found.\n"
    assert cli("findings", *BETWEEN, "-o", "json") == 0
    assert json.loads(cli.out)["findings"] == []
    assert json.loads(cli.out)["covered"] is None


def test_each_finding_has_its_place_its_evidence_and_its_call_path_without_repeating_itself(cli: Cli) -> None:
    cli("findings", *BETWEEN)

    assert cli.out.count("/srv/checkout/app/stock.py:57") == 1
    assert cli.out.count("/srv/checkout/app/checkout.py:14") == 1
    assert "  + referrers: No object but the task refers to it." in cli.out
    assert "(1 critical, 1 warning, 1 notice)" in cli.out


@pytest.mark.parametrize("verb", ["slow", "tasks", "blocked", "findings"])
def test_no_name_from_elsewhere_reaches_the_terminal_as_a_control_character(verb: str, cli: Cli) -> None:
    cli(verb, "--service", "checkout")

    assert "evil\\x1b[31m" in cli.out
    assert not [character for character in cli.out if ord(character) < 32 and character != "\n"]
    assert "\u202e" not in cli.out


# ---- routes in the questions about memory ---------------------------------------------------------------------------


def test_top_by_route_asks_for_routes_and_names_what_belongs_to_none(cli: Cli, answers: Answers) -> None:
    assert cli("top", "--service", "checkout", "--at", AT, "--by", "route", "-o", "json") == 0

    assert answers.requests[0].group_by == query_pb2.GROUP_BY_ROUTE
    sites = json.loads(cli.out)["sites"]
    assert [(site["route"], site["frame"], site["type"]) for site in sites] == [
        ("GET /ws", None, None),
        (None, None, None),
        ("GET /catalog", None, None),
    ]


def test_a_leak_names_the_requests_it_was_allocated_for(cli: Cli) -> None:
    cli("leaks", *BETWEEN)
    assert "allocated for GET /ws 88.4 MiB" in cli.out

    cli("leaks", *BETWEEN, "-o", "json")
    assert json.loads(cli.out)["findings"][0]["site"]["routes"][0]["route"] == "GET /ws"
