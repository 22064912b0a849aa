"""What tasks wait for, as messages: the latest look at each process, with its loops' lag over the time before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from glassbottom.wire.v1 import query_pb2

from ..model.timing import TaskGroup, Tasks
from ..timing.histograms import quantiles
from ..timing.loops import LoopOverTime, over_time
from ..timing.places import Places
from .heap_views import frame_message


def processes(looks: Mapping[str, Sequence[Tasks]], places: Places, limit: int) -> list[query_pb2.ProcessTasks]:
    """One per process, by instance id; looks by time, of which the last is shown. At most `limit` groups each."""
    return [_process(instance, looks[instance], places, limit) for instance in sorted(looks) if looks[instance]]


def loops(looks: Mapping[str, Sequence[Tasks]]) -> list[query_pb2.LoopSummary]:
    """Every event loop of every process, most lag first."""
    found = [loop_message(each) for each in over_time(looks)]
    return sorted(found, key=lambda each: (-each.lag_p99_s, -each.lag_max_s, each.thread))


def loop_message(found: LoopOverTime) -> query_pb2.LoopSummary:
    """One event loop."""
    p50_s, p99_s = quantiles(found.lag, (0.5, 0.99))
    loop = found.loop
    return query_pb2.LoopSummary(
        thread=loop.thread,
        implementation=loop.implementation,
        lag_p50_s=p50_s,
        lag_p99_s=p99_s,
        lag_max_s=found.lag.max_s,
        ready=loop.ready,
        ready_max=loop.ready_max,
        tasks=loop.tasks,
    )


def frames_of(looks: Mapping[str, Sequence[Tasks]]) -> Iterable[int]:
    """Frames that the latest looks refer to."""
    return (frame for mine in looks.values() for group in (mine[-1].groups if mine else ()) for frame in group.path)


def _process(instance_id: str, looks: Sequence[Tasks], places: Places, limit: int) -> query_pb2.ProcessTasks:
    last = looks[-1]
    lags = {each.loop.id: each for each in over_time({instance_id: looks})}
    order = sorted(range(len(last.groups)), key=lambda index: (-last.groups[index].count, index))[:limit]
    shown = {index: position for position, index in enumerate(order)}
    return query_pb2.ProcessTasks(
        instance_id=instance_id,
        at_ns=last.at_ns,
        # In the order of the look, to which groups refer; a loop that has gone since is not told.
        loops=[loop_message(lags[loop.id]) for loop in last.loops],
        groups=[_group(last.groups[index], places) for index in order],
        waits=[
            query_pb2.WaitsFor(waiter=shown[waiter], awaited=shown[awaited], count=count)
            for waiter, awaited, count in last.edges
            if waiter in shown and awaited in shown
        ],
        tasks=last.tasks,
        tasks_examined=last.tasks_examined,
    )


def _group(group: TaskGroup, places: Places) -> query_pb2.TaskGroupSummary:
    return query_pb2.TaskGroupSummary(
        loop=group.loop,
        path=[frame_message(frame) for frame in places.along(group.path)],
        state=group.state,
        awaits=group.awaits,
        count=group.count,
        age_oldest_s=group.age_oldest_s,
        age_mean_s=group.age_mean_s,
        wait_longest_s=group.wait_longest_s,
        steps=group.steps,
        busy_s=group.busy_s,
        task_name=group.task_name,
    )
