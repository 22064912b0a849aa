"""Who sent data, which metrics, and what ids mean."""

from __future__ import annotations

from glassbottom_collector.model.code import Frame, Stack, stack_id, type_id
from glassbottom_collector.model.heap import MetricPoint
from glassbottom_collector.model.process import Span

from tests.storage.conftest import Bench
from tests.support.store_agent import DAY, MIDNIGHT, MINUTE, NOON, S, StoreAgent, definitions

HOUR = Span(NOON, NOON + 60 * MINUTE)


def test_services_are_those_with_data_in_the_range(bench: Bench) -> None:
    for service, at_ns in (("checkout", NOON), ("billing", NOON + MINUTE), ("search", NOON + 60 * MINUTE)):
        agent = StoreAgent(service)
        agent.open(bench.writer)
        agent.heap(bench.writer, at_ns, {1: 1.0})
    StoreAgent("silent").open(bench.writer)
    assert bench.reader.services(HOUR) == ["billing", "checkout"]


def test_processes_come_oldest_first_with_their_agent_and_attributes(bench: Bench) -> None:
    later, sooner = StoreAgent(), StoreAgent()
    for agent, at_ns in ((later, NOON + MINUTE), (sooner, NOON)):
        agent.open(bench.writer)
        agent.heap(bench.writer, at_ns, {1: 1.0})
        agent.metrics(bench.writer, [MetricPoint(at_ns + MINUTE, "process.uptime", 1.0)])
    first, second = bench.reader.processes("checkout", HOUR)
    assert first.process == sooner.process
    assert second.process == later.process
    assert first.agent_version == "1.2.3"
    assert (first.first_seen_ns, first.last_seen_ns) == (NOON, NOON + MINUTE)


def test_a_process_seen_on_two_days_is_one_process(bench: Bench) -> None:
    agent = StoreAgent()
    agent.open(bench.writer)
    bench.clock.now_ns = MIDNIGHT
    agent.heap(bench.writer, MIDNIGHT - S, {1: 1.0})
    agent.heap(bench.writer, MIDNIGHT + S, {1: 1.0})
    (seen,) = bench.reader.processes("checkout", Span(NOON, NOON + DAY))
    assert (seen.first_seen_ns, seen.last_seen_ns) == (MIDNIGHT - S, MIDNIGHT + S)


def test_headers_come_by_instance_and_time(bench: Bench) -> None:
    first, second = sorted((StoreAgent(), StoreAgent()), key=lambda agent: agent.instance_id)
    second.heap(bench.writer, NOON, {1: 1.0})
    first.heap(bench.writer, NOON + 2 * S, {1: 1.0})
    first.heap(bench.writer, NOON + 3 * S, {1: 1.0}, epoch=2)
    second.heap(bench.writer, NOON + S, {1: 1.0})
    assert [(header.instance_id, (header.at_ns - NOON) // S) for header in bench.reader.headers("checkout", HOUR)] == [
        (first.instance_id, 2),
        (first.instance_id, 3),
        (second.instance_id, 0),
        (second.instance_id, 1),
    ]


def test_metrics_come_by_instance_and_time_with_their_attributes(bench: Bench) -> None:
    first, second = StoreAgent(), StoreAgent()
    generation = (("cpython.gc.generation", "2"),)
    for agent in (first, second):
        for minute in (0, 1):
            at_ns = NOON + minute * MINUTE
            agent.metrics(
                bench.writer,
                [
                    MetricPoint(at_ns, "process.memory.usage", 100.0 + minute),
                    MetricPoint(at_ns, "cpython.gc.collections", 3.0, generation),
                    MetricPoint(at_ns, "process.uptime", 9.0),
                ],
            )
    found = bench.reader.metrics("checkout", HOUR, ["process.memory.usage", "cpython.gc.collections"])
    assert set(found) == {first.instance_id, second.instance_id}
    assert [point for point in found[first.instance_id] if point.name == "process.memory.usage"] == [
        MetricPoint(NOON, "process.memory.usage", 100.0),
        MetricPoint(NOON + MINUTE, "process.memory.usage", 101.0),
    ]
    assert MetricPoint(NOON, "cpython.gc.collections", 3.0, generation) in found[first.instance_id]
    only = bench.reader.metrics("checkout", HOUR, ["process.uptime"], second.instance_id)
    assert list(only) == [second.instance_id]
    assert bench.reader.metrics("checkout", HOUR, []) == {}


def test_definitions_come_back_and_unknown_ids_are_left_out(bench: Bench) -> None:
    frame = Frame("Cart.add", "/srv/app/cart.py", 42)
    stack = stack_id((frame.id,))
    agent = StoreAgent()
    agent.heap(bench.writer, NOON, {stack: 1.0}, defined=definitions([frame], ["dict"]))
    agent.heap(bench.writer, NOON + S, {stack: 1.0}, defined=definitions([frame], ["dict", "list"]))
    bench.reopen()
    assert bench.reader.frames([frame.id, 1]) == {frame.id: frame}
    assert bench.reader.stacks([stack, 2]) == {stack: Stack(stack, (frame.id,))}
    assert bench.reader.types([type_id("dict"), type_id("list"), 3]) == {
        type_id("dict"): "dict",
        type_id("list"): "list",
    }
    assert bench.reader.frames([]) == {}


def test_rows_of_stacks_nobody_defined_are_kept(bench: Bench) -> None:
    """The batch with their definitions may be on its way again, or lost with another store."""
    agent = StoreAgent()
    agent.heap(bench.writer, NOON, {77: 5.0}, complete=True)
    (state,) = bench.reader.heap_at("checkout", NOON)
    assert state.sites.stack.tolist() == [77]
    assert bench.reader.stacks([77]) == {}


def test_odd_names_are_only_names(bench: Bench) -> None:
    """Quotes, braces and other alphabets in names come back as they were."""
    name = "che'ck\"out; DROP TABLE batch; -- {day} ☂\n"
    frame = Frame("<lambda>{0}", "/srv/a'b/{day}.py", 1)
    agent = StoreAgent(name)
    agent.open(bench.writer)
    agent.heap(bench.writer, NOON, {1: 1.0}, defined=definitions([frame], ["a'b"]))
    assert bench.reader.services(HOUR) == [name]
    assert bench.reader.frames([frame.id]) == {frame.id: frame}
    assert len(bench.reader.heap_at(name, NOON)) == 1


def test_the_identity_of_a_store_outlives_a_restart(bench: Bench) -> None:
    store_id = bench.writer.store_id
    bench.reopen()
    assert bench.writer.store_id == store_id
    assert len(store_id) == 32
