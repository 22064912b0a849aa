"""Growth that no Python line explains: memory a C library loses, and free memory that allocators keep.

The parts of resident memory (parts.py) are judged like sites, by the floors of blocks, with the tests of trend.py and
guards.py. There are no births outside Python, so nothing says what stays; in their place load is looked at, and what
rises with it is not accused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..model.code import Frame
from ..model.heap import F64, I64
from ..model.leak import Evidence, LeakKind, Rate, Verdict
from . import confirm, guards, trend
from .blocks import edges_of
from .parts import C_HEAP, MALLOC_FREE, MAPPED, PYMALLOC_FREE, PYTHON, Parts
from .verdict import (
    FALSE_DISCOVERY,
    FLAT_SHARE,
    JUMP_SHARE,
)
from .wording import bytes_text, chance_text, percent_text, time_text

NATIVE_FRAME = Frame("<memory outside Python>", "", 0)
FREE_FRAME = Frame("<free memory that allocators keep>", "", 0)

# Without ages a slow warm-up looks like a leak for longer, so these are stricter than those of sites. Healthy programs,
# the agent among them, have C heap that goes on growing for a while, ever more slowly: libraries' caches, malloc's own.
WANDER_P, HALF_P = 0.001, 0.01
LEVELLING_LOG_ODDS = 0.0
TAIL_HALF, TAIL_THIRD = 0.6, 0.5
# Less is not worth a person's time: of C heap, which is known to the byte but for the sampler's estimate, and of
# mappings, which are what is left over and grow as pages are touched.
GROWTH_MIN = {C_HEAP: 512 << 10, MAPPED: 16 << 20}
GROWTH_SHARE = {C_HEAP: 0.015, MAPPED: 0.1}
# When less than this part of what malloc gave is resident, since a library takes more than it uses, that is the growth.
TOUCHED_SHARE = 0.8
# Standard errors of the sampler's estimate of Python's part of malloc.
SAMPLING_ERRORS = 3.0
# Load that rose by so much, and floors that follow it so closely, cannot be told apart.
LOAD_RISE, LOAD_CORRELATION = 0.2, 0.9
# Free memory: so much of what resident memory grew by, and of all of it.
FREE_SHARE, FREE_GROWTH_SHARE, FREE_GROWTH_MIN = 0.5, 0.1, 16 << 20
FREE_KEPT_SHARE, FREE_KEPT_MIN = 0.3, 32 << 20

Load = Callable[[str, I64], F64 | None]
"""Requests per second, or another measure of load, of a process at each of some moments (T,); None when unknown."""


@dataclass(frozen=True)
class Outside:
    """What is claimed about the memory of some processes outside Python's objects. blocks: times (K,), seconds, and
    floors (K,), of the process that grows most."""

    verdict: Verdict
    kind: LeakKind
    frame: Frame
    rate: Rate
    live_bytes: float
    p: float
    evidence: tuple[Evidence, ...]
    would_change: str
    instance_ids: tuple[str, ...]
    worst: str
    edges_ns: I64
    floors: F64


@dataclass(frozen=True)
class _Judged:
    parts: Parts
    edges_ns: I64
    floors: F64
    rate: Rate
    p: float
    verdict: Verdict
    evidence: tuple[Evidence, ...]


def judge(processes: Sequence[Parts], load: Load) -> list[Outside]:
    """Native growth, and fragmentation, of a service: at most one of each."""
    looked = [(parts, edges) for parts in processes if (edges := edges_of(parts.at_ns)) is not None]
    if not looked:
        return []
    columns = [(parts, edges, name) for parts, edges in looked for name in (C_HEAP, MAPPED) if _is_told(parts, name)]
    floors = [_floors(parts.at_ns, edges, parts.values[name]) for parts, edges, name in columns]
    raw = np.array([float(trend.mann_kendall(each[:, None])[1][0]) for each in floors])
    corrected = trend.by_adjusted(raw)
    judged: dict[str, list[_Judged]] = {}
    for (parts, edges, name), each, p, uncorrected in zip(columns, floors, corrected, raw, strict=True):
        found = _judge_one(parts, edges, name, each, float(p), float(uncorrected), len(columns), load)
        if found is not None:
            judged.setdefault(parts.instance_id, []).append(found)
    native = [max(some, key=lambda one: (one.verdict is Verdict.LEAK, one.rate.per_second)) for some in judged.values()]
    return [each for each in (_native(native), _fragmentation(looked)) if each is not None]


def kept_free(processes: Sequence[Parts]) -> str:
    """A note when allocators keep much free memory, though it does not grow; "" otherwise."""
    free = sum(float(parts.values[PYMALLOC_FREE][-1] + parts.values[MALLOC_FREE][-1]) for parts in processes)
    resident = sum(float(parts.resident[-1]) for parts in processes)
    if free < FREE_KEPT_MIN or free < FREE_KEPT_SHARE * resident:
        return ""
    return (
        f"{bytes_text(free)} of {bytes_text(resident)} resident memory ({percent_text(free / resident)}) is free "
        "memory that the allocators keep, so it is no leak; `glassbottom dump trim` says how much of it goes back."
    )


def _is_told(parts: Parts, name: str) -> bool:
    return name == MAPPED or parts.is_malloc_told


def _floors(at_ns: I64, edges_ns: I64, values: F64) -> F64:
    starts = np.searchsorted(at_ns, edges_ns[:-1])
    end = int(np.searchsorted(at_ns, edges_ns[-1])) + 1
    floors: F64 = np.minimum.reduceat(values[:end], starts)
    return floors


def _times(edges_ns: I64) -> F64:
    edges = (edges_ns - edges_ns[0]) / 1e9
    times: F64 = (edges[1:] + edges[:-1]) / 2
    return times


def _judge_one(
    parts: Parts, edges: I64, name: str, floors: F64, p: float, raw: float, tested: int, load: Load
) -> _Judged | None:
    times, column = _times(edges), floors[:, None]
    seconds = float(edges[-1] - edges[0]) / 1e9
    line = trend.line(times, column)
    growth = float(line.slope[0]) * seconds
    if growth <= 0 or raw > 0.05:
        return None
    evidence = [
        Evidence(
            "trend",
            p <= FALSE_DISCOVERY,
            f"The floor of {_NAMES[name]} rises from block to block ({len(floors)} blocks of "
            f"{time_text(seconds / len(floors))}): Mann-Kendall {chance_text(raw)}, {chance_text(p)} after correction "
            f"for {tested} series.",
        ),
        *_guards(times, column, float(line.p[0])),
        _load(times, edges, floors, load(parts.instance_id, parts.at_ns), parts.at_ns),
        _size(parts, name, growth, float(floors[0])),
        _explained(parts, edges, growth),
        _known(parts),
    ]
    failed = {each.name for each in evidence if not each.supports_leak}
    if not failed:
        verdict = Verdict.LEAK
    elif failed <= {"load", "parts"}:
        verdict = Verdict.UNCLEAR
    elif (
        "trend" not in failed
        and "size" not in failed
        and float(guards.tail_share(times, column, 1 / 3)[0]) > FLAT_SHARE
    ):
        verdict = Verdict.GROWING
    else:
        return None
    rate = Rate(float(line.slope[0]), float(line.low[0]), float(line.high[0]))
    if name == C_HEAP:
        touched = _floors(parts.at_ns, edges, parts.values[C_HEAP] + parts.values[MAPPED])
        resident = trend.line(times, touched[:, None])
        if 0 < float(resident.slope[0]) < TOUCHED_SHARE * rate.per_second:
            share = percent_text(float(resident.slope[0]) / rate.per_second)
            evidence.append(
                Evidence(
                    "resident", True, f"{share} of what is taken is touched and so resident; that is what is told."
                )
            )
            rate = Rate(float(resident.slope[0]), float(resident.low[0]), float(resident.high[0]))
            floors = touched
    return _Judged(parts, edges, floors, rate, p, verdict, tuple(evidence))


_NAMES = {C_HEAP: "what C code has from malloc", MAPPED: "anonymous memory that no allocator counts"}


def _guards(times: F64, column: F64, wander: float) -> list[Evidence]:
    levelling = float(guards.odds_against_levelling(times, column)[0])
    step, jump = float(guards.odds_against_step(times, column)[0]), float(guards.largest_jump_share(column)[0])
    half, third = (float(guards.tail_share(times, column, part)[0]) for part in (1 / 2, 1 / 3))
    first, second = (float(each[0]) for each in confirm.halves(column))
    return [
        Evidence(
            "noise",
            wander < WANDER_P,
            f"What only wanders would rise this steadily with {chance_text(wander)} (a leak needs p < {WANDER_P:g}).",
        ),
        Evidence(
            "confirmation",
            max(first, second) < HALF_P,
            f"Judged apart, the first half rises with {chance_text(first)} and the last with {chance_text(second)} "
            f"(a leak needs p < {HALF_P:g} in both).",
        ),
        Evidence(
            "warm-up",
            levelling > LEVELLING_LOG_ODDS,
            "A straight line explains it at least as well as a curve that levels off."
            if levelling > LEVELLING_LOG_ODDS
            else "A curve that levels off explains it better than a straight line.",
        ),
        Evidence(
            "step",
            step > 0 and jump < JUMP_SHARE,
            f"The largest single rise is {percent_text(jump) if np.isfinite(jump) else 'all'} of the whole (a step "
            f"needs {percent_text(JUMP_SHARE)}).",
        ),
        Evidence(
            "tail",
            half > TAIL_HALF and third > TAIL_THIRD,
            f"In the last half it grows at {percent_text(half)} of the overall rate, in the last third at "
            f"{percent_text(third)} (a leak needs {percent_text(TAIL_HALF)} and {percent_text(TAIL_THIRD)}).",
        ),
    ]


def _load(times: F64, edges: I64, floors: F64, load: F64 | None, at_ns: I64) -> Evidence:
    if load is None or len(load) != len(at_ns):
        return Evidence("load", True, "The load is not known; it is taken to be level.")
    middles = edges[0] + (times * 1e9).astype(np.int64)
    per_block = np.interp(middles.astype(float), at_ns.astype(float), load)
    third = max(2, len(per_block) // 3)
    before, after = float(per_block[:third].mean()), float(per_block[-third:].mean())
    rise = after / before - 1 if before > 0 else 0.0
    together = float(np.corrcoef(per_block, floors)[0, 1]) if np.ptp(per_block) > 0 and np.ptp(floors) > 0 else 0.0
    alike = rise > LOAD_RISE and together > LOAD_CORRELATION
    change = f"went {'up' if rise >= 0 else 'down'} by {percent_text(abs(rise))}"
    sentence = f"The load {change}, and memory followed it (r = {together:.2f})" if alike else f"The load {change}"
    return Evidence("load", not alike, f"{sentence}.")


def _size(parts: Parts, name: str, growth: float, first: float) -> Evidence:
    error = 0.0
    if name == C_HEAP:
        large = parts.large
        weight = float(parts.large_variance[-1] / large[-1]) if large[-1] > 0 else 0.0
        error = SAMPLING_ERRORS * (max(float(np.ptp(large)), 0.0) * weight) ** 0.5
    least = max(GROWTH_MIN[name], GROWTH_SHARE[name] * max(first, 0.0), error)
    return Evidence(
        "size",
        growth >= least,
        f"It grew by {bytes_text(growth)}; at least {bytes_text(least)} can be told from chance.",
    )


def _explained(parts: Parts, edges: I64, growth: float) -> Evidence:
    first, last = (int(np.searchsorted(parts.at_ns, edge)) for edge in (edges[0], edges[-1]))
    resident = float(parts.resident[last] - parts.resident[first])
    python = float(parts.values[PYTHON][last] - parts.values[PYTHON][first])
    free = sum(float(parts.values[name][last] - parts.values[name][first]) for name in (PYMALLOC_FREE, MALLOC_FREE))
    return Evidence(
        "native",
        True,
        f"Resident memory changed by {bytes_text(resident)} meanwhile: {bytes_text(growth)} outside Python, "
        f"{bytes_text(python)} in Python's objects, {bytes_text(free)} free in allocators.",
    )


def _known(parts: Parts) -> Evidence:
    if not parts.is_malloc_told:
        return Evidence(
            "parts", False, "malloc does not tell here what is in use, so it may be memory that it keeps free."
        )
    if not parts.is_large_told:
        return Evidence("parts", False, "The heap is not sampled, so it may be Python's own large blocks.")
    return Evidence("parts", True, "malloc's free memory and Python's large blocks are not in it.")


def _native(judged: Sequence[_Judged]) -> Outside | None:
    if not judged:
        return None
    worst_verdict = min((each.verdict for each in judged), key=_ORDER.index)
    some = [each for each in judged if each.verdict is worst_verdict]
    worst = max(some, key=lambda each: each.rate.per_second)
    return Outside(
        verdict=worst_verdict,
        kind=LeakKind.NATIVE,
        frame=NATIVE_FRAME,
        rate=_sum([each.rate for each in some]),
        live_bytes=sum(float(each.floors[-1]) for each in some),
        p=worst.p,
        evidence=worst.evidence,
        would_change=_would_change(worst_verdict, worst),
        instance_ids=tuple(each.parts.instance_id for each in some),
        worst=worst.parts.instance_id,
        edges_ns=worst.edges_ns,
        floors=worst.floors,
    )


_ORDER = [Verdict.LEAK, Verdict.GROWING, Verdict.UNCLEAR, Verdict.STABLE]


def _would_change(verdict: Verdict, judged: _Judged) -> str:
    window = time_text(float(judged.edges_ns[-1] - judged.edges_ns[0]) / 1e9)
    failed = [each.name for each in judged.evidence if not each.supports_leak]
    if verdict is Verdict.LEAK:
        return (
            "No leak if it stopped rising for a third of this time; `glassbottom dump memray` names the lines that "
            "call into the library which holds it."
        )
    if "load" in failed:
        return "A leak if it goes on rising while the load is level."
    if "parts" in failed:
        return "A leak if `glassbottom dump trim` does not give it back, and dump memray shows blocks that stay."
    return f"A leak if it goes on in a straight line for another {window}."


def _fragmentation(looked: Sequence[tuple[Parts, I64]]) -> Outside | None:
    """Growth of resident memory that is mostly free memory of the allocators."""
    found = []
    for parts, edges in looked:
        free = parts.values[PYMALLOC_FREE] + parts.values[MALLOC_FREE]
        floors, resident = (_floors(parts.at_ns, edges, values) for values in (free, parts.resident))
        growth, grown = float(floors[-1] - floors[0]), float(resident[-1] - resident[0])
        p = float(trend.mann_kendall(floors[:, None])[1][0])
        least = max(FREE_GROWTH_MIN, FREE_GROWTH_SHARE * float(resident[0]))
        if growth >= least and growth >= FREE_SHARE * grown > 0 and p * len(looked) <= FALSE_DISCOVERY:
            line = trend.line(_times(edges), floors[:, None])
            rate = Rate(float(line.slope[0]), float(line.low[0]), float(line.high[0]))
            found.append((rate, parts, edges, floors, growth, grown, p * len(looked)))
    if not found:
        return None
    rate, parts, edges, floors, growth, grown, p = max(found, key=lambda each: each[0].per_second)
    evidence = Evidence(
        "fragmentation",
        False,
        f"Resident memory grew by {bytes_text(grown)}, and free memory inside the allocators by {bytes_text(growth)}: "
        "what was in use is free again, in holes between what still is.",
    )
    return Outside(
        verdict=Verdict.GROWING,
        kind=LeakKind.FRAGMENTATION,
        frame=FREE_FRAME,
        rate=_sum([each[0] for each in found]),
        live_bytes=sum(float(each[3][-1]) for each in found),
        p=p,
        evidence=(evidence,),
        would_change="`glassbottom dump trim` says how much malloc can give back; what comes back was no leak.",
        instance_ids=tuple(each[1].instance_id for each in found),
        worst=parts.instance_id,
        edges_ns=edges,
        floors=floors,
    )


def _sum(rates: Sequence[Rate]) -> Rate:
    total = sum(rate.per_second for rate in rates)
    below = sum((rate.per_second - rate.low) ** 2 for rate in rates) ** 0.5
    above = sum((rate.high - rate.per_second) ** 2 for rate in rates) ** 0.5
    return Rate(total, total - below, total + above)
