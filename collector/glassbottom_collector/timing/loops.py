"""Event loops over a stretch of time: their lag added up, the rest as it was last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..model.timing import Histogram, Loop, Tasks
from .histograms import merged


@dataclass(frozen=True)
class LoopOverTime:
    """`loop` is as it was last, except for ready_max, the most there were; lag is that of the whole stretch."""

    instance_id: str
    loop: Loop
    lag: Histogram


def over_time(looks: Mapping[str, Sequence[Tasks]]) -> list[LoopOverTime]:
    """One per process and loop, in the order they were first seen. Looks are by instance id and time."""
    found: list[LoopOverTime] = []
    for instance_id, mine in looks.items():
        lags: dict[int, list[Histogram]] = {}
        last: dict[int, Loop] = {}
        for look in mine:
            for loop in look.loops:
                known = last.get(loop.id, loop)
                lags.setdefault(loop.id, []).append(loop.lag)
                last[loop.id] = replace(loop, ready_max=max(loop.ready_max, known.ready_max))
        found.extend(LoopOverTime(instance_id, loop, merged(lags[identity])) for identity, loop in last.items())
    return found
