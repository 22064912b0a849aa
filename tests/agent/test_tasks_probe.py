"""What the tasks probe tells of real loops and real tasks, under asyncio and uvloop."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop
from glassbottom._config import AsyncioConfig
from glassbottom._guard import Guard
from glassbottom.probes.observations import Observation
from glassbottom.probes.operations import COROUTINE, STEP, Key, OperationsProbe, Recorder, Sums
from glassbottom.probes.tasks import STREAM, TasksProbe
from glassbottom.testing import FakeClock
from glassbottom.transport.encode import without_codec
from glassbottom.transport.queue import BatchQueue
from glassbottom.wire.v1 import tasks_pb2


class Rig:
    """A running probe, what it queued, and what it observed."""

    def __init__(self, **config: Any) -> None:
        self.queue = BatchQueue(50_000_000)
        self.guard = Guard()
        clock = FakeClock()
        self.operations = OperationsProbe(10.0, self.queue, clock)
        self.observed: list[Observation] = []
        self.probe = TasksProbe(
            AsyncioConfig(**config), self.queue, clock, self.guard, self.operations, self.observed.append
        )
        self.probe.start()
        self.frames: dict[int, tuple[str, str, int]] = {}

    def read(self) -> tasks_pb2.TasksSnapshot | None:
        """One reading, in a thread of its own as the agent's; None when it queued no snapshot."""
        held = len(self.queue._held)
        error: list[BaseException] = []

        def run() -> None:
            try:
                self.probe.read()
            except BaseException as raised:
                error.append(raised)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        if error:
            raise error[0]
        batches = [batch for batch in list(self.queue._held)[held:] if batch.stream == STREAM]
        if not batches:
            return None
        snapshot = tasks_pb2.TasksSnapshot.FromString(without_codec(batches[-1].content).body)
        for frame in snapshot.definitions.frames:
            self.frames[frame.id] = (frame.function, frame.file, frame.line)
        return snapshot

    async def reading(self) -> tasks_pb2.TasksSnapshot:
        """read() while the loop goes on."""
        snapshot = await asyncio.get_running_loop().run_in_executor(None, self.read)
        assert snapshot is not None
        return snapshot

    def path(self, group: tasks_pb2.TaskGroup) -> list[str]:
        return [self.frames[frame][0].rpartition(".<locals>.")[2] for frame in group.path]

    def kinds(self) -> list[str]:
        return [each.kind for each in self.observed]

    def rows(self, kind: int) -> dict[tuple[str, str], Sums]:
        """By (name, status), of what was added to the operations."""
        added: list[tuple[Key, Sums]] = self.operations._added
        return {(key.name.rpartition(".")[2], key.status): sums for key, sums in added if key.kind == kind}


Main = Coroutine[Any, Any, Any]
Run = Callable[[Main], Any]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    factory = asyncio.new_event_loop if request.param == "asyncio" else uvloop.new_event_loop

    def run(main: Main) -> Any:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(main)

    return run


@pytest.fixture
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """Options by parametrize(indirect=True)."""
    rig = Rig(**getattr(request, "param", {}))
    yield rig
    rig.probe.stop(1.0)
    assert rig.guard.errors == 0


def group_at(rig: Rig, snapshot: tasks_pb2.TasksSnapshot, outermost: str) -> tasks_pb2.TaskGroup:
    (group,) = [group for group in snapshot.groups if rig.path(group)[-1] == outermost]
    return group


async def steps(number: int) -> None:
    """Lets everybody run a few times."""
    for _ in range(number):
        await asyncio.sleep(0)


async def ended(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def line_of(function: Callable[..., Any], offset: int) -> int:
    return function.__code__.co_firstlineno + offset


# Where tasks wait


def test_a_wait_is_named_after_what_the_application_called_and_begins_on_its_line(rig: Rig, run: Run):
    async def locked(lock: asyncio.Lock) -> None:
        async with lock:
            pass

    async def get(queue: asyncio.Queue[int]) -> None:
        await queue.get()

    async def sleep() -> None:
        await asyncio.sleep(60)

    async def event(event: asyncio.Event) -> None:
        await asyncio.wait_for(event.wait(), 60)

    async def future(future: asyncio.Future[None]) -> None:
        await future

    async def thread(event: threading.Event) -> None:
        await asyncio.get_running_loop().run_in_executor(None, event.wait)

    async def inner(queue: asyncio.Queue[int]) -> None:
        await get(queue)

    async def main() -> None:
        lock, blocker = asyncio.Lock(), threading.Event()
        await lock.acquire()
        queue: asyncio.Queue[int] = asyncio.Queue()
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waits = (locked(lock), get(queue), sleep(), event(asyncio.Event()), future(lost), thread(blocker), inner(queue))
        tasks = [asyncio.create_task(each, name=each.__name__) for each in waits]
        await steps(5)
        snapshot = await rig.reading()
        blocker.set()
        await ended(tasks)
        found = {rig.path(group)[-1]: group for group in snapshot.groups if group.state == "waiting"}
        assert found["locked"].awaits == "asyncio.Lock"
        assert found["get"].awaits == "asyncio.Queue.get"
        assert found["sleep"].awaits == "asyncio.sleep"
        assert found["event"].awaits in ("asyncio.Event", "asyncio.wait_for")
        assert found["future"].awaits == "Future"
        assert found["thread"].awaits == "concurrent.futures.Future"
        assert rig.path(found["inner"]) == ["get", "inner"]
        for function, offset in ((locked, 1), (get, 1), (sleep, 1), (future, 1)):
            innermost = rig.frames[found[function.__name__].path[0]]
            assert innermost[1:] == (__file__, line_of(function, offset))
        assert found["sleep"].task_name == "sleep"

    run(main())


def test_the_path_leads_through_async_generators_and_objects_with_await(rig: Rig, run: Run):
    async def numbers():
        while True:
            await asyncio.sleep(60)
            yield 1

    class Awaitable:
        def __await__(self):
            return (yield from asyncio.sleep(60).__await__())

    async def consumer() -> None:
        async for _ in numbers():
            pass

    async def by_next() -> None:
        await anext(numbers(), None)

    async def custom() -> None:
        await Awaitable()

    async def main() -> None:
        tasks = [asyncio.create_task(each) for each in (consumer(), by_next(), custom())]
        await steps(3)
        snapshot = await rig.reading()
        await ended(tasks)
        paths = [rig.path(group) for group in snapshot.groups]
        assert ["numbers", "consumer"] in paths
        assert ["numbers", "by_next"] in paths
        assert any(path[-1] == "custom" and path[0].endswith("__await__") for path in paths)

    run(main())


def test_states_are_told_apart(rig: Rig, run: Run):
    async def created() -> None:
        pass

    async def ready() -> None:
        while True:
            await asyncio.sleep(0)

    async def woken(future: asyncio.Future[None]) -> None:
        await future

    async def main() -> None:
        future = asyncio.get_running_loop().create_future()
        tasks = [asyncio.create_task(ready()), asyncio.create_task(woken(future))]
        await steps(3)
        tasks.append(asyncio.create_task(created()))
        future.set_result(None)
        snapshot = rig.read()  # the loop is held meanwhile, by main
        assert snapshot is not None
        states = {rig.path(group)[-1]: (group.state, group.awaits) for group in snapshot.groups}
        await ended(tasks)
        assert states == {
            "created": ("created", ""),
            "ready": ("ready", "asyncio.sleep(0)"),
            "woken": ("ready", "Future"),
            "main": ("running", ""),
        }

    run(main())


def test_tasks_at_one_place_are_one_group_with_their_ages_and_steps(rig: Rig, run: Run):
    async def worker() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(60)

    async def main() -> None:
        tasks = [asyncio.create_task(worker()) for _ in range(300)]
        await steps(3)
        await asyncio.sleep(0.05)
        snapshot = await rig.reading()
        await ended(tasks)
        group = group_at(rig, snapshot, "worker")
        assert (group.count, group.state, group.steps, group.bare_yields) == (300, "waiting", 600, 300)
        assert 0.05 <= group.age_mean_s <= group.age_oldest_s < 60
        assert 0.05 <= group.wait_longest_s <= group.age_oldest_s
        assert 0 < group.busy_s < 60
        assert snapshot.tasks == snapshot.tasks_examined == 301
        (loop,) = snapshot.loops
        assert loop.tasks == 301

    run(main())


@pytest.mark.parametrize("rig", [{"scan_tasks_max": 50}], indirect=True)
def test_of_more_tasks_than_are_looked_at_counts_are_scaled_up(rig: Rig, run: Run):
    async def worker() -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        tasks = [asyncio.create_task(worker()) for _ in range(399)]
        await steps(2)
        snapshot = await rig.reading()
        await ended(tasks)
        # Tasks of other tests that are not yet destroyed may be among those picked.
        assert 25 <= snapshot.tasks_examined <= 50
        assert snapshot.tasks == pytest.approx(400, rel=0.2)
        assert group_at(rig, snapshot, "worker").count == pytest.approx(400, rel=0.2)

    gc.collect()
    run(main())


def test_the_path_leads_through_functions_that_are_profiled(rig: Rig, run: Run):
    import glassbottom
    from glassbottom import _native, _profile

    @glassbottom.profile
    async def measured() -> None:
        await asyncio.sleep(60)

    async def caller() -> None:
        await measured()

    async def main() -> None:
        task = asyncio.create_task(caller())
        await steps(2)
        snapshot = await rig.reading()
        await ended([task])
        group = group_at(rig, snapshot, "caller")
        assert group.awaits == "asyncio.sleep"
        assert rig.frames[group.path[0]] == (measured.__qualname__, __file__, line_of(measured, 2))

    _profile.attach(Recorder(_native.OperationTable(16)))
    try:
        run(main())
    finally:
        _profile.detach()


# Who waits for whom


def edges(rig: Rig, snapshot: tasks_pb2.TasksSnapshot) -> set[tuple[str, str, int]]:
    names = [rig.path(group)[-1] for group in snapshot.groups]
    return {(names[edge.waiter], names[edge.awaited], edge.count) for edge in snapshot.edges}


def test_edges_lead_from_who_waits_to_whom_it_waits_for(rig: Rig, run: Run):
    async def leaf() -> None:
        await asyncio.sleep(60)

    async def direct(task: asyncio.Task[None]) -> None:
        await task

    async def gathering() -> None:
        await asyncio.gather(leaf(), leaf())

    async def shielding() -> None:
        await asyncio.shield(leaf())

    async def waiting() -> None:
        await asyncio.wait([asyncio.create_task(leaf())])

    async def timed(task: asyncio.Task[None]) -> None:
        await asyncio.wait_for(task, 60)

    async def grouping() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(leaf())

    async def main() -> None:
        first, second = asyncio.create_task(leaf()), asyncio.create_task(leaf())
        waits = (direct(first), gathering(), shielding(), waiting(), timed(second), grouping())
        tasks = [first, second, *(asyncio.create_task(each) for each in waits)]
        await steps(5)
        snapshot = await rig.reading()
        await ended(tasks)
        assert edges(rig, snapshot) == {
            ("direct", "leaf", 1),
            ("gathering", "leaf", 2),
            ("shielding", "leaf", 1),
            ("waiting", "leaf", 1),
            ("timed", "leaf", 1),
            ("grouping", "leaf", 1),
        }

    run(main())


# Steps


def test_steps_and_lives_of_coroutines_become_operations(rig: Rig, run: Run):
    async def good() -> None:
        await asyncio.sleep(0)

    async def bad() -> None:
        await asyncio.sleep(0)
        raise ValueError

    async def main() -> None:
        await asyncio.gather(*(good() for _ in range(5)), bad(), return_exceptions=True)
        tasks = [asyncio.create_task(asyncio.sleep(60))]
        await steps(2)
        await ended(tasks)
        await rig.reading()

    run(main())
    lives, held = rig.rows(COROUTINE), rig.rows(STEP)
    assert lives["good", "ok"].count == 5
    assert lives["bad", "error"].count == 1
    assert held["good", "ok"].count == 10
    assert held["good", "ok"].bare_yields == 5
    assert lives["good", "ok"].duration_ns >= lives["good", "ok"].busy_ns > 0
    (key,) = [key for key, _ in rig.operations._added if key.name.endswith("good") and key.kind == STEP]
    assert key.place == (good.__qualname__, __file__, good.__code__.co_firstlineno)
    rig.operations.read()  # they can be sent


def test_functions_made_anew_each_time_are_one_row(rig: Rig, run: Run):
    source = "import asyncio\nasync def made():\n    await asyncio.sleep(0)\n"

    async def main() -> None:
        for _ in range(3):
            namespace: dict[str, Any] = {}
            exec(compile(source, "made.py", "exec"), namespace)
            await asyncio.create_task(namespace["made"]())
        await rig.reading()

    run(main())
    assert len([key for key, _ in rig.operations._added if key.name == "made"]) == 2
    held = rig.rows(STEP)["made", "ok"]
    assert held.count == sum(memoryview(held.counts).cast("I")) == 6
    assert rig.rows(COROUTINE)["made", "ok"].count == 3


def test_a_step_of_a_second_or_more_never_yields(rig: Rig, run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("glassbottom.probes.tasks.NEVER_YIELDED_NS", 20_000_000)

    async def hog() -> None:
        threading.Event().wait(0.03)

    async def main() -> None:
        await asyncio.create_task(hog())
        await rig.reading()

    run(main())
    (seen,) = [each for each in rig.observed if each.kind == "task.never_yielded"]
    assert seen.name.endswith("hog")
    assert seen.value >= 0.03
    assert seen.place == (hog.__qualname__, __file__, hog.__code__.co_firstlineno)


def test_a_task_that_only_asks_to_be_run_again_is_spinning(rig: Rig, run: Run):
    async def spinner(stop: asyncio.Event) -> None:
        while not stop.is_set():
            await asyncio.sleep(0)

    async def main() -> None:
        stop = asyncio.Event()
        task = asyncio.create_task(spinner(stop))
        while not rig.probe._steps.steps_statistics()["steps"] > 2000:
            await asyncio.sleep(0.01)
        await rig.reading()
        stop.set()
        await task

    run(main())
    (seen,) = [each for each in rig.observed if each.kind == "task.spinning"]
    assert seen.name.endswith("spinner")
    code, offset = seen.path[0]
    lines = {line for start, end, line in code.co_lines() if start <= offset < end}
    assert lines == {line_of(spinner, 2)}


# What Python complains of


@pytest.mark.filterwarnings("ignore:coroutine")
def test_coroutines_nobody_awaited_are_counted_and_warned_of_as_before(rig: Rig, run: Run):
    async def forgotten() -> None:
        pass

    async def main() -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(3):
                forgotten()
        assert [warning.lineno for warning in caught] == [line_of(main, 4)] * 3
        assert {warning.filename for warning in caught} == {__file__}
        await rig.reading()

    run(main())
    (seen,) = rig.observed
    assert (seen.kind, seen.count) == ("coroutine.never_awaited", 3)
    assert seen.place == (forgotten.__qualname__, __file__, forgotten.__code__.co_firstlineno)


def test_exceptions_nobody_retrieved_are_counted_with_where_they_were_raised(
    rig: Rig, run: Run, caplog: pytest.LogCaptureFixture
):
    def deeper() -> None:
        raise KeyError("secret")

    async def failing() -> None:
        deeper()

    async def main() -> None:
        task = asyncio.create_task(failing())
        await steps(2)
        del task
        gc.collect()
        await rig.reading()

    run(main())
    assert "Task exception was never retrieved" in caplog.text, "the application's log has it as before"
    (seen,) = rig.observed
    assert (seen.kind, seen.count, dict(seen.attributes)) == (
        "task.exception_never_retrieved",
        1,
        {"exception.type": "KeyError"},
    )
    assert [code.co_name for code, _ in seen.path] == ["deeper", "failing"]


def test_hooks_are_gone_when_the_probe_has_stopped():
    warn, filters, step = warnings._warn_unawaited_coroutine, list(logging.getLogger("asyncio").filters), None
    rig = Rig()
    assert warnings._warn_unawaited_coroutine is not warn
    rig.probe.stop(1.0)
    assert warnings._warn_unawaited_coroutine is warn
    assert logging.getLogger("asyncio").filters == filters
    assert step is None


def test_a_wrapper_put_over_ours_meanwhile_stays(monkeypatch: pytest.MonkeyPatch):
    rig = Rig()
    ours = warnings._warn_unawaited_coroutine
    told: list[object] = []

    def theirs(coroutine: object) -> None:
        told.append(1)
        ours(coroutine)

    monkeypatch.setattr(warnings, "_warn_unawaited_coroutine", theirs)
    rig.probe.stop(1.0)

    async def forgotten() -> None:
        pass

    with pytest.warns(RuntimeWarning, match="never awaited"):
        forgotten()
    assert told == [1]


# Refusals


def test_under_gevent_the_layer_is_off_and_says_so(monkeypatch: pytest.MonkeyPatch):
    import types

    monkey = types.ModuleType("gevent.monkey")
    monkey.saved = {"socket": {}}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gevent.monkey", monkey)
    rig = Rig()
    assert rig.probe.state().state == "refused"
    assert "gevent" in rig.probe.state().reason
    assert rig.read() is None
    rig.probe.stop(1.0)


def test_greenlets_that_come_later_turn_the_layer_off(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    import types

    patcher = types.ModuleType("eventlet.patcher")
    patcher.already_patched = {"socket": True}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "eventlet.patcher", patcher)
    assert rig.read() is None
    assert rig.probe.state().state == "refused"
    assert rig.probe.statistics() == {}


def test_where_the_coroutine_type_is_taken_steps_are_counted_by_handles(monkeypatch: pytest.MonkeyPatch):
    from glassbottom import _native

    def refuse() -> None:
        raise RuntimeError("Another tool has changed am_send of the coroutine type.")

    monkeypatch.setattr(_native, "steps_start", refuse)
    rig = Rig()

    async def worker() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(60)

    async def main() -> None:
        tasks = [asyncio.create_task(worker()) for _ in range(3)]
        await steps(3)
        snapshot = await rig.reading()
        await ended(tasks)
        group = group_at(rig, snapshot, "worker")
        assert (group.count, group.state, group.steps, group.bare_yields) == (3, "waiting", 6, 3)

    asyncio.run(main())
    state = rig.probe.state()
    assert state.state == "running"
    assert "Another tool" in state.reason
    assert rig.rows(STEP)["worker", "ok"].count == 6
    rig.probe.stop(1.0)
    assert rig.guard.errors == 0


# Kinds of tasks


if sys.version_info >= (3, 12):

    def test_eager_tasks_are_seen(rig: Rig):
        async def eager() -> None:
            await asyncio.sleep(60)

        async def main() -> None:
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
            tasks = [asyncio.create_task(eager())]
            await asyncio.sleep(0.01)
            snapshot = await rig.reading()
            await ended(tasks)
            assert group_at(rig, snapshot, "eager").awaits == "asyncio.sleep"

        asyncio.run(main())


def test_a_coroutine_compiled_by_cython_is_counted_under_its_name(rig: Rig):
    import socket

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.setblocking(False)
            task = asyncio.ensure_future(asyncio.get_running_loop().sock_accept(server))
            await asyncio.sleep(0.01)
            snapshot = await rig.reading()
            await ended([task])
        (group,) = [group for group in snapshot.groups if "sock_accept" in rig.path(group)[-1]]
        assert (group.state, group.count) == ("waiting", 1)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def test_tasks_written_in_python_are_read_like_others(rig: Rig, run: Run):
    async def waits() -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.tasks._PyTask(waits(), loop=loop, name="pure")
        child = asyncio.create_task(awaits(task))
        await steps(3)
        snapshot = await rig.reading()
        await ended([task, child])
        group = group_at(rig, snapshot, "waits")
        assert (group.task_name, group.awaits, group.state) == ("pure", "asyncio.sleep", "waiting")
        assert edges(rig, snapshot) == {("awaits", "waits", 1)}

    async def awaits(task: asyncio.Task[None]) -> None:
        await task

    run(main())


def test_a_look_that_takes_too_long_is_cut_and_scaled_up(rig: Rig):
    async def waits() -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        tasks = [asyncio.create_task(waits()) for _ in range(999)]
        await steps(2)
        await rig.reading()
        rig.probe._watch._scanner._budget_s = 0.0
        snapshot = await rig.reading()
        await ended(tasks)
        assert snapshot.tasks_examined < 100
        assert snapshot.tasks == pytest.approx(1000, rel=0.2)
        assert rig.probe.statistics()["async_tasks_examined"] == snapshot.tasks_examined

    gc.collect()
    asyncio.run(main())


def test_a_loop_whose_tasks_are_seen_is_met(rig: Rig, run: Run):
    """One that has made no step since the last time the counter looked which loop runs there."""

    async def main(ready: threading.Event, end: threading.Event) -> None:
        ready.set()
        await asyncio.get_running_loop().run_in_executor(None, end.wait)

    ready, end = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: run(main(ready, end)))
    thread.start()
    ready.wait()
    rig.probe._steps.steps_loops()  # and forgets what it has told

    async def here() -> None:
        first, second = await rig.reading(), await rig.reading()
        assert [len(first.loops), len(second.loops)] == [1, 2]
        assert {rig.path(group)[-1] for group in second.groups} == {"main", "here"}

    run(here())
    end.set()
    thread.join()


def test_tasks_of_a_loop_that_does_not_run_are_left_out(rig: Rig, run: Run):
    other = asyncio.new_event_loop()
    never = other.create_future()

    async def waits() -> None:
        await never

    task = other.create_task(waits())
    thread = threading.Thread(target=other.run_until_complete, args=(asyncio.sleep(0),))
    thread.start()
    thread.join()

    async def main() -> None:
        snapshot = await rig.reading()
        assert len(snapshot.loops) == 1
        assert [rig.path(group)[-1] for group in snapshot.groups] == ["main"]

    run(main())
    assert rig.read() is None
    task.cancel()
    other.run_until_complete(asyncio.gather(task, return_exceptions=True))
    other.close()
