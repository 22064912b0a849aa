"""What the profile probe makes of samples of threads, at what rate it takes them, and how its threads begin and end."""

from __future__ import annotations

import asyncio
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest
from glassbottom import _native
from glassbottom._config import AsyncioConfig, ProfileConfig
from glassbottom._guard import Guard
from glassbottom.probes import threads as module
from glassbottom.probes.threads import GIL_RATIO, HZ_MIN, STREAM, ProfileProbe, RateControl
from glassbottom.testing import FakeClock
from glassbottom.transport.encode import without_codec
from glassbottom.transport.queue import BatchQueue
from glassbottom.wire.v1 import profile_pb2

from tests.support.forking import in_child

CLOCK, WATCHDOG = "glassbottom-clock", "glassbottom-watchdog"


class Reading:
    """One reading as the collector gets it. rows: (functions innermost first, thread, task, samples, wall_s, cpu_s)."""

    def __init__(
        self, message: profile_pb2.ProfileSnapshot, frames: dict[int, str], stacks: dict[int, list[str]]
    ) -> None:
        """frames, stacks: what was told before; the message's own are added."""
        self.message = message
        frames.update((frame.id, frame.function) for frame in message.definitions.frames)
        stacks.update((stack.id, [frames[frame] for frame in stack.frames]) for stack in message.definitions.stacks)
        self.labels = {stack.label for stack in message.definitions.stacks}
        self.rows = [
            (stacks[stack], message.names[thread], message.names[task], samples, wall_s, cpu_s)
            for stack, thread, task, samples, wall_s, cpu_s in zip(
                numbers(message.stack, "Q"),
                numbers(message.thread, "I"),
                numbers(message.task, "I"),
                numbers(message.samples, "I"),
                numbers(message.wall_s, "d"),
                numbers(message.cpu_s, "d"),
                strict=True,
            )
        ]


def numbers(column: bytes, code: str) -> list[Any]:
    return [value for (value,) in struct.iter_unpack(f"<{code}", column)]


class Rig:
    """A probe over the real core, at a rate that gathers much in little time."""

    def __init__(self, *, core: Any = None, watch: bool = True, **profile: Any) -> None:
        self.clock = FakeClock()
        self.queue = BatchQueue(10_000_000)
        self.guard = Guard()
        self._frames: dict[int, str] = {}
        self._stacks: dict[int, list[str]] = {}
        config = ProfileConfig(**{"sample_hz": 100.0, **profile})
        self.probe = ProfileProbe(config, AsyncioConfig(enabled=watch), self.queue, self.clock, self.guard, core)

    def read(self) -> Reading:
        """The next reading with samples in it, acknowledged."""
        for _ in patiently():
            self.clock.advance(1.0)
            before = self.queue._last_seq.get(STREAM, 0)
            self.probe.read()
            if self.queue._last_seq.get(STREAM, 0) > before:
                break
        message = profile_pb2.ProfileSnapshot.FromString(without_codec(self.queue._held[-1].content).body)
        self.queue.acknowledge(STREAM, self.queue._last_seq[STREAM], "store")
        return Reading(message, self._frames, self._stacks)


@pytest.fixture
def rig() -> Iterator[Callable[..., Rig]]:
    """Makes a Rig and starts its probe; stops it at the end."""
    made: list[Rig] = []

    def make(*, start: bool = True, **options: Any) -> Rig:
        made.append(Rig(**options))
        if start:
            made[-1].probe.start()
        return made[-1]

    yield make
    for one in made:
        one.probe.stop(10.0)


@pytest.fixture(autouse=True)
def _short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TURN_S", 0.05)
    monkeypatch.setattr(module, "RETRY_S", 0.1)


def patiently(seconds: float = 30.0) -> Iterator[None]:
    """Again and again, with a breath between; fails the test when that takes too long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield
        time.sleep(0.02)
    pytest.fail("it did not happen in time")


def wait_for(condition: Callable[[], object]) -> None:
    for _ in patiently():
        if condition():
            return


def names() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("glassbottom")}


class Waiting(threading.Thread):
    """Waits at a known function until it is ended."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.ending, self.inside = threading.Event(), threading.Event()
        self.start()
        self.inside.wait()

    def run(self) -> None:
        self.inside.set()
        self.ending.wait()

    def end(self) -> None:
        self.ending.set()
        self.join()


# Readings


def test_rows_tell_where_each_thread_was_by_its_name(rig):
    profiled = rig()
    thread = Waiting(name="worker-7")
    try:
        wait_for(lambda: _native.threads_statistics()["rows"] >= 2)
        found = profiled.read()
    finally:
        thread.end()
    (row,) = [row for row in found.rows if row[1] == "worker-7" and "Waiting.run" in row[0]][:1]
    functions, _, task, samples, wall_s, cpu_s = row
    assert functions[-1] == "Thread._bootstrap"
    assert task == ""
    assert samples >= 1
    assert wall_s > 0
    assert cpu_s <= wall_s
    assert found.message.ticks >= samples
    assert found.message.dropped == 0


def test_the_agents_own_threads_are_in_no_row(rig):
    profiled = rig()
    for _ in range(3):
        found = profiled.read()
        assert not [thread for _, thread, *_ in found.rows if thread.startswith("glassbottom")]


def test_readings_follow_each_other_without_gap_or_overlap(rig):
    profiled = rig()
    first = profiled.read().message
    profiled.clock._time_ns -= 3_000_000_000  # somebody sets the clock back; the interval keeps a length
    second, third = profiled.read().message, profiled.read().message
    assert second.from_ns < second.to_ns
    assert second.to_ns <= third.from_ns < third.to_ns
    assert first.from_ns < first.to_ns


def test_what_the_collector_knows_is_not_told_again_until_it_is_another(rig):
    profiled = rig()
    thread = Waiting(name="worker-7")
    try:
        for _ in patiently():
            first = profiled.read()
            if any("Waiting.run" in row[0] for row in first.rows):
                break
        again = profiled.read()
        assert "Waiting.run" not in {frame.function for frame in again.message.definitions.frames}
        profiled.probe.welcomed("another", store_changed=True)
        for _ in patiently():
            if any("Waiting.run" in row[0] for row in profiled.read().rows):
                break
    finally:
        thread.end()


def test_a_thread_that_has_ended_still_has_its_name(rig):
    profiled = rig()
    thread = Waiting(name="passing")
    wait_for(lambda: thread.ident in profiled.probe._names)
    wait_for(lambda: _native.threads_statistics()["rows"] >= 2)
    thread.end()
    assert "passing" in {thread for _, thread, *_ in profiled.read().rows}


def test_a_thread_without_a_name_is_called_by_its_number_and_nobodys_property_is_run(rig):
    class Nameless(Waiting):
        name = property(lambda _self: pytest.fail("code of the application was run"), lambda _self, _name: None)

    profiled = rig()
    thread = Nameless()
    thread._name = None
    try:
        for _ in patiently():
            if f"thread-{thread.ident}" in {name for _, name, *_ in profiled.read().rows}:
                break
    finally:
        thread._name = "named"
        thread.end()


def test_a_row_is_of_the_route_that_was_served(rig):
    variable: ContextVar[int] = ContextVar("label", default=0)
    token = variable.set(_native.label("GET /orders/{id}"))
    _native.set_label_variable(variable)
    try:
        profiled = rig()
        for _ in patiently():
            if "GET /orders/{id}" in profiled.read().labels:
                break
    finally:
        _native.set_label_variable(None)
        variable.reset(token)


def test_paths_for_which_there_was_no_room_are_called_so(rig):
    profiled = rig(sample_hz=0.1)
    namespace: dict[str, Any] = {"sample": _native._threads_sample}
    exec("def down(n):\n if n: down(n - 1)\n else: sample(1000)\n", namespace)
    exec("def lines():\n" + " down(80)\n" * 250, namespace)
    namespace["lines"]()  # 250 paths of 80 frames that share nothing
    assert ["<more call paths than the agent keeps>"] in [functions for functions, *_ in profiled.read().rows]
    assert profiled.probe.statistics()["profile_stacks_overflowed_total"] > 0


# The rate


def test_a_rate_that_costs_little_is_kept():
    control = RateControl(19.0)
    assert control.observe(19, 19 * 20e-6) == 19.0


def test_samples_that_cost_much_become_rare_until_they_are_within_the_budget():
    control = RateControl(19.0)
    cost_s = 0.001
    for _ in range(60):
        control.observe(10, 10 * cost_s)
    assert control.hz * cost_s == pytest.approx(GIL_RATIO, rel=0.25)


def test_a_single_sample_that_the_machine_interrupted_changes_nothing():
    control = RateControl(19.0)
    for _ in range(10):
        control.observe(19, 19 * 10e-6)
    assert control.observe(19, 19 * 10e-6 + 0.004) == 19.0


def test_the_rate_comes_back_to_what_was_configured_and_never_above():
    control = RateControl(19.0)
    for _ in range(30):
        control.observe(10, 0.02)
    assert control.hz < 5
    for _ in range(60):
        control.observe(10, 10 * 20e-6)
    assert control.hz == 19.0


def test_threads_are_never_given_up_entirely():
    control = RateControl(19.0)
    for _ in range(60):
        control.observe(1, 1.0)
    assert control.hz == HZ_MIN
    assert control.observe(0, 0.0) == HZ_MIN


class Dear:
    """The real core, whose samples seem to take as long as the test says."""

    def __init__(self, cost_s: float) -> None:
        self.cost_s = cost_s
        self._held_ns = 0
        self._ticks = 0
        self.rates: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(_native, name)

    def clock_statistics(self) -> dict[str, int]:
        found = _native.clock_statistics()
        self._held_ns += int((found["ticks"] - self._ticks) * self.cost_s * 1e9)
        self._ticks = found["ticks"]
        return {**found, "sample_ns": self._held_ns}

    def set_clock(self, *, blocked_ms: float = 100.0, sample_hz: float) -> None:
        self.rates.append(sample_hz)
        _native.set_clock(blocked_ms=blocked_ms, sample_hz=sample_hz)


def test_the_clock_goes_slower_while_samples_cost_much_and_recovers(rig):
    core = Dear(0.0002)
    profiled = rig(core=core)
    wait_for(lambda: core.rates[-1] < 20)
    assert profiled.probe.statistics()["profile_hz"] == core.rates[-1]
    core.cost_s = 0.000001
    wait_for(lambda: core.rates[-1] == 100.0)


# Life


def test_its_threads_end_with_it(rig):
    profiled = rig()
    assert CLOCK in names()
    assert profiled.probe.state().state == "running"
    profiled.read()
    profiled.probe.stop(10.0)
    assert not names()
    assert profiled.probe.state().state == "stopped"
    assert profiled.probe.statistics() == {}
    assert profiled.guard.errors == 0


def test_an_event_loop_brings_the_watchdog_and_its_coroutine_into_the_rows(rig):
    _native.steps_start()
    steps = _native.steps_statistics()["steps"]
    blocks = _native.clock_statistics()["blocks"]
    profiled = rig()

    async def holding() -> None:
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            sum(range(100))

    async def main() -> None:
        seen = False
        for _ in range(50):
            await holding()
            await asyncio.sleep(0)
            seen = seen or any("main" in task for _, _, task, *_ in profiled.read().rows)
            if seen and WATCHDOG in names() and profiled.probe.statistics()["blocks_total"] > blocks:
                return
        pytest.fail("no watchdog, no block, or no row of the coroutine")

    try:
        if steps == 0:
            assert WATCHDOG not in names()
        asyncio.run(main())
    finally:
        _native.steps_stop()
        profiled.probe.stop(10.0)
        _native.blocks_take()
        _native.steps_take()
    assert not names()


def test_without_profile_the_clock_runs_for_the_watchdog_alone(rig):
    profiled = rig(enabled=False)
    assert CLOCK in names()
    before = _native.clock_statistics()["ticks"]
    time.sleep(0.1)
    profiled.probe.read()
    assert _native.clock_statistics()["ticks"] == before
    assert profiled.queue.is_empty()
    assert profiled.probe.statistics()["profile_hz"] == 0.0


def test_without_profile_and_asyncio_nothing_runs(rig):
    profiled = rig(enabled=False, watch=False)
    assert not names()
    profiled.probe.read()
    assert profiled.probe.state().state == "stopped"


def test_a_probe_that_follows_another_takes_over_when_that_has_ended(rig):
    """An init() in the application's code replaces the agent of `glassbottom run`, whose thread may need a moment."""
    first = rig()
    wait_for(lambda: _native.threads_statistics()["rows"] > 0)
    second = rig()
    wait_for(lambda: second.guard.errors > 0)
    first.probe.stop(10.0)
    second.read()
    assert second.guard.disabled == {}


def test_a_forked_child_samples_its_own_threads(rig):
    profiled = rig()
    profiled.read()

    def check() -> None:
        child = Rig()
        child.probe.start()
        found = child.read()
        assert {thread for _, thread, *_ in found.rows} == {threading.current_thread().name}
        child.probe.stop(10.0)

    assert in_child(check) == 0
    assert profiled.read().rows


def test_every_statistic_is_documented(rig, root):
    documented = (root / "docs" / "status.md").read_text()
    assert [name for name in rig().probe.statistics() if f"`{name}`" not in documented] == []
