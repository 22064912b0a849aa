"""Memory and time by route: sums by label, shares of a site, profiles of one route, and leaks whatever the label."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from glassbottom.wire.v1 import query_pb2
from glassbottom_collector.leaks.detector import find_leaks
from glassbottom_collector.model.code import Stack, stack_id
from glassbottom_collector.model.heap import Definitions
from glassbottom_collector.model.leak import Verdict
from glassbottom_collector.model.process import Process, Span
from glassbottom_collector.model.timing import ThreadProfile

from tests.support.heap_curves import MB, Component, Curve, frames_of, series_of
from tests.support.memory_reader import MemoryReader, snapshots_of
from tests.support.query_server import serving
from tests.support.query_store import (
    DEFINITIONS,
    NOW,
    ORDERS,
    SECOND,
    SHOP,
    STACKS,
    START,
    USERS,
    A,
    B,
    at,
    failure,
    snapshot,
)

HELD = {"message": 1e6, "message, in orders": 5e6, "message, in users": 2e6, "cache, in orders": 3e6}


@pytest.fixture
def client():
    reader = MemoryReader()
    for instance in (A, B):
        reader.add_process(Process("shop", instance, 7, START))
        reader.add_snapshot(snapshot(instance, 90.0, HELD))
    with serving(reader, NOW) as stub:
        yield stub


def test_memory_by_route_loses_nothing(client):
    answer = client.Top(query_pb2.TopRequest(selector=SHOP, at_ns=NOW, group_by=query_pb2.GROUP_BY_ROUTE))

    assert {site.type: site.live_bytes for site in answer.sites} == pytest.approx({ORDERS: 16e6, USERS: 4e6, "": 2e6})
    first = answer.sites[0]
    assert first.type == ORDERS
    assert not first.frame.file
    assert [frame.function for frame in first.path] == ["Socket.on_message", "main"]
    assert [share.type for share in first.types] == ["bytes", "dict"]
    assert not first.routes


def test_a_site_is_one_line_whatever_the_route_and_shows_its_routes(client):
    sites = client.Top(query_pb2.TopRequest(selector=SHOP, at_ns=NOW)).sites

    assert [(site.frame.function, site.live_bytes) for site in sites] == [
        ("Socket.on_message", 16e6),
        ("Cache.put", 6e6),
    ]
    assert [(each.route, each.live_bytes, each.live_objects) for each in sites[0].routes] == [
        (ORDERS, pytest.approx(10e6), pytest.approx(10e3)),
        (USERS, pytest.approx(4e6), pytest.approx(4e3)),
    ]


def test_a_diff_by_route_says_which_route_grew():
    reader = MemoryReader()
    reader.add_process(Process("shop", A, 7, START))
    reader.add_snapshot(snapshot(A, 10.0, {"message, in orders": 5e6, "message, in users": 2e6}))
    reader.add_snapshot(snapshot(A, 90.0, {"message, in orders": 25e6, "message, in users": 2e6}))
    with serving(reader, NOW) as client:
        answer = client.Diff(
            query_pb2.DiffRequest(selector=SHOP, before_ns=at(10), after_ns=at(90), group_by=query_pb2.GROUP_BY_ROUTE)
        )

    assert [(change.site.type, change.delta_bytes) for change in answer.changes] == [(ORDERS, pytest.approx(20e6))]


def test_a_heap_profile_tells_routes_and_can_be_that_of_one(client):
    (whole,) = client.Profile(query_pb2.ProfileRequest(selector=SHOP, at_ns=NOW))
    (one,) = client.Profile(query_pb2.ProfileRequest(selector=SHOP, at_ns=NOW, route=ORDERS))

    assert sorted(stack.route for stack in whole.stacks) == ["", ORDERS, ORDERS, USERS]
    assert sum(stack.live_bytes for stack in whole.stacks) == pytest.approx(22e6)
    assert {stack.route for stack in one.stacks} == {ORDERS}
    assert sum(stack.live_bytes for stack in one.stacks) == pytest.approx(16e6)
    assert one.totals.live_bytes == pytest.approx(16e6)
    assert one.totals.samples == 20
    assert 0 < one.totals.live_bytes_stderr <= whole.totals.live_bytes_stderr


@pytest.mark.parametrize("kind", [query_pb2.PROFILE_KIND_HEAP, query_pb2.PROFILE_KIND_TIME])
def test_an_unknown_route_is_not_found_and_the_message_lists_what_there_is(kind):
    reader = timed()
    reader.add_snapshot(snapshot(A, 90.0, HELD))
    with serving(reader, NOW) as client:
        code, message = failure(
            client.Profile, query_pb2.ProfileRequest(selector=SHOP, at_ns=NOW, route="GET /nowhere", kind=kind)
        )

    assert code == grpc.StatusCode.NOT_FOUND
    assert message == f"There is no route 'GET /nowhere' here; there are {ORDERS}, {USERS}."


# --- Time ---


def timed() -> MemoryReader:
    """Two intervals of process A: handlers of two routes in two threads, and a worker outside any."""
    reader = MemoryReader()
    reader.add_process(Process("shop", A, 7, START))
    rows = [
        ("message, in orders", "MainThread", "handle", 30, 3.0, 2.0),
        ("message, in users", "MainThread", "handle", 10, 1.0, 0.5),
        ("cache", "worker", "", 50, 5.0, 0.1),
    ]
    names = ["MainThread", "worker", "handle", ""]
    for to_s in (50, 60):
        reader.add(
            A,
            ThreadProfile(
                at(to_s - 10),
                at(to_s),
                90,
                0,
                np.array([STACKS[row[0]].id for row in rows], dtype=np.uint64),
                np.array([names.index(row[1]) for row in rows], dtype=np.uint32),
                np.array([names.index(row[2]) for row in rows], dtype=np.uint32),
                np.array([row[3] for row in rows], dtype=np.uint32),
                np.array([row[4] for row in rows]),
                np.array([row[5] for row in rows]),
                names,
                DEFINITIONS,
            ),
        )
    return reader


def profile(**more):
    with serving(timed(), NOW) as client:
        return list(client.Profile(query_pb2.ProfileRequest(selector=SHOP, kind=query_pb2.PROFILE_KIND_TIME, **more)))


def test_time_of_threads_adds_up_over_intervals_by_path_route_thread_and_task():
    (piece,) = profile(at_ns=at(60))
    found = {
        (stack.route, stack.thread, stack.task): (stack.samples, stack.wall_s, stack.cpu_s) for stack in piece.stacks
    }

    assert found == {
        (ORDERS, "MainThread", "handle"): (60, 6.0, 4.0),
        (USERS, "MainThread", "handle"): (20, 2.0, 1.0),
        ("", "worker", ""): (100, 10.0, 0.2),
    }
    functions = {frame.id: frame.function for frame in piece.frames}
    assert [functions[frame] for frame in piece.stacks[0].frames] == ["Socket.on_message", "main"]
    assert (piece.totals.samples, piece.totals.instances) == (180, 1)


def test_time_can_be_that_of_one_route_or_thread_and_of_a_range():
    assert [stack.route for piece in profile(at_ns=at(60), route=USERS) for stack in piece.stacks] == [USERS]
    assert [stack.thread for piece in profile(at_ns=at(60), thread="worker") for stack in piece.stacks] == ["worker"]
    assert sum(stack.samples for piece in profile(from_ns=at(55), at_ns=at(60)) for stack in piece.stacks) == 90


def test_an_unknown_thread_is_not_found_and_the_message_lists_what_there_is():
    with serving(timed(), NOW) as client:
        request = query_pb2.ProfileRequest(selector=SHOP, kind=query_pb2.PROFILE_KIND_TIME, thread="nobody")
        code, message = failure(client.Profile, request)

    assert code == grpc.StatusCode.NOT_FOUND
    assert "there are MainThread, worker" in message


# --- Leaks ---


def leaking_under_two_routes() -> MemoryReader:
    """One line that leaks 1 MB/s under each of two routes, so that each path alone is half of it."""
    reader = MemoryReader()
    reader.add_process(Process("shop", A, 7, START - 3600 * SECOND))
    times = np.arange(50) * 2.0
    curves = [Curve("leak", (Component(times * MB, age_s=0.0),)) for _ in range(2)]
    series = series_of(curves, times, seed=1, instance_id=A)
    ids = tuple(frame.id for frame in frames_of(0))
    stacks = [Stack(stack_id(ids, route), ids, label=route) for route in (ORDERS, USERS)]
    object.__setattr__(series, "stacks", np.array([stack.id for stack in stacks], dtype=np.uint64))
    known = Definitions({frame.id: frame for frame in frames_of(0)}, {stack.id: stack for stack in stacks}, {})
    for each in snapshots_of(series, known):
        reader.add_snapshot(each)
    return reader


def test_a_line_that_leaks_under_several_routes_is_one_leak_with_the_sum_of_them():
    report = find_leaks(leaking_under_two_routes(), "shop", Span(START, NOW))

    (finding,) = report.findings
    assert (finding.verdict, report.sites_examined) == (Verdict.LEAK, 1)
    assert finding.bytes_rate.low < 2 * MB < finding.bytes_rate.high
    assert len(finding.stacks) == 2


def test_a_leak_says_which_routes_cause_it():
    with serving(leaking_under_two_routes(), NOW) as client:
        *_, last = client.Leaks(query_pb2.LeaksRequest(selector=SHOP))
    (finding,) = last.report.findings

    assert {share.route for share in finding.site.routes} == {ORDERS, USERS}
    assert sum(share.live_bytes for share in finding.site.routes) == pytest.approx(finding.site.live_bytes)
