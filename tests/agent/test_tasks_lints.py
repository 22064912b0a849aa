"""Tasks that nobody can wake are found; tasks that wait as programs do are left in peace."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from glassbottom import _native
from glassbottom._guard import Guard
from glassbottom.probes.definitions import Definer
from glassbottom.probes.observations import Observation
from glassbottom.probes.tasks_lints import waits_for_itself
from glassbottom.probes.tasks_watch import Watch
from glassbottom.wire.v1 import tasks_pb2

from tests.support.tasks_rig import Run, ended

STUCK_S = 0.05


class Rig:
    def __init__(self) -> None:
        _native.steps_start()
        self.watch = Watch(_native.await_chain, _native, 1000, STUCK_S, Guard())
        self.snapshot = tasks_pb2.TasksSnapshot()
        self.names: list[str] = []

    def look(self) -> list[Observation]:
        self.watch.loops.meet(_native.steps_loops())
        definer = Definer()
        snapshot, observed = self.watch.snapshot(definer, 1)
        assert snapshot is not None
        names = {found: function for found, (function, _, _) in definer._frames.items()}
        self.names = [names[group.path[-1]].rpartition(".")[2] for group in snapshot.groups]
        self.snapshot = snapshot
        return observed

    async def judged_all(self) -> list[Observation]:
        """What the last of several looks says, in the time after which a task is stuck."""
        loop = asyncio.get_running_loop()
        observed: list[Observation] = []
        for _ in range(6):
            await asyncio.sleep(STUCK_S / 2)
            observed = await loop.run_in_executor(None, self.look)
        return observed

    async def judged(self) -> dict[str, tuple[str, str]]:
        """The same as (kind, whether suspected) by coroutine."""
        observed = await self.judged_all()
        found = {each.name.rpartition(".")[2]: each for each in observed}
        assert len(found) == len(observed)
        return {name: (each.kind, each.attributes.get("suspected", "")) for name, each in found.items()}

    def edges(self) -> set[tuple[str, str]]:
        return {(self.names[edge.waiter], self.names[edge.awaited]) for edge in self.snapshot.edges}


@pytest.fixture
def rig() -> Iterator[Rig]:
    gc.collect()
    rig = Rig()
    yield rig
    rig.watch.loops.end()
    _native.steps_stop()


# Faults


def test_a_future_that_was_lost_leaves_its_task_stuck(rig: Rig, run: Run):
    async def waits() -> None:
        answer = asyncio.get_running_loop().create_future()
        pending = {1: answer}
        pending.clear()  # whoever answers looks here, in vain
        await answer

    async def main() -> None:
        task = asyncio.create_task(waits())
        assert await rig.judged() == {"waits": ("task.stuck", "true")}
        await ended([task])

    run(main())


def test_an_event_that_only_its_waiter_knows_leaves_it_stuck(rig: Rig, run: Run):
    async def waits(make: Callable[[], Any], wait: str) -> None:
        lost = make()
        await getattr(lost, wait)()

    async def main() -> None:
        tasks = [asyncio.create_task(waits(asyncio.Event, "wait")), asyncio.create_task(waits(asyncio.Queue, "get"))]
        observed = await rig.judged_all()
        await ended(tasks)
        assert sorted(each.attributes["awaits"] for each in observed) == ["asyncio.Event", "asyncio.Queue.get"]
        assert {each.kind for each in observed} == {"task.stuck"}

    run(main())


def test_a_task_that_nobody_knows_but_a_lost_future_is_an_orphan(rig: Rig, run: Run):
    async def waits() -> None:
        await asyncio.get_running_loop().create_future()

    async def main() -> None:
        gc.disable()  # it would destroy the task, which is the bug
        try:
            asyncio.create_task(waits())  # noqa: RUF006
            assert await rig.judged() == {"waits": ("task.orphan", "true")}
        finally:
            gc.enable()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

    run(main())


def test_a_lock_that_nobody_released_leaves_all_who_wait_for_it_stuck(rig: Rig, run: Run):
    async def forgets(lock: asyncio.Lock) -> None:
        await lock.acquire()

    async def waits(lock: asyncio.Lock) -> None:
        async with lock:
            pass

    async def main() -> None:
        lock = asyncio.Lock()
        await forgets(lock)
        tasks = [asyncio.create_task(waits(lock)) for _ in range(3)]
        observed = await rig.judged_all()
        await ended(tasks)
        (seen,) = observed
        assert (seen.kind, seen.count, seen.attributes["awaits"]) == ("task.stuck", 3, "asyncio.Lock")
        assert seen.value >= STUCK_S
        code, offset = seen.path[0]
        assert code is waits.__code__
        assert {line for start, end, line in code.co_lines() if start <= offset < end} == {code.co_firstlineno + 1}

    run(main())


def test_two_tasks_that_hold_what_the_other_wants_are_a_deadlock(rig: Rig, run: Run):
    async def left(first: asyncio.Lock, second: asyncio.Lock) -> None:
        async with first:
            await asyncio.sleep(0)
            async with second:
                pass

    async def right(first: asyncio.Lock, second: asyncio.Lock) -> None:
        async with second:
            await asyncio.sleep(0)
            async with first:
                pass

    async def main() -> None:
        locks = asyncio.Lock(), asyncio.Lock()
        tasks = [asyncio.create_task(left(*locks)), asyncio.create_task(right(*locks))]
        assert await rig.judged() == {"left": ("task.stuck", ""), "right": ("task.stuck", "")}
        assert rig.edges() == {("left", "right"), ("right", "left")}
        await ended(tasks)

    run(main())


def test_a_task_that_waits_for_a_lock_it_holds_is_a_deadlock(rig: Rig, run: Run):
    async def twice(lock: asyncio.Lock) -> None:
        async with lock:
            await again(lock)

    async def again(lock: asyncio.Lock) -> None:
        async with lock:
            pass

    async def main() -> None:
        task = asyncio.create_task(twice(asyncio.Lock()))
        assert await rig.judged() == {"twice": ("task.stuck", "")}
        await ended([task])

    run(main())


def test_a_holder_that_waits_for_a_child_that_waits_for_the_lock_is_a_deadlock(rig: Rig, run: Run):
    async def parent(lock: asyncio.Lock) -> None:
        async with lock:
            await asyncio.gather(child(lock))

    async def child(lock: asyncio.Lock) -> None:
        async with lock:
            pass

    async def main() -> None:
        task = asyncio.create_task(parent(asyncio.Lock()))
        assert await rig.judged() == {"child": ("task.stuck", "")}
        assert rig.edges() == {("parent", "child"), ("child", "parent")}
        await ended([task])

    run(main())


# No faults


def test_a_healthy_program_raises_nothing(rig: Rig, run: Run):
    class Service:
        """With the habits of services: workers, a stop event, a lock held for long, timeouts, threads, a socket."""

        def __init__(self) -> None:
            self.queue: asyncio.Queue[int] = asyncio.Queue()
            self.stop = asyncio.Event()
            self.lock = asyncio.Lock()
            self.slots = asyncio.Semaphore(1)
            self.changed = asyncio.Condition()
            self.replies: dict[int, asyncio.Future[None]] = {}

        async def worker(self) -> None:
            while True:
                await self.queue.get()

        async def stopper(self) -> None:
            await self.stop.wait()

        async def holder(self) -> None:
            async with self.lock:
                await self.stop.wait()

        async def holder_by_hand(self, lock: asyncio.Lock) -> None:
            await lock.acquire()
            try:
                await self.stop.wait()
            finally:
                lock.release()

        async def waiter(self, lock: asyncio.Lock) -> None:
            async with lock:
                pass

        async def slot(self) -> None:
            async with self.slots:
                await self.stop.wait()

        async def watcher(self) -> None:
            async with self.changed:
                await self.changed.wait()

        async def caller(self) -> None:
            reply = self.replies[1] = asyncio.get_running_loop().create_future()
            await reply

        async def timed(self) -> None:
            never = asyncio.Event()
            async with asyncio.timeout(60):
                await never.wait()

        async def timed_out(self) -> None:
            never: asyncio.Queue[int] = asyncio.Queue()
            await asyncio.wait_for(never.get(), 60)

        async def for_ever(self) -> None:
            await asyncio.Event().wait()

        async def in_thread(self) -> None:
            await asyncio.to_thread(threading_event.wait)

        async def reader(self, reader: asyncio.StreamReader) -> None:
            await reader.readline()

    threading_event = threading.Event()

    async def main() -> None:
        service, by_hand = Service(), asyncio.Lock()
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        habits = [
            service.worker(),
            service.stopper(),
            service.holder(),
            service.holder_by_hand(by_hand),
            service.slot(),
            service.slot(),
            service.watcher(),
            service.caller(),
            service.timed(),
            service.timed_out(),
            service.for_ever(),
            service.in_thread(),
            service.reader(reader),
            asyncio.sleep(60),
        ]
        tasks = [asyncio.create_task(each) for each in habits]
        await asyncio.sleep(0)
        tasks += [asyncio.create_task(service.waiter(service.lock)), asyncio.create_task(service.waiter(by_hand))]
        group = asyncio.gather(*(service.worker() for _ in range(3)))
        async with asyncio.TaskGroup() as children:
            tasks.append(children.create_task(service.worker()))
            assert await rig.judged() == {}
            threading_event.set()
            group.cancel()
            await ended(tasks)
        writer.close()
        server.close()

    run(main())


def test_the_task_of_asyncio_run_may_wait_for_ever(rig: Rig, run: Run):
    async def main() -> None:
        done = threading.Event()
        thread = threading.Thread(target=look, args=(asyncio.get_running_loop(), asyncio.current_task(), done))
        thread.start()
        for_ever = asyncio.Event()
        await for_ever.wait()

    observed: list[Observation] = []

    def look(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any], done: threading.Event) -> None:
        for _ in range(6):
            done.wait(STUCK_S / 2)
            observed.extend(rig.look())
        loop.call_soon_threadsafe(task.cancel)

    with pytest.raises(asyncio.CancelledError):
        run(main())
    assert observed == []


def test_a_busy_lock_is_not_stuck_however_long_the_queue(rig: Rig, run: Run):
    async def worker(lock: asyncio.Lock) -> None:
        await lock.acquire()  # released by somebody else, so that no holder is seen
        asyncio.get_running_loop().call_later(STUCK_S / 5, lock.release)

    async def main() -> None:
        lock = asyncio.Lock()
        tasks = [asyncio.create_task(worker(lock)) for _ in range(50)]
        assert await rig.judged() == {}
        assert any(not task.done() for task in tasks)
        await ended(tasks)
        await asyncio.sleep(STUCK_S)

    run(main())


def test_nothing_of_the_application_is_called(rig: Rig, run: Run):
    """Objects that raise whatever is asked of them, in every place a look comes by."""
    calls: list[str] = []

    class Touchy:
        def __getattribute__(self, name: str) -> Any:
            calls.append(name)
            raise AssertionError(name)

        def __eq__(self, other: object) -> bool:
            calls.append("__eq__")
            return False

        def __hash__(self) -> int:
            calls.append("__hash__")
            return 0

        def __repr__(self) -> str:
            calls.append("__repr__")
            return ""

        def __bool__(self) -> bool:
            calls.append("__bool__")
            return False

        def __len__(self) -> int:
            calls.append("__len__")
            return 0

    class Task(asyncio.Task):  # type: ignore[type-arg]
        def get_name(self) -> str:
            calls.append("get_name")
            return ""

        def get_coro(self) -> Any:
            calls.append("get_coro")

        def __bool__(self) -> bool:
            calls.append("__bool__")
            return False

    async def waits(lock: asyncio.Lock, touchy: Touchy) -> None:
        await asyncio.Event().wait() if lock is None else await lock.acquire()

    async def main() -> None:
        loop, lock = asyncio.get_running_loop(), asyncio.Lock()
        loop.set_task_factory(lambda loop, coroutine, **options: Task(coroutine, loop=loop, **options))
        await lock.acquire()
        tasks = [loop.create_task(waits(each, Touchy())) for each in (lock, None)]
        await rig.judged()
        assert rig.snapshot.tasks == 3
        await ended(tasks)

    run(main())
    assert calls == []


def test_a_task_whose_last_owner_we_are_is_destroyed_in_its_own_thread(rig: Rig, run: Run):
    from glassbottom.probes.asyncio_objects import Kept

    threads: list[int] = []

    async def waits(future: asyncio.Future[None]) -> None:
        try:
            await future
        finally:
            threads.append(threading.get_ident())

    async def main() -> None:
        kept = Kept()
        future = asyncio.get_running_loop().create_future()
        tasks = [asyncio.create_task(waits(future))]
        await asyncio.sleep(0)
        kept.take(lambda: tasks[0])
        tasks.clear()
        del future
        assert threads == []
        await asyncio.get_running_loop().run_in_executor(None, kept.let_go)
        gc.collect()
        await asyncio.sleep(0)
        gc.collect()
        assert threads == [threading.get_ident()]

    logged: list[Any] = []
    with asyncio.Runner() as runner:
        runner.get_loop().set_exception_handler(lambda _, context: logged.append(context["message"]))
        runner.run(main())


def test_a_circle_is_found_over_locks_and_tasks():
    assert waits_for_itself(1, {1: [2]}, {2: {3}, 3: {1}})
    assert not waits_for_itself(1, {1: [2]}, {2: {3}, 3: {2}})
    assert not waits_for_itself(1, {}, {})
