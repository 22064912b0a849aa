"""Hostile operations, tasks, samples and observations: a sentence, and never anything else."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from glassbottom.wire.v1 import observations_pb2, operations_pb2, profile_pb2, tasks_pb2
from glassbottom_collector.config import IngestConfig
from glassbottom_collector.ingest.checks import Malformed
from glassbottom_collector.ingest.decode_time import observations_of, operations_of, profile_of, tasks_of
from glassbottom_collector.model.code import Stack
from glassbottom_collector.model.process import Process
from glassbottom_collector.model.timing import Observations, OperationKind, Operations, Tasks, ThreadProfile
from glassbottom_collector.storage import BatchKey, bytes_held, rows_in
from glassbottom_collector.storage.embedded.columns import Arrival, day_tables
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import wire_messages as wire

LIMITS = IngestConfig()
NOW_NS = time.time_ns()
S = 10**9
HOUR = 3600 * S
CODE = wire.Code()
FRAME = CODE.frame("Cart.add", "/srv/app/cart.py", 42)
STACK = CODE.stack(("Cart.add", "/srv/app/cart.py", 42), label="GET /cart/{id}")
DEFINED = CODE.definitions()
KEY = BatchKey("5" * 32, 3, 1)
PROCESS = Process("checkout", "a" * 32, 1, NOW_NS)


def operations() -> operations_pb2.OperationsSnapshot:
    """In order, with a row of every kind."""
    rows = [
        wire.operation("GET /cart/{id}", 0.1, 0.2, 0.0, span_kind="SERVER", cpu_count=3, cpu_user_s=0.01),
        *(wire.operation("Cart.add", 0.003, kind=kind, frame=FRAME, route="GET /cart/{id}") for kind in (2, 3, 4)),
    ]
    return wire.operations_snapshot(NOW_NS - 10 * S, NOW_NS, rows, DEFINED)


def tasks() -> tasks_pb2.TasksSnapshot:
    """In order: two loops, two groups, an edge."""
    groups = [wire.group([FRAME], 3, steps=9, busy_s=0.5), wire.group([FRAME, FRAME], loop=1, task_name="Task-1")]
    return wire.tasks_snapshot(
        NOW_NS, [wire.loop(7, [0.001]), wire.loop(8, ready=3, ready_max=9)], groups, [(0, 1, 3)], DEFINED
    )


def profile() -> profile_pb2.ProfileSnapshot:
    """In order, with two rows."""
    rows = [(STACK, "MainThread", "", 9, 1.0, 0.5), (5, "worker", "handler", 1, 0.1, 0.0)]
    return wire.profile_snapshot(NOW_NS - 10 * S, NOW_NS, rows, DEFINED)


def observations() -> observations_pb2.ObservationsSnapshot:
    """In order, with two rows."""
    rows = [
        wire.observation(
            NOW_NS - S, "loop.blocked", "Cart.add", 1.5, stack=STACK, attributes={"thread.name": "MainThread"}
        ),
        wire.observation(NOW_NS - 100 * HOUR, "span.slow", "GET /cart/{id}", 360_000.0),
    ]
    return wire.observations_snapshot(NOW_NS, rows, DEFINED, dropped=4)


DECODERS: dict[str, tuple[Callable[[], Any], Callable[..., Any]]] = {
    "operations": (operations, operations_of),
    "tasks": (tasks, tasks_of),
    "profile": (profile, profile_of),
    "observations": (observations, observations_of),
}
EVERY = pytest.mark.parametrize(("make", "decode"), DECODERS.values(), ids=DECODERS)


def decoded(message: Any, limits: IngestConfig = LIMITS) -> Any:
    """By the decoder of its kind."""
    decode = next(decode for make, decode in DECODERS.values() if type(make()) is type(message))
    return decode(message.SerializeToString(), limits, NOW_NS)


def complaint(message: Any, limits: IngestConfig = LIMITS) -> str:
    with pytest.raises(Malformed) as caught:
        decoded(message, limits)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What is in order


def test_operations_that_are_in_order_come_through() -> None:
    found: Operations = decoded(operations())
    assert (found.from_ns, found.to_ns) == (NOW_NS - 10 * S, NOW_NS)
    span, *others = found.rows
    assert (span.kind, span.name, span.span_kind, span.status) == (OperationKind.SPAN, "GET /cart/{id}", "SERVER", "ok")
    assert (span.cpu_count, span.cpu_user_s) == (3, 0.01)
    assert (span.duration.count, span.duration.zero_count, span.duration.max_s) == (3, 1, 0.2)
    assert [row.kind for row in others] == [OperationKind.COROUTINE, OperationKind.STEP, OperationKind.FUNCTION]
    assert {(row.frame, row.route) for row in others} == {(FRAME, "GET /cart/{id}")}
    assert found.definitions.stacks == {STACK: Stack(STACK, (FRAME,), False, "GET /cart/{id}")}


def test_tasks_that_are_in_order_come_through() -> None:
    found: Tasks = decoded(tasks())
    assert [(one.id, one.lag.count, one.ready, one.ready_max) for one in found.loops] == [(7, 1, -1, -1), (8, 0, 3, 9)]
    assert [(one.path, one.count, one.loop, one.steps) for one in found.groups] == [
        ((FRAME,), 3, 0, 9),
        ((FRAME, FRAME), 1, 1, 0),
    ]
    assert found.edges == [(0, 1, 3)]
    assert (found.tasks, found.tasks_examined) == (4, 4)


def test_samples_that_are_in_order_come_through() -> None:
    found: ThreadProfile = decoded(profile())
    assert found.stack.tolist() == [STACK, 5]
    assert [found.names[place] for place in found.thread.tolist()] == ["MainThread", "worker"]
    assert [found.names[place] for place in found.task.tolist()] == ["", "handler"]
    assert (found.wall_s.tolist(), found.cpu_s.tolist(), found.ticks) == ([1.0, 0.1], [0.5, 0.0], 10)


def test_observations_that_are_in_order_come_through() -> None:
    found: Observations = decoded(observations())
    assert [(row.kind, row.value, row.count) for row in found.rows] == [
        ("loop.blocked", 1.5, 1),
        ("span.slow", 360_000.0, 1),
    ]
    assert (found.rows[0].stack, dict(found.rows[0].attributes)) == (STACK, {"thread.name": "MainThread"})
    assert found.dropped == 4


@EVERY
def test_a_batch_without_rows_is_in_order(make: Callable[[], Any], decode: Callable[..., Any]) -> None:
    empty = type(make())()
    for field in ("at_ns", "to_ns"):
        if hasattr(empty, field):
            setattr(empty, field, NOW_NS)
    if hasattr(empty, "from_ns"):
        empty.from_ns = NOW_NS - S
    assert rows_in(decoded(empty)) == 0


@EVERY
def test_definitions_are_checked_in_every_stream(make: Callable[[], Any], decode: Callable[..., Any]) -> None:
    message = make()
    message.definitions.frames[0].line += 1
    assert "but its content has" in complaint(message)
    known = {FRAME, STACK}
    assert decode(message.SerializeToString(), LIMITS, NOW_NS, known).definitions.frames == {}
    few = IngestConfig(definitions_per_batch_max=1)
    assert "2 definitions; at most 1" in complaint(make(), few)


@EVERY
def test_a_label_is_part_of_the_id_of_a_stack(make: Callable[[], Any], decode: Callable[..., Any]) -> None:
    message = make()
    message.definitions.stacks[0].label = "GET /other"
    assert complaint(message).startswith("The id of a stack is")
    message.definitions.stacks[0].label = "x" * 256
    assert "at most 255" in complaint(message)


@EVERY
@pytest.mark.parametrize(("shift_s", "sentence"), [(7200, "ahead of"), (-49 * 3600, "behind")])
def test_a_time_far_from_the_clock_is_refused(
    make: Callable[[], Any], decode: Callable[..., Any], shift_s: int, sentence: str
) -> None:
    message = make()
    for field in ("at_ns", "from_ns", "to_ns"):
        if hasattr(message, field):
            setattr(message, field, getattr(message, field) + shift_s * S)
    assert sentence in complaint(message)


@pytest.mark.parametrize("make", [operations, profile])
def test_an_interval_has_a_length_and_not_too_much_of_it(make: Callable[[], Any]) -> None:
    message = make()
    message.from_ns = message.to_ns
    assert "ends" in complaint(message)
    message.from_ns = message.to_ns + 1
    assert "before it begins" in complaint(message)
    message.from_ns = message.to_ns - 2 * HOUR
    assert decoded(message)
    message.from_ns = message.to_ns - 2 * HOUR - 1
    assert "at most 2 h" in complaint(message)
    message.from_ns = 0
    assert "at most 2 h" in complaint(message)


# Numbers

NO_AMOUNTS = pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 1e300])


@NO_AMOUNTS
@pytest.mark.parametrize("field", ["self_s", "cpu_user_s", "cpu_system_s", "busy_s", "alloc_bytes"])
def test_a_sum_of_an_operation_is_an_amount(field: str, value: float) -> None:
    message = operations()
    setattr(message.operations[1], field, value)
    assert complaint(message).startswith(f"{field} of an operation is ")


@NO_AMOUNTS
@pytest.mark.parametrize("field", ["age_oldest_s", "age_mean_s", "wait_longest_s", "busy_s"])
def test_an_age_of_a_task_is_an_amount(field: str, value: float) -> None:
    message = tasks()
    setattr(message.groups[1], field, value)
    assert complaint(message).startswith(f"{field} of a group of tasks is ")


@NO_AMOUNTS
@pytest.mark.parametrize("field", ["wall_s", "cpu_s"])
def test_time_of_a_thread_is_an_amount(field: str, value: float) -> None:
    message = profile()
    setattr(message, field, struct.pack("<2d", 1.0, value))
    assert complaint(message) == f"samples.{field} has a value that is negative, infinite or no number."


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_the_value_of_an_observation_is_a_number(value: float) -> None:
    message = observations()
    message.observations[0].value = value
    assert "the value of an observation of 'loop.blocked'" in complaint(message)


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (operations, lambda message, value: setattr(message.operations[0], "cpu_count", value)),
        (operations, lambda message, value: setattr(message.operations[0], "bare_yields", value)),
        (tasks, lambda message, value: setattr(message.groups[0], "steps", value)),
        (tasks, lambda message, value: setattr(message.groups[0], "bare_yields", value)),
        (profile, lambda message, value: setattr(message, "ticks", value)),
        (profile, lambda message, value: setattr(message, "dropped", value)),
        (observations, lambda message, value: setattr(message, "dropped", value)),
        (observations, lambda message, value: setattr(message.observations[0], "count", value)),
    ],
)
def test_a_count_is_one_that_can_be_summed_up(make: Callable[[], Any], change: Callable[[Any, int], None]) -> None:
    message = make()
    change(message, 2**48)
    assert decoded(message)
    change(message, 2**48 + 1)
    assert str(2**48 + 1) in complaint(message) or str(2**48) in complaint(message)


def test_an_observation_stands_for_at_least_one() -> None:
    message = observations()
    message.observations[0].count = 0
    assert "at least 1" in complaint(message)


def test_an_observation_does_not_lie_after_its_batch() -> None:
    message = observations()
    message.observations[0].at_ns = NOW_NS + HOUR
    assert decoded(message)
    message.observations[0].at_ns = NOW_NS + HOUR + 1
    assert "after the batch" in complaint(message)
    message.observations[0].at_ns = 2**64 - 1
    assert "after the batch" in complaint(message)


# Histograms


def with_duration(**change: Any) -> operations_pb2.OperationsSnapshot:
    """One operation with a histogram that is in order but for this."""
    message = wire.operations_snapshot(NOW_NS - S, NOW_NS, [wire.operation("a", 0.1, 0.2)])
    for field, value in change.items():
        if field == "counts":
            message.operations[0].duration.counts[:] = value
        else:
            setattr(message.operations[0].duration, field, value)
    return message


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"scale": 21}, "scale"),
        ({"scale": -11}, "scale"),
        ({"counts": [1] * 1025}, "1025 buckets; at most 1024"),
        ({"counts": [2**48 + 1]}, "a count above"),
        ({"zero_count": 2**63}, "a count above"),
        ({"offset": 2**31 - 1}, "no durations"),
        ({"offset": -(2**31)}, "no durations"),
        ({"offset": 1023}, "no durations"),
        ({"offset": -1025}, "no durations"),
        ({"sum_s": float("nan")}, "sum_s"),
        ({"min_s": -0.1}, "min_s"),
        ({"max_s": float("inf")}, "max_s"),
        ({"min_s": 0.3}, "contradicts itself"),
        ({"max_s": 0.05}, "contradicts itself"),
        ({"sum_s": 0.19}, "contradicts itself"),
        ({"sum_s": 0.5}, "contradicts itself"),
        ({"counts": []}, "contradicts itself"),
        ({"counts": [2]}, None),
        ({"zero_count": 1, "min_s": 0.0}, None),
        ({"sum_s": 0.3 + 1e-9}, None),
    ],
)
def test_a_histogram_agrees_with_itself(change: dict[str, Any], sentence: str | None) -> None:
    message = with_duration(**change)
    if sentence is None:
        assert len(decoded(message).rows) == 1
    else:
        assert sentence in complaint(message)
    lag = tasks()
    lag.loops[0].lag.CopyFrom(message.operations[0].duration)
    if sentence is None:
        assert decoded(lag).loops[0].lag.count == decoded(message).rows[0].duration.count
    else:
        assert "loop" in complaint(lag)


@pytest.mark.parametrize("scale", range(-10, 21))
def test_a_histogram_of_any_scale_is_taken_and_stored(scale: int) -> None:
    """Whatever passes here must fit the eleven bits that the store has for a bucket."""
    reach = max(1, 64 * 2**scale) if scale >= 0 else max(1, 64 >> -scale)
    for offset in (-reach, reach - 1, 0):
        change = {"scale": scale, "counts": [2], "offset": offset}
        content = decoded(with_duration(**change))
        tables = day_tables([Arrival.of(KEY, PROCESS, content, NOW_NS)], [1])
        assert len(tables["operation"]["buckets"][0]) == 8
    assert "no durations" in complaint(with_duration(scale=scale, counts=[2], offset=reach))


def test_histograms_are_told_apart_when_many_are_checked_at_once() -> None:
    rows = [wire.operation(f"f{place}", *[0.001 * (place + 1)] * place) for place in range(50)]
    found = decoded(wire.operations_snapshot(NOW_NS - S, NOW_NS, rows))
    assert [row.duration.count for row in found.rows] == list(range(50))
    assert [row.duration.counts.tolist() for row in found.rows] == [[place] if place else [] for place in range(50)]


# Texts and sizes


@pytest.mark.parametrize(
    ("make", "change", "sentence"),
    [
        (operations, lambda m: setattr(m.operations[0], "name", ""), "no name"),
        (operations, lambda m: setattr(m.operations[0], "name", "n" * 256), "at most 255"),
        (operations, lambda m: setattr(m.operations[0], "route", "n" * 256), "at most 255"),
        (operations, lambda m: setattr(m.operations[0], "target", "n" * 256), "at most 255"),
        (operations, lambda m: setattr(m.operations[0], "span_kind", "n" * 256), "at most 255"),
        (operations, lambda m: setattr(m.operations[0], "status", "a\0b"), "zero character"),
        (operations, lambda m: setattr(m.operations[0], "kind", 0), "kind 0 are not known"),
        (operations, lambda m: setattr(m.operations[0], "kind", 99), "kind 99 are not known"),
        (tasks, lambda m: setattr(m.groups[0], "loop", 2), "a loop beyond the 2"),
        (tasks, lambda m: m.groups[0].path.extend([1] * 32), "33 frames; at most 32"),
        (tasks, lambda m: setattr(m.groups[0], "state", "s" * 33), "at most 32"),
        (tasks, lambda m: setattr(m.groups[0], "awaits", "s" * 1025), "at most 1024"),
        (tasks, lambda m: setattr(m.groups[0], "task_name", "s" * 1025), "at most 1024"),
        (tasks, lambda m: setattr(m.edges[0], "waiter", 2), "beyond the 2"),
        (tasks, lambda m: setattr(m.edges[0], "awaited", 2), "beyond the 2"),
        (tasks, lambda m: setattr(m.loops[0], "thread", "t" * 1025), "at most 1024"),
        (tasks, lambda m: setattr(m.loops[0], "ready", -2), "fewer than no callbacks"),
        (tasks, lambda m: setattr(m, "tasks_examined", 5), "5 tasks were examined, of 4"),
        (tasks, lambda m: m.loops.extend([wire.loop()] * 255), "257 loops; at most 256"),
        (profile, lambda m: setattr(m, "thread", struct.pack("<2I", 0, 4)), "samples.thread refers to a name beyond"),
        (profile, lambda m: setattr(m, "task", struct.pack("<2I", 0, 2**32 - 1)), "samples.task refers to a name"),
        (profile, lambda m: m.names.append("n" * 1025), "at most 1024"),
        (observations, lambda m: setattr(m.observations[0], "kind", ""), "no kind"),
        (observations, lambda m: setattr(m.observations[0], "kind", "k" * 65), "at most 64"),
        (observations, lambda m: setattr(m.observations[0], "name", "n" * 256), "at most 255"),
        (
            observations,
            lambda m: m.observations[0].attributes.update({str(number): "" for number in range(32)}),
            "33 attributes",
        ),
        (observations, lambda m: m.observations[0].attributes.update({"key": "v" * 1025}), "at most 1024"),
        (
            observations,
            lambda m: m.observations.extend([wire.observation(NOW_NS, "k", "n")] * 1999),
            "2001 observations",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(
    make: Callable[[], Any], change: Callable[[Any], object], sentence: str
) -> None:
    message = make()
    assert decoded(message)
    change(message)
    assert sentence in complaint(message)


@pytest.mark.parametrize("name", wire.SAMPLE_COLUMNS)
def test_a_column_of_samples_of_another_length_is_refused(name: str) -> None:
    for change in (b"", b"\0", bytes(np.dtype(wire.SAMPLE_COLUMNS[name]).itemsize * 3)):
        message = profile()
        setattr(message, name, change)
        assert complaint(message).startswith("samples.")


def test_rows_have_a_number() -> None:
    few = IngestConfig(rows_per_batch_max=3)
    assert "4 operations; at most 3" in complaint(operations(), few)
    many = wire.operations_snapshot(NOW_NS - S, NOW_NS, [wire.operation("a")] * 10_001)
    assert "10001 operations; at most 10000" in complaint(many)
    crowd = wire.tasks_snapshot(NOW_NS, [wire.loop()], [wire.group([1])] * 4)
    assert "4 groups of tasks; at most 3" in complaint(crowd, few)
    edges = wire.tasks_snapshot(NOW_NS, [wire.loop()], [wire.group([1])], [(0, 0, 1)] * 4)
    assert "4 edges between groups of tasks; at most 3" in complaint(edges, few)
    rows = [(place, "t", "", 1, 0.0, 0.0) for place in range(4)]
    assert "samples has 4 rows; at most 3" in complaint(wire.profile_snapshot(NOW_NS - S, NOW_NS, rows), few)
    names = wire.profile_snapshot(NOW_NS - S, NOW_NS, [])
    names.names.extend(["n"] * 7)
    assert "7 names; at most 6" in complaint(names, few)
    several = wire.observations_snapshot(NOW_NS, [wire.observation(NOW_NS, "k", "n")] * 4)
    assert "4 observations; at most 3" in complaint(several, few)


def test_what_a_batch_holds_grows_with_everything_in_it() -> None:
    """The bounds on memory rest on these numbers."""
    small = {name: bytes_held(decoded(make())) for name, (make, _) in DECODERS.items()}
    larger = operations()
    larger.operations[0].duration.CopyFrom(wire.histogram(1e-6, 1e3))
    assert bytes_held(decoded(larger)) > small["operations"] + 8 * 400
    crowd = tasks()
    crowd.groups.append(wire.group([1] * 32))
    assert bytes_held(decoded(crowd)) > small["tasks"] + 32 * 30
    threads = profile()
    threads.names.append("n" * 1000)
    assert bytes_held(decoded(threads)) > small["profile"] + 1000
    seen = observations()
    seen.observations[0].attributes["text"] = "t" * 1000
    assert bytes_held(decoded(seen)) >= small["observations"] + 1000


# Anything at all


@EVERY
@given(raw=st.binary(max_size=200))
def test_any_bytes_at_all_are_content_or_a_complaint(
    make: Callable[[], Any], decode: Callable[..., Any], raw: bytes
) -> None:
    try:
        decode(raw, LIMITS, NOW_NS)
    except Malformed as error:
        assert str(error).endswith(".")


@EVERY
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_content_with_bytes_changed_can_be_stored_or_is_refused(
    make: Callable[[], Any], decode: Callable[..., Any], data: st.DataObject
) -> None:
    """What passes must not be what no table takes: one such batch would hold up the others of its commit."""
    raw = bytearray(make().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw)))]
    try:
        content = decode(bytes(raw), LIMITS, NOW_NS)
    except Malformed as error:
        assert "\n" not in str(error)
        return
    tables = day_tables([Arrival.of(KEY, PROCESS, content, NOW_NS)], [1])
    assert len(tables["batch"]["batch"]) == 1
    assert bytes_held(content) > 0
