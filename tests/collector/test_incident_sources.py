"""What a capture has from the collector's own store: an hour in minutes, and every subject as a file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from glassbottom_collector.config import CommitConfig, StorageConfig
from glassbottom_collector.incident.assemble import Outcome, Subject, assemble
from glassbottom_collector.incident.bundle import Bundle, BundleSink
from glassbottom_collector.incident.from_store import SUBJECTS, collectors
from glassbottom_collector.incident.history import CONNECTIONS, HIT_RATIO, UNITS, Reading
from glassbottom_collector.incident.metrics import GAUGES, PATH, RATES, MetricsCollector, Pace
from glassbottom_collector.incident.parts import CollectingError
from glassbottom_collector.model.code import Frame, Stack, stack_id, type_id
from glassbottom_collector.model.heap import Definitions, MetricPoint
from glassbottom_collector.model.live import InstanceLive
from glassbottom_collector.model.process import Span
from glassbottom_collector.model.timing import Loop, Observation, TaskGroup, Tasks
from glassbottom_collector.redaction import Redactor
from glassbottom_collector.redaction.scan import scan
from glassbottom_collector.storage import BatchKey, Reader, Writer
from glassbottom_collector.storage.embedded import EmbeddedStore

from tests.support.store_agent import (
    HEAP,
    METRICS,
    MINUTE,
    NOON,
    OBSERVATIONS,
    OPERATIONS,
    TASKS,
    S,
    StoreAgent,
    TestClock,
    histogram,
    operation,
    snapshot,
    wait,
)
from tests.support.store_time import interval, noticed

pytestmark = pytest.mark.once  # arithmetic and SQL, the same on every version

END = NOON + 60 * MINUTE
HOUR = Span(NOON, END)
OLD, NEW = "aa1" + "0" * 29, "bb2" + "0" * 29
HANDLER = Frame("Cart.add", "/srv/app/cart.py", 42)
LIBRARY = Frame("dumps", "/usr/lib/python3.12/json/__init__.py", 238)
PATH_IDS = (LIBRARY.id, HANDLER.id)
STACK = Stack(stack_id(PATH_IDS, "POST /cart"), PATH_IDS, label="POST /cart")
DEFINED = Definitions(
    {HANDLER.id: HANDLER, LIBRARY.id: LIBRARY}, {STACK.id: STACK}, {type_id("dict"): "dict", type_id("str"): "str"}
)
RESTARTED_MINUTE = 40
"""OLD is heard of until then, NEW after it."""


def minute(number: int, second: int = 0) -> int:
    return NOON + number * MINUTE + second * S


def readings(first: int, end: int) -> list[list[MetricPoint]]:
    """Three a minute from one minute to another: a quarter of a CPU, memory that grows by 1 MB a minute, pauses of
    the garbage collector for a tenth of the time, and a counter of threads."""
    found = []
    for at_ns in range(minute(first, 5), minute(end), 20 * S):
        seconds = (at_ns - NOON) / S
        found.append(
            [
                MetricPoint(at_ns, "process.cpu.time", 0.2 * seconds, (("cpu.mode", "user"),)),
                MetricPoint(at_ns, "process.cpu.time", 0.05 * seconds, (("cpu.mode", "system"),)),
                MetricPoint(at_ns, "process.memory.usage", 100e6 + 1e6 * ((at_ns - NOON) // MINUTE)),
                MetricPoint(at_ns, "cpython.gc.pause_time", 0.06 * seconds, (("cpython.gc.generation", "0"),)),
                MetricPoint(at_ns, "cpython.gc.pause_time", 0.04 * seconds, (("cpython.gc.generation", "2"),)),
                MetricPoint(at_ns, "container.memory.limit", 512e6),
                MetricPoint(at_ns, "process.thread.count", 17.0),
            ]
        )
    return found


def tell(writer: Writer, agent: StoreAgent, batches: Sequence[list[MetricPoint]]) -> None:
    """All at once, so that the store commits them together."""
    keys = [BatchKey(agent.session_id, METRICS, seq) for seq in range(1, len(batches) + 1)]
    answers = wait(lambda: [writer.append(key, agent.process, batch) for key, batch in zip(keys, batches, strict=True)])
    assert set(answers) == {None}  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A process that was silent from minute 20 to 30 and ended at 40, the one that came after it, and another service.

    Requests: ten in the last ten seconds of minutes 10 and 59, of which two failed in 59.
    """
    store = EmbeddedStore(
        StorageConfig(path=tmp_path_factory.mktemp("data"), commit=CommitConfig(wait_ms_max=2)), TestClock(END)
    )
    writer = store.writer
    old, new = (
        StoreAgent(instance_id=OLD, started_at_ns=NOON - MINUTE),
        StoreAgent(instance_id=NEW, started_at_ns=minute(RESTARTED_MINUTE)),
    )
    other = StoreAgent("billing")
    for agent in (old, new, other):
        agent.open(writer)
    tell(writer, old, [*readings(0, 20), *readings(30, RESTARTED_MINUTE)])
    tell(writer, new, readings(RESTARTED_MINUTE, 60))
    tell(writer, other, readings(20, 30))
    fast = operation("GET /", *[0.010] * 10, span_kind="SERVER")
    inner = operation("SELECT", *[5.0] * 10, span_kind="CLIENT", route="GET /")
    old.append(writer, OPERATIONS, interval(minute(10, 59), fast, inner))
    good = operation("GET /", *[0.010] * 5, span_kind="SERVER")
    slow = operation("orders", *[2.0] * 3, span_kind="CONSUMER", frame=HANDLER.id)
    bad = operation("GET /", 0.5, 0.5, span_kind="SERVER", status="error")
    new.append(writer, OPERATIONS, interval(minute(59, 49)))
    new.append(writer, OPERATIONS, interval(minute(59, 59), good, slow, bad, inner))
    new.append(
        writer,
        TASKS,
        Tasks(
            minute(58, 30),
            [Loop(1, "MainThread", "uvloop.Loop", histogram(*[0.001] * 98, 0.25, 0.5), 3, 17, 5)],
            [TaskGroup(0, PATH_IDS, "waiting", "asyncio.Lock", 4, 9.5, 3.25, 8.0, 17, 0.5, 2, "Task-9")],
            [],
            5,
            4,
            DEFINED,
        ),
    )
    new.append(
        writer,
        OBSERVATIONS,
        noticed(
            minute(59),
            Observation(minute(58), "loop.blocked", "Cart.add", HANDLER.id, STACK.id, 1.5, 1, {"thread.name": "Main"}),
            Observation(minute(58), "span.slow", "orders", 0, STACK.id, 2.0, 1, {"trace_id": "4bf9", "status": "ok"}),
            Observation(minute(57), "span.never_ended", "import", HANDLER.id, 0, 40.0, 1),
            Observation(minute(58), "span.never_ended", "import", HANDLER.id, 0, 100.0, 2),
            defined=DEFINED,
        ),
    )
    types = {(STACK.id, type_id("dict")): 6e6, (STACK.id, type_id("str")): 2e6}
    new.append(writer, HEAP, snapshot(NEW, minute(59), {STACK.id: 8e6}, complete=True, types=types, defined=DEFINED))
    yield store.reader
    store.close()


def live() -> Sequence[InstanceLive]:
    process = StoreAgent(instance_id=NEW, started_at_ns=minute(RESTARTED_MINUTE)).process
    counts = {"spans_lost_total": 3.0, "observations_dropped_total": 0.0, "agent_cpu_ratio": 0.004}
    return [InstanceLive(process, "1.2.3", True, END, "running", "", counts, 0.1)]


def sink() -> tuple[Bundle, BundleSink]:
    bundle = Bundle(Redactor(b"k" * 32))
    return bundle, bundle.sink("tested")


def written(bundle: Bundle, path: str) -> Any:
    return json.loads(bundle.files()[path].data)


# --- An hour in minutes ---


@pytest.fixture(scope="module")
def told(reader: Reader) -> dict[str, Any]:
    """metrics.json of the hour."""
    bundle, mine = sink()
    history = {"orders": [Reading(minute(57, 30), {CONNECTIONS: 12.0, HIT_RATIO: 0.99})]}
    MetricsCollector(reader, "checkout", HOUR, lambda: history).collect(mine, math.inf)
    assert mine.notes == []
    return dict(written(bundle, PATH))


def values(told: dict[str, Any], name: str, **attributes: str) -> list[float | None]:
    """Of the one series of that name which has these attributes."""
    wanted = {key.replace("_", "."): value for key, value in attributes.items()}
    (found,) = (one for one in told["series"] if one["name"] == name and wanted.items() <= one["attributes"].items())
    return list(found["values"])


def test_an_hour_is_sixty_minutes_and_those_nobody_measured_are_null(told: dict[str, Any]) -> None:
    assert (told["step_s"], len(told["at_ns"]), told["at_ns"][0], told["to_ns"]) == (60, 60, NOON, END)
    memory = values(told, "process.memory.usage", service_instance_id=OLD)
    assert memory == [100e6 + 1e6 * at if at < 20 or 30 <= at < RESTARTED_MINUTE else None for at in range(60)]
    assert values(told, "container.memory.limit", service_instance_id=NEW)[39:41] == [None, 512e6]
    assert values(told, "process.thread.count", service_instance_id=NEW)[59] == 17.0


def test_counters_are_told_as_seconds_per_second(told: dict[str, Any]) -> None:
    used = values(told, "process.cpu.usage", service_instance_id=OLD)
    assert [used[at] for at in (0, 19, 30, 39)] == pytest.approx([0.25] * 4)
    assert used[20:30] == [None] * 10
    paused = values(told, "glassbottom.gc.pause_ratio", service_instance_id=NEW)
    assert paused[45] == pytest.approx(0.1)


def test_a_process_that_began_anew_is_a_start_in_its_minute(told: dict[str, Any]) -> None:
    starts = values(told, "glassbottom.process.starts")
    assert starts[RESTARTED_MINUTE] == 1
    assert (starts[39], starts[41], starts[25]) == (0, 0, None)
    assert values(told, "glassbottom.process.count")[25:31] == [None] * 5 + [1]


def test_requests_are_those_that_enter_with_their_quantiles_and_errors(told: dict[str, Any]) -> None:
    def of_all(name: str, **more: str) -> list[float | None]:
        (found,) = (
            one
            for one in told["series"]
            if one["name"] == name
            and "span.name" not in one["attributes"]
            and more.items() <= one["attributes"].items()
        )
        return list(found["values"])

    rate = of_all("glassbottom.request.rate")
    # Minute 10: ten in the ten seconds that were measured. Minute 59: ten in twenty.
    assert (rate[10], rate[59], rate[11]) == (pytest.approx(1.0), pytest.approx(0.5), None)
    errors = of_all("glassbottom.request.error_ratio")
    assert (errors[10], errors[59], errors[11]) == (0.0, pytest.approx(0.2), None)
    p50, p99 = (of_all("glassbottom.request.duration", quantile=name) for name in ("0.5", "0.99"))
    assert p50[10] == pytest.approx(0.010, rel=0.05)
    assert p99[59] == pytest.approx(2.0, rel=0.05)


def test_requests_are_also_told_by_name(told: dict[str, Any]) -> None:
    rate = values(told, "glassbottom.request.rate", span_name="orders")
    assert (rate[59], rate[10]) == (pytest.approx(0.15), 0.0)
    assert not any("SELECT" in one["attributes"].values() for one in told["series"])


def test_lag_of_loops_and_tasks_are_told(told: dict[str, Any]) -> None:
    late = values(told, "glassbottom.event_loop.lag", quantile="1")
    assert (late[58], late[57]) == (0.5, None)
    assert values(told, "glassbottom.task.count")[58] == 5


def test_what_databases_said_stands_at_its_minute(told: dict[str, Any]) -> None:
    connections = values(told, CONNECTIONS, glassbottom_source="orders")
    assert (connections[57], connections[56]) == (12.0, None)
    assert values(told, HIT_RATIO)[57] == 0.99


def test_every_series_and_every_file_is_described(told: dict[str, Any], root: Path) -> None:
    described = (root / "docs" / "incident-files.md").read_text()
    names = {one["name"] for one in told["series"]} | {*GAUGES, *UNITS} | {name for name, *_ in RATES.values()}
    assert sorted(name for name in names if f"`{name}`" not in described) == []
    files = [path.rpartition("/")[2] for _, path, *_ in SUBJECTS]
    assert [name for name in files if f"`{name}`" not in described] == []


def test_when_the_time_is_over_the_oldest_minutes_are_missing(reader: Reader) -> None:
    bundle, mine = sink()
    clock = iter([0.0, *[100.0] * 1000])  # over when the first minute has been read
    MetricsCollector(reader, "checkout", HOUR, monotonic_s=lambda: next(clock)).collect(mine, 10.0)
    rates = [one["values"] for one in written(bundle, PATH)["series"] if one["name"] == "glassbottom.request.rate"]
    assert (rates[0][59], rates[0][10]) == (pytest.approx(0.5), None)
    assert mine.notes == [
        "There was no time to read the requests of the first 11 of 60 minutes.",
        "There was no time to read the event loops of the first 60 of 60 minutes.",
    ]


def test_nothing_is_begun_that_would_end_too_late() -> None:
    clock = iter([0.0, 4.0, 7.0])
    pace = Pace(10.0, lambda: next(clock))
    assert [pace.has_time() for _ in range(3)] == [True, True, False], "four seconds more would be eleven"


def test_a_service_that_told_nothing_is_said_so(reader: Reader) -> None:
    _, mine = sink()
    with pytest.raises(CollectingError, match="nobody told nothing in this window"):
        MetricsCollector(reader, "nobody", HOUR).collect(mine, math.inf)


# --- Subjects ---


@pytest.fixture(scope="module")
def state(reader: Reader) -> Bundle:
    """The files of all subjects."""
    bundle = Bundle(Redactor(b"k" * 32))
    for one in collectors(reader, live, "checkout", HOUR):
        one.collect(bundle.sink(one.name), math.inf)
    return bundle


PLACE = {"function": "Cart.add", "file": "/srv/app/cart.py", "line": 42}


def test_processes_are_told_with_what_their_agents_lost(state: Bundle) -> None:
    old, new = written(state, "state/processes.json")["processes"]
    assert (old["instance_id"], old["connected"], old["agent_version"]) == (OLD, False, "1.2.3")
    assert (new["instance_id"], new["connected"], new["sampler_state"]) == (NEW, True, "running")
    assert new["lost"] == {"spans_lost_total": 3.0}
    assert new["first_seen_ns"] is not None


def test_the_heap_is_told_by_line_with_its_place_types_and_routes(state: Bundle) -> None:
    heap = written(state, "state/heap.json")
    (site,) = heap["sites"]
    assert (site["place"], site["frame"]["function"]) == (PLACE, "dumps")
    assert (site["live_bytes"], site["routes"]) == (8e6, ["POST /cart"])
    assert site["types"] == [{"type": "dict", "live_bytes": 6e6}, {"type": "str", "live_bytes": 2e6}]
    assert heap["totals"]["live_bytes"] == 8e6


def test_slow_operations_tasks_and_blocks_name_their_places(state: Bundle) -> None:
    slow = written(state, "state/slow.json")
    orders = next(one for one in slow["operations"] if one["name"] == "orders")
    assert (orders["frame"], orders["count"], orders["flagged"]) == (PLACE, 3, True)
    (span,) = slow["slow_spans"]
    assert (span["duration_s"], span["attributes"]["trace_id"]) == (2.0, "4bf9")
    (process,) = written(state, "state/tasks.json")["processes"]
    assert process["groups"][0]["path"][1] == PLACE
    assert process["loops"][0]["lag_max_s"] == 0.5
    (block,) = written(state, "state/blocked.json")["blocks"]
    assert (block["application_frame"], block["total_s"]) == (PLACE, 1.5)


def test_an_open_span_is_told_once_as_it_was_last(state: Bundle) -> None:
    (span,) = written(state, "state/open_spans.json")["spans"]
    assert (span["name"], span["open"], span["oldest_s"], span["frame"]) == ("import", 2, 100.0, PLACE)


def test_findings_and_leaks_are_written_as_they_are_judged(state: Bundle) -> None:
    findings = written(state, "state/findings.json")
    assert "loop.blocked" in [one["kind"] for one in findings["findings"]]
    assert {one["severity"] for one in findings["findings"]} <= {"notice", "warning", "critical"}
    leaks = written(state, "state/leaks.json")
    assert leaks["notes"] and leaks["snapshots"] == 1


def test_the_summary_has_a_headline_for_every_subject(state: Bundle) -> None:
    summary = written(state, "state/summary.json")
    assert summary["processes"]["began"] == 1
    assert summary["heap"]["totals"]["live_bytes"] == 8e6
    assert summary["findings"]["worst"][0]["sentence"]
    assert [name for name, *_ in SUBJECTS if summary[name.partition(".")[2]] is None] == []


def test_no_file_has_an_id_for_a_place(state: Bundle) -> None:
    every = b"".join(file.data for file in state.files().values())
    assert str(STACK.id).encode() not in every
    assert str(HANDLER.id).encode() not in every


# --- The whole ---


def test_a_subject_that_has_no_time_costs_only_itself(reader: Reader) -> None:
    mine = collectors(reader, live, "checkout", HOUR)
    leaks = next(one for one in mine if one.name == "store.leaks")
    leaks.budget_s = 1e-9
    archive = captured(mine)
    states = {one.name: one for one in archive}
    assert states["store.leaks"].state in ("failed", "late")
    assert {one.state for name, one in states.items() if name != "store.leaks"} == {"done"}


def test_a_service_nobody_knows_fails_where_it_matters_and_still_leaves_an_archive(reader: Reader) -> None:
    states = {one.name: one.state for one in captured(collectors(reader, tuple, "nobody", HOUR))}
    assert states["store.processes"] == "failed"
    assert states["store.summary"] == "done"


def test_the_plan_names_every_subject_and_reads_nothing(reader: Reader) -> None:
    every = [MetricsCollector(reader, "checkout", HOUR), *collectors(reader, live, "checkout", HOUR)]
    assert all("checkout" in one.plan()[0].what or one.name == "store.summary" for one in every)


def captured(mine: Sequence[Any]) -> Sequence[Outcome]:
    """Through the assembler, with the real redaction and the real scan."""
    subject = Subject("OPS-1", "checkout", HOUR.from_ns, HOUR.to_ns)
    return assemble(subject, mine, Redactor(b"k" * 32), scan, version="1").outcomes
