"""What held event loops, asked over a real gRPC server: each block once, by where it happened."""

from __future__ import annotations

import pytest
from glassbottom.wire.v1 import query_pb2
from glassbottom_collector.model.code import Frame
from glassbottom_collector.timing.blocks import counted

from tests.support.query_server import serving
from tests.support.told import HANDLER, MAIN, SLEEP, A, B, at, blocked, histogram, look, loop, observations, service

NOW = at(100)
PATH = (SLEEP, HANDLER, MAIN)
PACKAGE = Frame("compile", "/venv/lib/python3.12/site-packages/regex/core.py", 400)


def ask(reader, **more) -> query_pb2.BlockedResponse:
    with serving(reader, NOW) as client:
        return client.Blocked(query_pb2.BlockedRequest(selector=query_pb2.Selector(service="shop"), **more))


def told(*rows, at_s: float = 50.0, paths=(PATH, (MAIN,), (PACKAGE, HANDLER), (PACKAGE,))):
    return observations(at_s, *rows, paths=paths)


def test_blocks_of_one_place_in_several_processes_are_one_row():
    reader = service(told(blocked(10, "handle", 0.3, *PATH), blocked(12, "handle", 0.5, *PATH)), instances=(A, B))
    reader.add(B, told(blocked(11, "handle", 0.2, *PATH, gil_held=True, late=True)))
    answer = ask(reader)

    (row,) = answer.blocks
    assert (row.coroutine, row.count, row.max_s, row.last_ns) == ("handle", 3, 0.5, at(12))
    assert row.total_s == pytest.approx(1.0)
    assert answer.total_s == pytest.approx(1.0)
    assert [frame.function for frame in row.path] == ["sleep", "Orders.fetch", "main"]
    assert row.application_frame.line == HANDLER.line
    assert (row.gil_held, row.late, row.thread, list(row.instance_ids)) == (True, True, "MainThread", [A, B])
    assert (answer.covered.from_ns, answer.covered.to_ns) == (at(50), at(50) + 1)


def test_a_block_that_goes_on_counts_once_and_with_what_it_came_to():
    going_on = [blocked(10, "handle", value, *PATH, ended=False) for value in (0.2, 1.2, 2.2)]
    ended = blocked(10, "handle", 2.5, *PATH)

    assert [each.value for each in counted([*going_on, ended])] == [2.5]
    assert [each.value for each in counted([ended, *going_on])] == [2.5]


def test_one_that_had_not_ended_counts_only_as_the_last_thing_heard_of_its_loop():
    goes_on = blocked(20, "handle", 3.0, *PATH, ended=False)
    same_loop, other_loop = blocked(25, "handle", 0.2, *PATH), blocked(25, "handle", 0.2, *PATH, thread="other")

    assert [each.value for each in counted([goes_on])] == [3.0]
    assert [each.value for each in counted([goes_on, same_loop])] == [0.2]
    assert sorted(each.value for each in counted([goes_on, other_loop])) == [0.2, 3.0]


def test_one_function_caught_at_different_lines_is_one_row_at_the_line_that_held_longest():
    lines = [Frame("Orders.total", "/srv/shop/orders.py", line) for line in (30, 31, 32)]
    rows = [blocked(n, "handle", 0.2 + (line.line == 31), line, MAIN) for n, line in enumerate(lines)]
    answer = ask(service(told(*rows, paths=[(line, MAIN) for line in lines])))

    (row,) = answer.blocks
    assert (row.count, row.path[0].line, row.application_frame.line) == (3, 31, 31)


def test_other_coroutines_and_paths_stay_apart_and_the_most_time_is_first():
    rows = [
        blocked(1, "handle", 0.2, *PATH),
        blocked(2, "other", 0.9, *PATH),
        blocked(3, "handle", 0.4, PACKAGE, HANDLER),
        blocked(4, "handle", 0.3),
    ]
    answer = ask(service(told(*rows)), limit=3)

    assert [(row.coroutine, row.total_s) for row in answer.blocks] == [("other", 0.9), ("handle", 0.4), ("handle", 0.3)]
    assert not answer.blocks[2].path
    assert answer.total_s == pytest.approx(1.8)


def test_the_application_frame_skips_standard_library_and_packages_and_may_be_missing():
    answer = ask(service(told(blocked(1, "a", 0.9, PACKAGE, HANDLER), blocked(2, "b", 0.2, PACKAGE))))

    assert answer.blocks[0].application_frame.function == "Orders.fetch"
    assert not answer.blocks[1].application_frame.file


def test_loops_stand_beside_with_their_lag_over_the_range():
    reader = service(
        look(10, loops=[loop(1, "MainThread", histogram(*[0.001] * 90)), loop(2, "quiet", histogram(0.0001))]),
        look(20, loops=[loop(1, "MainThread", histogram(*[0.5] * 10), ready=4)]),
        told(blocked(15, "handle", 0.5, *PATH)),
    )
    first, second = ask(reader).loops

    assert (first.thread, first.lag_max_s, first.ready) == ("MainThread", 0.5, 4)
    assert (first.lag_p50_s, first.lag_p99_s) == pytest.approx((0.001, 0.5), rel=0.05)
    assert second.thread == "quiet"


def test_a_service_that_was_never_held_has_no_rows_and_says_what_is_covered():
    answer = ask(service(look(10), look(90)))

    assert (list(answer.blocks), answer.total_s) == ([], 0.0)
    assert (answer.covered.from_ns, answer.covered.to_ns) == (at(10), at(90) + 1)
