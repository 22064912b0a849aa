"""A tasks probe that runs without an agent, and what tests of tasks do to tasks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from glassbottom._config import AsyncioConfig
from glassbottom._guard import Guard
from glassbottom.probes.observations import Observation
from glassbottom.probes.operations import Key, OperationsProbe, Sums
from glassbottom.probes.tasks import STREAM, TasksProbe
from glassbottom.testing import FakeClock
from glassbottom.transport.encode import without_codec
from glassbottom.transport.queue import BatchQueue
from glassbottom.wire.v1 import tasks_pb2

Main = Coroutine[Any, Any, Any]
Run = Callable[[Main], Any]


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
