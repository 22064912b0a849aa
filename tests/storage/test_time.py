"""Tasks, samples of threads and observations, and all that tells of time together: what was stored is what is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from glassbottom_collector.model.code import Frame, Stack, stack_id
from glassbottom_collector.model.heap import Definitions
from glassbottom_collector.model.process import Span
from glassbottom_collector.model.timing import Observations, OperationKind, Operations, TaskGroup, Tasks
from glassbottom_collector.storage import Content, Reader
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.storage.conftest import Bench
from tests.support.memory_reader import MemoryReader
from tests.support.store_agent import (
    DAY,
    HEAP,
    MIDNIGHT,
    MINUTE,
    NOON,
    OBSERVATIONS,
    OPERATIONS,
    PROFILE,
    TASKS,
    S,
    StoreAgent,
    operation,
    profile,
)
from tests.support.store_time import DEFINED, EVER, FRAME, FULL, HOUR, LOOK, SEEN, STACK, interval, noticed, plain

# Tasks


def test_every_column_of_a_look_at_tasks_comes_back(bench: Bench) -> None:
    agent = StoreAgent()
    later = replace(LOOK, at_ns=NOON + 10 * S, edges=[], groups=LOOK.groups[::-1])
    agent.append(bench.writer, TASKS, later)
    agent.append(bench.writer, TASKS, LOOK)
    bench.reopen()
    (looks,) = bench.reader.tasks("checkout", HOUR).values()
    assert [plain(look) for look in looks] == [plain(LOOK), plain(later)]
    assert bench.reader.tasks("checkout", Span(NOON + S, NOON + 10 * S)) == {}


def test_many_tasks_come_back_in_order(bench: Bench) -> None:
    """Edges refer to groups by their place."""
    agent = StoreAgent()
    groups = [TaskGroup(0, (place,), "waiting", "Future", 1, 0.0, 0.0, 0.0, 0, 0.0, 0, "") for place in range(3_000)]
    look = replace(LOOK, groups=groups, edges=[(place, place + 1, 1) for place in range(2_999)])
    agent.append(bench.writer, TASKS, look)
    ((found,),) = bench.reader.tasks("checkout", HOUR).values()
    assert [group.path[0] for group in found.groups] == list(range(3_000))
    assert found.edges == look.edges


# Threads


def test_samples_of_threads_are_summed_up(bench: Bench) -> None:
    first, second = StoreAgent(), StoreAgent()
    rows = [(2**64 - 1, "MainThread", "", 3, 1.5, 0.5), (2**64 - 1, "MainThread", "handler", 1, 0.25, 0.25)]
    for agent in (first, second):
        for place in range(2):
            to_ns = NOON + place * 10 * S
            agent.append(bench.writer, PROFILE, profile(to_ns - 10 * S, to_ns, [*rows, (7, "worker", "", 1, 1.0, 0.0)]))
    StoreAgent("billing").append(bench.writer, PROFILE, profile(NOON - S, NOON, rows))
    assert plain(bench.reader.thread_time("checkout", HOUR)) == [
        (7, "worker", "", 4, 4.0, 0.0),
        (2**64 - 1, "MainThread", "", 12, 6.0, 2.0),
        (2**64 - 1, "MainThread", "handler", 4, 1.0, 1.0),
    ]
    one = bench.reader.thread_time("checkout", Span(NOON, NOON + S), first.instance_id)
    assert plain(one)[1] == (2**64 - 1, "MainThread", "", 3, 1.5, 0.5)  # type: ignore[index]
    assert one.samples.dtype == one.stack.dtype == np.uint64


def test_samples_of_two_days_are_one_sum(bench: Bench) -> None:
    agent = StoreAgent()
    bench.clock.now_ns = MIDNIGHT
    for to_ns in (MIDNIGHT - S, MIDNIGHT + S):
        agent.append(bench.writer, PROFILE, profile(to_ns - S, to_ns, [(7, "worker", "", 1, 1.0, 0.5)]))
    assert plain(bench.reader.thread_time("checkout", EVER)) == [(7, "worker", "", 2, 2.0, 1.0)]


def test_without_samples_there_is_no_time(bench: Bench) -> None:
    assert len(bench.reader.thread_time("checkout", HOUR)) == 0
    StoreAgent().append(bench.writer, PROFILE, profile(NOON, NOON + S, []))
    assert len(bench.reader.thread_time("checkout", HOUR)) == 0


# Observations


def test_every_column_of_an_observation_comes_back_with_its_process(bench: Bench) -> None:
    agent = StoreAgent()
    agent.append(bench.writer, OBSERVATIONS, noticed(NOON + S, SEEN, defined=DEFINED))
    bench.reopen()
    assert bench.reader.observations("checkout", HOUR, []) == [replace(SEEN, instance_id=agent.instance_id)]
    assert bench.reader.frames([FRAME.id]) == DEFINED.frames
    assert bench.reader.stacks([STACK]) == DEFINED.stacks


def test_observations_are_chosen_by_kind_and_come_by_time(bench: Bench) -> None:
    first, second = StoreAgent(), StoreAgent()
    for seconds, kind, agent in ((9, "span.slow", first), (3, "loop.blocked", second), (5, "gc.pause", first)):
        row = replace(SEEN, at_ns=NOON + seconds * S, kind=kind)
        agent.append(bench.writer, OBSERVATIONS, noticed(NOON + 10 * S, row))

    def seconds(kinds: list[str], instance_id: str | None = None) -> list[int]:
        return [(one.at_ns - NOON) // S for one in bench.reader.observations("checkout", HOUR, kinds, instance_id)]

    assert seconds([]) == [3, 5, 9]
    assert seconds(["span.slow", "loop.blocked"]) == [3, 9]
    assert seconds([], first.instance_id) == [5, 9]
    assert seconds(["nothing"]) == []


def test_a_request_of_hours_belongs_to_the_minute_in_which_it_ended(bench: Bench) -> None:
    agent = StoreAgent()
    long = replace(SEEN, at_ns=NOON - 30 * 60 * MINUTE, name="long")
    agent.append(bench.writer, OBSERVATIONS, noticed(NOON, long))

    def names(from_ns: int, to_ns: int) -> list[str]:
        return [one.name for one in bench.reader.observations("checkout", Span(from_ns, to_ns), [])]

    assert names(NOON - MINUTE, NOON + MINUTE) == ["long"]
    # Told within an hour after the range.
    assert names(NOON - 50 * MINUTE, NOON - 40 * MINUTE) == ["long"]
    assert names(NOON - 10 * 60 * MINUTE, NOON - 9 * 60 * MINUTE) == []
    assert names(NOON + S, NOON + MINUTE) == []


def test_what_is_told_after_midnight_belongs_to_the_evening_as_well(bench: Bench) -> None:
    """The row lies in the file of the next day."""
    agent = StoreAgent()
    bench.clock.now_ns = MIDNIGHT + 5 * S
    agent.append(bench.writer, OBSERVATIONS, noticed(MIDNIGHT + 5 * S, replace(SEEN, at_ns=MIDNIGHT - S)))
    (seen,) = bench.reader.observations("checkout", Span(MIDNIGHT - MINUTE, MIDNIGHT), [])
    assert seen.at_ns == MIDNIGHT - S


# All of them

SOME: list[tuple[int, Content]] = [
    (OPERATIONS, interval(NOON, FULL)),
    (TASKS, LOOK),
    (PROFILE, profile(NOON - 10 * S, NOON, [(7, "worker", "", 1, 1.0, 0.0)])),
    (OBSERVATIONS, noticed(NOON, SEEN)),
]


def rows(bench: Bench) -> tuple[int, int, int, int]:
    """Intervals, looks, samples and observations there are."""
    reader = bench.reader
    return (
        sum(len(some) for some in reader.operations("checkout", EVER).values()),
        sum(len(some) for some in reader.tasks("checkout", EVER).values()),
        int(reader.thread_time("checkout", EVER).samples.sum()),
        len(reader.observations("checkout", EVER, [])),
    )


def test_a_batch_of_any_stream_is_stored_once_however_often_it_comes(bench: Bench) -> None:
    agent = StoreAgent()
    agent.open(bench.writer)
    for stream, content in SOME:
        agent.append(bench.writer, stream, content)
        agent.append(bench.writer, stream, content, seq=1)
    bench.reopen()
    assert agent.open(bench.writer) == {OPERATIONS: 1, TASKS: 1, PROFILE: 1, OBSERVATIONS: 1}
    for stream, content in SOME:
        agent.append(bench.writer, stream, content, seq=1)
    assert rows(bench) == (1, 1, 1, 1)


@pytest.mark.parametrize(("stream", "content"), SOME, ids=["operations", "tasks", "threads", "observations"])
def test_a_process_that_sends_only_this_is_seen(bench: Bench, stream: int, content: Content) -> None:
    agent = StoreAgent()
    agent.open(bench.writer)
    agent.append(bench.writer, stream, content)
    (seen,) = bench.reader.processes("checkout", HOUR)
    assert (seen.process.instance_id, seen.first_seen_ns, seen.last_seen_ns) == (agent.instance_id, NOON, NOON)
    assert bench.reader.services(HOUR) == ["checkout"]


def test_every_stream_may_define_code(bench: Bench) -> None:
    agent = StoreAgent()
    for line, (stream, content) in enumerate(SOME, 1):
        frame = Frame("f", "a.py", line)
        defined = Definitions({frame.id: frame}, {}, {})
        agent.append(bench.writer, stream, replace(content, definitions=defined))  # type: ignore[type-var]
        assert bench.reader.frames([frame.id]) == {frame.id: frame}


def test_one_path_under_two_routes_is_two_stacks(bench: Bench) -> None:
    labels = ("", "GET /a", "GET /b")
    stacks = {
        stack_id((FRAME.id,), label): Stack(stack_id((FRAME.id,), label), (FRAME.id,), True, label) for label in labels
    }
    defined = Definitions({FRAME.id: FRAME}, stacks, {})
    StoreAgent().append(bench.writer, OBSERVATIONS, noticed(NOON, defined=defined))
    bench.reopen()
    assert bench.reader.stacks(stacks) == stacks
    assert len(stacks) == 3


def test_days_beyond_the_retention_take_everything_with_them(bench: Bench) -> None:
    bench.reopen(retention_days=1)
    agent = StoreAgent()
    for stream, content in SOME:
        agent.append(bench.writer, stream, content)
    bench.clock.now_ns = NOON + 2 * DAY
    bench.reopen()
    assert rows(bench) == (0, 0, 0, 0)


def test_a_damaged_day_takes_nothing_of_the_others_with_it(bench: Bench) -> None:
    agent = StoreAgent()
    for stream, content in SOME:
        agent.append(bench.writer, stream, content)
    bench.clock.now_ns = NOON + DAY
    agent.append(bench.writer, OPERATIONS, interval(NOON + DAY, FULL))
    bench.close()
    (bench.path / "day=2024-10-04.duckdb").write_bytes(b"this was a database once" * 400)
    bench.reopen()
    assert rows(bench) == (1, 0, 0, 0)
    assert len(bench.store.statistics().problems) == 1
    agent.append(bench.writer, OBSERVATIONS, noticed(NOON + S, SEEN))
    assert rows(bench) == (1, 0, 0, 1)


def test_a_heap_and_what_tells_of_time_share_a_commit(bench: Bench) -> None:
    """One group of every kind of content goes into one transaction."""
    agent = StoreAgent()
    agent.heap(bench.writer, NOON, {STACK: 1.0}, complete=True)
    for stream, content in SOME:
        agent.append(bench.writer, stream, content)
    assert agent.open(bench.writer) == {HEAP: 1, OPERATIONS: 1, TASKS: 1, PROFILE: 1, OBSERVATIONS: 1}
    assert len(bench.reader.heap_at("checkout", NOON)) == 1


# The reader over lists, which other tests use, says the same. Numbers are such that their sums do not depend on order.

names = st.sampled_from(["a", "b"])
durations = st.lists(st.sampled_from([0.0, 2**-10, 0.5, 0.5 + 2**-6, 32.0]), max_size=4)
operations = st.builds(
    lambda name, values, route: operation(name, *values, route=route, self_s=0.5), names, durations, names
)
contents: st.SearchStrategy[Callable[[int], Content]] = st.one_of(
    st.lists(operations, max_size=3).map(lambda rows: lambda at_ns: interval(at_ns, *rows)),
    st.just(lambda at_ns: replace(LOOK, at_ns=at_ns)),
    st.lists(
        st.tuples(st.integers(1, 2), names, names, st.integers(1, 3), st.just(0.5), st.just(0.25)), max_size=3
    ).map(lambda rows: lambda at_ns: profile(at_ns - S, at_ns, rows)),
    st.lists(st.tuples(st.integers(0, 7200), names), max_size=3).map(
        lambda rows: (
            lambda at_ns: noticed(at_ns, *(replace(SEEN, at_ns=at_ns - before * S, kind=kind) for before, kind in rows))
        )
    ),
)
STREAM = {Operations: OPERATIONS, Tasks: TASKS, Observations: OBSERVATIONS}


@pytest.mark.once
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5400), contents), max_size=6), st.integers(0, 5400))
def test_the_reader_over_lists_says_the_same(
    bench: Bench, made: list[tuple[int, int, Callable[[int], Content]]], from_s: int
) -> None:
    service = f"service{bench.clock.now_ns}"
    bench.clock.now_ns += 1
    agents = [StoreAgent(service), StoreAgent(service)]
    memory = MemoryReader()
    for agent in agents:
        memory.add_process(agent.process)
    for number, second, make in made:
        content = make(NOON + second * S)
        agents[number].append(bench.writer, STREAM.get(type(content), PROFILE), content)  # type: ignore[call-overload]
        memory.add(agents[number].instance_id, content)  # type: ignore[arg-type]
    within = Span(NOON + from_s * S, NOON + from_s * S + 30 * MINUTE)
    for instance_id in (None, agents[0].instance_id):
        said, expected = (answers(reader, service, within, instance_id) for reader in (bench.reader, memory))
        assert said == expected


def answers(reader: Reader, service: str, within: Span, instance_id: str | None) -> list[object]:
    """Everything a reader says about time, in comparable form."""
    return [
        {
            key: sorted(map(plain, some), key=repr)
            for key, some in reader.operations(service, within, instance_id).items()
        },
        {key: plain(one) for key, one in reader.operation_totals(service, within, instance_id).items()},
        {
            key: sorted(zip(one.from_ns.tolist(), one.to_ns.tolist(), one.count.tolist(), strict=True))
            for key, one in reader.ended(service, within, OperationKind.SPAN, instance_id).items()
        },
        {key: list(map(plain, some)) for key, some in reader.tasks(service, within, instance_id).items()},
        plain(reader.thread_time(service, within, instance_id)),
        sorted(map(repr, reader.observations(service, within, ["a"], instance_id))),
        sorted(map(repr, reader.observations(service, within, [], instance_id))),
        [seen.process.instance_id for seen in sorted(reader.processes(service, within), key=repr)],
    ]
