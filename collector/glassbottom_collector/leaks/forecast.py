"""When memory will be full: what grows for certain, against the nearest limit, what is uncertain drawn at random.

Limits are that of the control group, those of the process, and the host. Processes that share a limit (workers in one
container; all on a host) grow towards it together. Memory is full when a peak reaches the limit, so the room is that
above the floor, less a peak as they were seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..model.heap import F64
from ..model.leak import Forecast, LeakFinding, Rate, Verdict
from ..model.process import Process
from . import readings
from .blocks import BLOCKS_MAX
from .readings import Readings
from .wording import bytes_text, rate_text, time_text

DRAWS = 4000
HORIZON_S = 30 * 86400.0
# Two processes whose control group says the same limit, and usage so alike, are in one.
SAME_USAGE = 0.02


@dataclass(frozen=True)
class _Bound:
    """A limit, the processes that share it, the room at the floor, and how far peaks rise above the floor (K,)."""

    kind: str
    limit: float
    room: float
    peaks: F64
    instance_ids: tuple[str, ...]


def forecast(
    findings: Sequence[LeakFinding], processes: Mapping[str, Readings], known: Mapping[str, Process], seed: int = 0
) -> Forecast | None:
    """The limit that is reached first; None when nothing leaks for certain, or no limit is told."""
    leaks = [each for each in findings if each.verdict is Verdict.LEAK and each.bytes_rate.per_second > 0]
    if not leaks:
        return None
    found = [_one(bound, leaks, seed) for bound in _bounds(processes, known)]
    told = [each for each in found if each is not None]
    return min(told, key=lambda each: (each.seconds_50, each.seconds_10), default=None)


def _one(bound: _Bound, leaks: Sequence[LeakFinding], seed: int) -> Forecast | None:
    rates = [_share(each, bound.instance_ids) for each in leaks]
    rate = sum(each.per_second for each in rates)
    if rate <= 0:
        return None
    # Of a normal with the same 95 % interval.
    error = sum(((each.high - each.low) / 3.92) ** 2 for each in rates) ** 0.5
    rng = np.random.default_rng(seed)
    drawn = rng.normal(rate, error, DRAWS)
    room = np.maximum(bound.room - rng.choice(bound.peaks, DRAWS), 0.0)
    seconds = np.divide(room, drawn, out=np.full(DRAWS, np.inf), where=drawn > 0)
    early, middle, late = (float(each) for each in np.quantile(seconds, [0.1, 0.5, 0.9], method="inverted_cdf"))
    total = Rate(rate, rate - 1.96 * error, rate + 1.96 * error)
    return Forecast(
        bound.kind,
        bound.limit,
        bound.room,
        total,
        early,
        middle,
        late,
        bound.instance_ids,
        _sentence(bound, total, early, middle, late),
    )


def _share(finding: LeakFinding, instance_ids: Sequence[str]) -> Rate:
    """The part of a finding's rate that these processes have, which are taken to grow alike."""
    mine = len(set(finding.instance_ids) & set(instance_ids)) / max(len(finding.instance_ids), 1)
    rate = finding.bytes_rate
    return Rate(rate.per_second * mine, rate.low * mine, rate.high * mine)


def _sentence(bound: _Bound, rate: Rate, early: float, middle: float, late: float) -> str:
    limit = f"{_NAMES[bound.kind]}" + (f" of {bytes_text(bound.limit)}" if bound.limit else "")
    shared = f" ({len(bound.instance_ids)} processes share it)" if len(bound.instance_ids) > 1 else ""
    begin = f"At {rate_text(rate.per_second)} the {bytes_text(bound.room)} left to the {limit}{shared} "
    if middle > HORIZON_S:
        return f"{begin}last longer than {time_text(HORIZON_S)}."
    end = f"at most {time_text(late)} (nine chances in ten)" if np.isfinite(late) else "perhaps for ever"
    return f"{begin}last about {time_text(middle)}: at least {time_text(early)} (nine chances in ten), {end}."


_NAMES = {
    "container": "container's limit",
    "address space": "limit of the address space",
    "data segment": "limit of the data segment",
    "host": "memory of the host",
}


def _bounds(processes: Mapping[str, Readings], known: Mapping[str, Process]) -> list[_Bound]:
    found = []
    for group in _containers(processes, known):
        usage = group[0].get(readings.CONTAINER_WORKING_SET) or group[0].get(readings.CONTAINER_USAGE)
        limit = group[0].last(readings.CONTAINER_LIMIT)
        if usage is not None and limit is not None:
            found.append(_bound("container", limit, usage.values, group))
    for process in processes.values():
        for kind, attribute, name, which in (
            ("address space", "address_space", readings.VIRTUAL, ""),
            ("data segment", "data", readings.BEHIND, "anonymous"),
        ):
            limit, usage = process.last(readings.OWN_LIMIT, attribute), process.get(name, which)
            if limit is not None and usage is not None:
                found.append(_bound(kind, limit, usage.values, [process]))
    hosts: dict[str, list[Readings]] = {}
    for instance, process in processes.items():
        if process.get(readings.HOST_AVAILABLE) is not None:
            hosts.setdefault(_host(known.get(instance)), []).append(process)
    for group in hosts.values():
        available = group[0].get(readings.HOST_AVAILABLE)
        if available is not None:
            bound = _bound("host", 0.0, -available.values, group)
            found.append(bound)
    return found


def _bound(kind: str, limit: float, usage: F64, group: Sequence[Readings]) -> _Bound:
    """usage: (T,). The floor at the end is that of its last block; peaks are what blocks reach above their floors."""
    blocks = np.array_split(usage, min(BLOCKS_MAX, len(usage)))
    floors = np.array([float(block.min()) for block in blocks])
    peaks = np.array([float(block.max()) for block in blocks]) - floors
    return _Bound(
        kind, limit, max(limit - float(floors[-1]), 0.0), peaks, tuple(process.instance_id for process in group)
    )


def _containers(processes: Mapping[str, Readings], known: Mapping[str, Process]) -> list[list[Readings]]:
    """Processes of one control group: same host, same limit, same usage."""
    groups: list[list[Readings]] = []
    for instance, process in processes.items():
        limit, usage = process.last(readings.CONTAINER_LIMIT), process.last(readings.CONTAINER_USAGE)
        if limit is None or usage is None:
            continue
        for group in groups:
            other = group[0]
            same = (
                other.last(readings.CONTAINER_LIMIT) == limit
                and abs((other.last(readings.CONTAINER_USAGE) or 0.0) - usage) <= SAME_USAGE * usage
                and _host(known.get(other.instance_id)) == _host(known.get(instance))
            )
            if same:
                group.append(process)
                break
        else:
            groups.append([process])
    return groups


def _host(process: Process | None) -> str:
    return "" if process is None else process.attributes.get("host.name", "")
