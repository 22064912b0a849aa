"""One reading of the runtime probe: everything docs/runtime.md lists, under OpenTelemetry's names, quickly."""

from __future__ import annotations

import gc
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from glassbottom._config import RuntimeConfig
from glassbottom.probes.observations import Observation
from glassbottom.probes.runtime import STREAM, RuntimeProbe
from glassbottom.testing import FakeClock
from glassbottom.transport.encode import without_codec
from glassbottom.transport.queue import BatchQueue
from glassbottom.wire.v1 import metrics_pb2

pytestmark = pytest.mark.usefixtures("nothing_frozen")

ROOT = Path(__file__).resolve().parents[2]


class Rig:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.queue = BatchQueue(1_000_000)
        self.told: list[Observation] = []
        self.probe = RuntimeProbe(RuntimeConfig(), self.queue, self.clock, self.told.append)
        self.probe.start()

    def read(self) -> metrics_pb2.MetricsSnapshot:
        self.clock.advance(10)
        self.probe.read()
        batch = self.queue._held[-1]
        assert batch.stream == STREAM
        return metrics_pb2.MetricsSnapshot.FromString(without_codec(batch.content).body)


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.probe.stop(1.0)


def test_a_reading_holds_what_can_be_known_here(rig: Rig) -> None:
    snapshot = rig.read()
    names = {metric.name for metric in snapshot.metrics}
    assert {
        "process.memory.usage",
        "process.memory.virtual",
        "glassbottom.memory.pss",
        "process.cpu.time",
        "process.context_switches",
        "process.paging.faults",
        "process.thread.count",
        "process.uptime",
        "process.unix.file_descriptor.count",
        "cpython.gc.collections",
        "cpython.gc.pause_time",
        "glassbottom.gc.pause_ratio",
        "glassbottom.thread.count",
        "glassbottom.fd.count",
    } <= names
    assert snapshot.at_ns == rig.clock.time_ns()
    keys = [(metric.name, *sorted(metric.attributes.items())) for metric in snapshot.metrics]
    assert len(keys) == len(set(keys))


def test_what_is_read_is_documented_and_what_is_documented_is_read(rig: Rig) -> None:
    listed = set(re.findall(r"^\| `([a-z_.]+)`", (ROOT / "docs" / "runtime.md").read_text(), re.MULTILINE))
    read = {metric.name for metric in rig.read().metrics}
    assert read <= listed
    # What is left depends on the machine, or on what another part of the agent does.
    depends = ("container.", "glassbottom.gil.", "glassbottom.socket.", "glassbottom.heap.", "glassbottom.memory.limit")
    assert [name for name in listed - read if not name.startswith(depends)] == []


def test_a_usual_reading_takes_a_few_milliseconds(rig: Rig) -> None:
    rig.read()
    rig.probe._read_ms_max = 0.0
    fastest = min(_time_of(rig) for _ in range(10))
    assert fastest < 10  # 0.6 on an idle machine


def _time_of(rig: Rig) -> float:
    rig.probe._read_ms_max = 0.0
    rig.read()
    return rig.probe.statistics()["runtime_read_ms_max"]


def test_threads_and_collections_that_stand_out_are_told(rig: Rig) -> None:
    gc.freeze()
    rig.read()
    ending = threading.Event()
    threads = [threading.Thread(target=ending.wait) for _ in range(12)]
    for thread in threads:
        thread.start()
    held: list[list[int]] = [[] for _ in range(100_000)]
    for _ in range(50):
        gc.collect()
    rig.read()
    ending.set()
    for thread in threads:
        thread.join()
    gc.unfreeze()
    assert held
    assert {each.kind for each in rig.told} == {"thread.started", "gc.pause"}
    assert {each.at_ns for each in rig.told} == {rig.clock.time_ns()}


def test_growing_descriptors_are_told_with_who_opens_them(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glassbottom.probes.runtime_openers.LOOK_EVERY_NS", 0)
    held: list[int] = []

    def leak() -> None:
        held.extend(os.open("/dev/null", os.O_RDONLY) for _ in range(4))

    for _ in range(9):
        thread = threading.Thread(target=leak)  # the reading thread is the agent's, which is passed over
        thread.start()
        thread.join()
        rig.read()
    for number in held:
        os.close(number)
    opened = [each for each in rig.told if each.kind == "fd.opened"]
    assert opened
    assert leak.__code__ in [code for code, _ in opened[-1].path]
    assert rig.probe.statistics()["descriptor_openers_armed"] == 1


def test_it_leaves_nothing_behind(rig: Rig) -> None:
    before = len(gc.callbacks)
    second = Rig()
    second.probe.stop(1.0)
    assert len(gc.callbacks) == before - 1  # one at a time: the second took the place of the first
