"""What a look at real tasks tells, under asyncio and uvloop: where each waits, and who waits for whom."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading

import pytest
import uvloop
from glassbottom.probes.operations import Recorder
from glassbottom.wire.v1 import tasks_pb2

from tests.support.tasks_rig import Rig, Run, ended, group_at, line_of, steps

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
