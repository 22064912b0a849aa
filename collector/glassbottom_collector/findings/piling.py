"""From readings of each process to what piles up over all of them: shared by tasks, threads and descriptors.

Processes are judged one by one, and what was found of the same thing in several is one finding with their sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import numpy as np

from ..model.heap import F64, I64, MetricPoint
from ..model.leak import Rate
from .growth import READINGS_MIN, Growth, Readings, after_warm_up, judge
from .window import Window, too_short

Key = TypeVar("Key")


@dataclass(frozen=True)
class Table(Generic[Key]):
    """One process: at_ns (T,), what the columns are, and readings with their columns (T, N)."""

    at_ns: I64
    keys: tuple[Key, ...]
    readings: Readings


@dataclass(frozen=True)
class Pile(Generic[Key]):
    """What piles up. growth: of all processes in which it does, with the evidence of the one where it grows most."""

    key: Key
    growth: Growth
    instance_ids: tuple[str, ...]
    first_ns: int
    last_ns: int


def settled(at_ns: I64, window: Window, instance_id: str) -> I64:
    """Indices of the readings behind the warm-up of a process."""
    return after_warm_up(at_ns, window.started_ns(instance_id))


def piles(
    tables: Mapping[str, Table[Key]], least: Mapping[Key, float], subject: str
) -> tuple[list[Pile[Key]], list[str]]:
    """What piles up, by instance id given; least: growth below which a key is not told. And notes."""
    found: dict[Key, list[tuple[str, Table[Key], Growth]]] = {}
    readings = [len(table.readings) for table in tables.values()]
    for instance_id, table in tables.items():
        bounds = np.array([least[key] for key in table.keys])
        for key, growth in zip(table.keys, judge(table.readings, bounds), strict=True):
            if growth is not None and growth.leaks:
                found.setdefault(key, []).append((instance_id, table, growth))
    notes = (
        [too_short(f"{subject} pile up", len(readings), max(readings))]
        if readings and max(readings) < READINGS_MIN
        else []
    )
    return [_together(key, mine) for key, mine in found.items()], notes


def _together(key: Key, each: Sequence[tuple[str, Table[Key], Growth]]) -> Pile[Key]:
    growths = [growth for _, _, growth in each]
    most = max(growths, key=lambda growth: growth.rate.per_second)
    total = sum(growth.rate.per_second for growth in growths)
    below = sum((growth.rate.per_second - growth.rate.low) ** 2 for growth in growths) ** 0.5
    above = sum((growth.rate.high - growth.rate.per_second) ** 2 for growth in growths) ** 0.5
    growth = Growth(
        True,
        sum(growth.first for growth in growths),
        sum(growth.last for growth in growths),
        max(growth.seconds for growth in growths),
        Rate(total, total - below, total + above),
        min(growth.p for growth in growths),
        most.evidence,
    )
    first = min(int(table.at_ns[0]) for _, table, _ in each)
    last = max(int(table.at_ns[-1]) for _, table, _ in each)
    return Pile(key, growth, tuple(sorted(instance for instance, _, _ in each)), first, last)


def of_metrics(window: Window, name: str, attribute: str, total: str) -> dict[str, Table[str]]:
    """Tables of one metric by the values of one attribute, by instance id; the column "" is the metric `total`.

    A value that is not told at a moment at which others are is 0 then: what is gone is no longer counted.
    """
    tables = {}
    for instance_id, points in window.reader.metrics(
        window.service, window.within, [name, total], window.instance_id
    ).items():
        if points:
            tables[instance_id] = _table(window, instance_id, points, name, attribute)
    return tables


def _table(window: Window, instance_id: str, points: Sequence[MetricPoint], name: str, attribute: str) -> Table[str]:
    at_ns = np.unique(np.array([point.at_ns for point in points], dtype=np.int64))
    keys = tuple(dict.fromkeys(_key(point, name, attribute) for point in points))
    counts: F64 = np.zeros((len(at_ns), len(keys)))
    row = {at: index for index, at in enumerate(at_ns.tolist())}
    column = {key: index for index, key in enumerate(keys)}
    for point in points:
        counts[row[point.at_ns], column[_key(point, name, attribute)]] = point.value
    kept = settled(at_ns, window, instance_id)
    at_ns = at_ns[kept]
    return Table(at_ns, keys, Readings(at_ns / 1e9, counts[kept], load=partial(window.load, instance_id, at_ns)))


def _key(point: MetricPoint, name: str, attribute: str) -> str:
    return dict(point.attributes).get(attribute, "<unknown>") if point.name == name else ""
