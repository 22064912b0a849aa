"""Heaps whose truth is known, seen through a sampler like ours.

A curve is the true number of live bytes of one allocation site over time, made of components that differ in what
their objects do: kept for ever, replaced all the time, collected now and then, evicted oldest first. `observe`
then draws what the native sampler would have reported: each unit enters the sample with probability p when it is
born and leaves when it dies, so the estimate of a growing site wanders as a sum of independent births and does
not jitter independently at each snapshot. Tests of the leak verdict that add white noise instead would be too kind.

It does not imitate single blocks: a unit stands for whatever is caught or missed together, a large block or
everything small that one sampling window saw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from glassbottom_collector.model.code import Frame, Stack, stack_id
from glassbottom_collector.model.heap import HeapSeries, SnapshotHeader
from numpy.typing import NDArray

Array = NDArray[np.float64]
MB = 1e6
OLD = 7 * 24 * 3600.0  # age, in seconds, of what was there long before the window


@dataclass(frozen=True)
class Component:
    """One population of objects. `level` (T,) is its true live bytes at each snapshot.

    lifetime_s: mean lifetime of what is replaced all the time, fixed or per snapshot; infinite when objects only die
        because the level falls. oldest_first: who dies then. age_s: age of what is there at the first snapshot.
    """

    level: Array
    lifetime_s: float | Array = float("inf")
    oldest_first: bool = False
    age_s: float = OLD


@dataclass(frozen=True)
class Curve:
    """The truth about one site. `rate` is what its leak grows by, bytes per second; 0 when it has none.

    unit_bytes and probability: what is caught or missed together, and how likely; a caught unit is reported as
    unit_bytes / probability.
    """

    kind: str
    components: tuple[Component, ...]
    rate: float = 0.0
    unit_bytes: float = 5_243.0
    probability: float = 0.01

    @property
    def truth(self) -> Array:
        """True live bytes at each snapshot."""
        return np.sum([component.level for component in self.components], axis=0)


@dataclass(frozen=True)
class Observed:
    """What a sampler reported about curves: matrices (T, N)."""

    live_bytes: Array
    variance: Array
    samples: Array
    birth_mean_s: Array
    birth_minutes: Array
    born_bytes: Array
    unit_bytes: Array = field(repr=False)


def observe(curves: Sequence[Curve], times: Array, seed: int) -> Observed:
    """Samples every curve. times (T,), seconds from the start of the window."""
    rng = np.random.default_rng(seed)
    parts = [_observe_one(curve, times, rng) for curve in curves]
    stack = [np.stack(column, axis=1) for column in zip(*parts, strict=True)]
    return Observed(*stack, unit_bytes=np.array([curve.unit_bytes for curve in curves]))


def _observe_one(curve: Curve, times: Array, rng: np.random.Generator) -> tuple[Array, ...]:
    steps = len(times)
    weight = curve.unit_bytes / curve.probability
    # Cohorts: column 0 is what was there before, column k+1 was born between snapshots k and k+1.
    alive = np.zeros((steps, len(curve.components), steps))
    born = np.zeros((len(curve.components), steps))
    births = np.tile(np.concatenate([[0.0], (times[1:] + times[:-1]) / 2]), (len(curve.components), 1))
    for index, component in enumerate(curve.components):
        births[index, 0] = times[0] - component.age_s
        level, lifetime = component.level, np.broadcast_to(component.lifetime_s, steps)
        cohorts = np.zeros(steps, dtype=np.int64)
        fraction = 0.0
        cohorts[0] = rng.binomial(round(level[0] / curve.unit_bytes), curve.probability)
        born[index, 0] = cohorts[0]
        alive[0, index] = cohorts
        for step in range(1, steps):
            hazard = -np.expm1(-(times[step] - times[step - 1]) / lifetime[step])
            survivors = min(level[step], level[step - 1] * (1 - hazard))
            if level[step - 1] > 0 and survivors < level[step - 1]:
                share = survivors / level[step - 1]
                if component.oldest_first:
                    cohorts = _without_oldest(cohorts, int(rng.binomial(cohorts.sum(), 1 - share)))
                else:
                    cohorts = rng.binomial(cohorts, share)
            units = (level[step] - survivors) / curve.unit_bytes + fraction
            fraction = units - np.floor(units)
            cohorts[step] = rng.binomial(int(units), curve.probability)
            born[index, step] = cohorts[step]
            alive[step, index] = cohorts
    counts = alive.sum(axis=(1, 2))
    moment = np.einsum("tck,ck->t", alive, births)
    minutes = np.array([len(np.unique(np.floor(births[cell > 0] / 60))) for cell in alive])
    return (
        counts * weight,
        counts * weight**2 * (1 - curve.probability),
        counts,
        np.divide(moment, counts, out=np.zeros(steps), where=counts > 0),
        minutes.astype(float),
        np.cumsum(born.sum(axis=0)) * weight,
    )


def _without_oldest(cohorts: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    before = np.concatenate([[0], np.cumsum(cohorts)[:-1]])
    return cohorts - np.clip(count - before, 0, cohorts)


def series_of(
    curves: Sequence[Curve],
    times: Array,
    seed: int,
    *,
    start_ns: int = 1_700_000_000_000_000_000,
    instance_id: str = "a" * 32,
    epoch: int = 1,
    observed: Observed | None = None,
) -> HeapSeries:
    """The curves as the sites of one process; site k has the call path `stack_of(k)`."""
    seen = observe(curves, times, seed) if observed is None else observed
    total, variance = seen.live_bytes.sum(axis=1), seen.variance.sum(axis=1)
    at_ns = start_ns + (times * 1e9).astype(np.int64)
    headers = tuple(
        SnapshotHeader(instance_id, epoch, int(at), False, 524_288.0, 0.1, float(live), float(var))
        for at, live, var in zip(at_ns, total, variance, strict=True)
    )
    birth_ms = np.where(seen.samples > 0, start_ns // 1_000_000 + seen.birth_mean_s * 1e3, 0).astype(np.int64)
    return HeapSeries(
        instance_id=instance_id,
        epoch=epoch,
        headers=headers,
        stacks=np.array([stack_of(index).id for index in range(len(curves))], dtype=np.uint64),
        live_bytes=seen.live_bytes,
        live_bytes_variance=seen.variance,
        live_objects=seen.live_bytes / seen.unit_bytes,
        live_objects_variance=seen.variance / seen.unit_bytes**2,
        alloc_bytes=seen.born_bytes,
        birth_mean_ms=birth_ms,
        birth_minutes=seen.birth_minutes.astype(np.uint32),
        samples=seen.samples.astype(np.uint32),
    )


def frames_of(index: int) -> tuple[Frame, ...]:
    """Call path of curve `index`, innermost first."""
    return (
        Frame(f"Handler{index}.on_message", f"/srv/app/handlers_{index % 50}.py", 10 + index),
        Frame("main", "/srv/app/main.py", 7),
    )


def stack_of(index: int) -> Stack:
    """Call path of curve `index`."""
    ids = tuple(frame.id for frame in frames_of(index))
    return Stack(stack_id(ids), ids)


def autoregressive(coefficient: float, steps: int, rng: np.random.Generator) -> Array:
    """AR(1) noise of unit variance."""
    noise = rng.standard_normal(steps) * np.sqrt(1 - coefficient**2)
    noise[0] = rng.standard_normal()
    for step in range(1, steps):
        noise[step] += coefficient * noise[step - 1]
    return noise


# --- The kinds. Each takes the snapshots' times and a generator, and draws its own sizes. ---


def _static(times: Array, rng: np.random.Generator) -> Component:
    return Component(np.full(len(times), rng.uniform(10, 60) * MB))


def _churn(
    times: Array, rng: np.random.Generator, *, coefficient: float = 0.7, relative: float = 0.2, mean: float = 0.0
) -> Component:
    """Requests in flight and what they hold: replaced all the time, at a level that wanders."""
    mean = mean or rng.uniform(3, 12) * MB
    level = mean * np.clip(1 + relative * autoregressive(coefficient, len(times), rng), 0.05, None)
    lifetime = float(np.exp(rng.uniform(np.log(5), np.log(120))))
    return Component(level, lifetime_s=lifetime, age_s=lifetime)


def _load(times: Array, rng: np.random.Generator, shape: Array) -> Component:
    """Memory of requests in flight under a load that follows `shape`."""
    lifetime = float(np.exp(rng.uniform(np.log(5), np.log(120))))
    noise = np.clip(1 + 0.08 * autoregressive(0.7, len(times), rng), 0.05, None)
    return Component(rng.uniform(15, 50) * MB * shape * noise, lifetime_s=lifetime, age_s=lifetime)


def _teeth(times: Array, rng: np.random.Generator) -> Component:
    """Garbage in cycles: piles up until a full collection takes it all."""
    height, period = rng.uniform(5, 30) * MB, rng.uniform(4, 12)
    level, phase = np.zeros(len(times)), rng.uniform(0, 1)
    for step in range(len(times)):
        level[step] = height * phase
        phase += 1 / (period * rng.uniform(0.8, 1.2))
        if phase >= 1:
            phase = 0.0
    return Component(level, age_s=0.0)


def _diurnal(times: Array, rng: np.random.Generator) -> Array:
    window = times[-1] - times[0]
    return 1 + 0.6 * np.sin(2 * np.pi * (times / (window * rng.uniform(0.8, 1.5)) + rng.uniform()))


def _ramp(times: Array, rng: np.random.Generator) -> Array:
    return 1 + rng.uniform(0.7, 2.5) * (times - times[0]) / (times[-1] - times[0])


def _fresh(level: Array) -> Component:
    return Component(level, age_s=0.0)


def _curve(kind: str, rng: np.random.Generator, *components: Component, rate: float = 0.0) -> Curve:
    # What is caught together: mostly blocks of a few KiB (weight = the sampling interval), at times the small
    # objects of one request, caught by a window one time in ten.
    if rng.uniform() < 0.7:
        return Curve(kind, components, rate, unit_bytes=5_243.0, probability=0.01)
    return Curve(
        kind, components, rate, unit_bytes=float(np.exp(rng.uniform(np.log(2e4), np.log(1.5e5)))), probability=0.1
    )


def _ar70(times: Array, rng: np.random.Generator) -> Curve:
    return _curve(
        "AR(.7) flat", rng, _static(times, rng), _churn(times, rng, relative=0.3, mean=rng.uniform(5, 30) * MB)
    )


def _ar95(times: Array, rng: np.random.Generator) -> Curve:
    wander = _churn(times, rng, coefficient=0.95, relative=0.35, mean=rng.uniform(10, 40) * MB)
    return _curve("AR(.95) flat", rng, _static(times, rng), wander)


def _pool(times: Array, rng: np.random.Generator) -> Curve:
    """As AR(.95), but what is taken stays until the level falls again, as in a pool or a backlog."""
    wander = _churn(times, rng, coefficient=0.95, relative=0.35, mean=rng.uniform(10, 40) * MB)
    return _curve("AR(.95) pool", rng, _static(times, rng), Component(wander.level, oldest_first=bool(rng.integers(2))))


def _sawtooth(times: Array, rng: np.random.Generator) -> Curve:
    return _curve("sawtooth", rng, _static(times, rng), _churn(times, rng), _teeth(times, rng))


def _plateau(times: Array, rng: np.random.Generator) -> Curve:
    window = times[-1] - times[0]
    level = rng.uniform(20, 100) * MB * -np.expm1(-(times - times[0]) / (window * rng.uniform(0.05, 0.25)))
    return _curve("warm-up plateau", rng, _static(times, rng), _churn(times, rng), _fresh(level))


def _lru(times: Array, rng: np.random.Generator) -> Curve:
    window = times[-1] - times[0]
    full, fill_s = rng.uniform(20, 100) * MB, window * rng.uniform(0.1, 0.9)
    level = np.minimum(full * (times - times[0]) / fill_s, full)
    lifetime = np.where(level < full, np.inf, fill_s)  # a full cache goes on replacing its oldest entries
    cache = Component(level, lifetime_s=lifetime, oldest_first=True, age_s=0.0)
    return _curve("LRU fill", rng, _static(times, rng), _churn(times, rng), cache)


def _step(times: Array, rng: np.random.Generator) -> Curve:
    at = rng.uniform(0.3, 0.9) * (times[-1] - times[0])
    level = np.where(times - times[0] >= at, rng.uniform(10, 60) * MB, 0.0)
    return _curve("step", rng, _static(times, rng), _churn(times, rng), _fresh(level))


def _diurnal_load(times: Array, rng: np.random.Generator) -> Curve:
    return _curve("diurnal load", rng, _static(times, rng), _load(times, rng, _diurnal(times, rng)))


def _load_step(times: Array, rng: np.random.Generator) -> Curve:
    at = rng.uniform(0.2, 0.9) * (times[-1] - times[0])
    shape = np.where(times - times[0] >= at, rng.uniform(1.5, 3), 1.0)
    return _curve("load step", rng, _static(times, rng), _load(times, rng, shape))


def _load_ramp(times: Array, rng: np.random.Generator) -> Curve:
    return _curve("load ramp", rng, _static(times, rng), _load(times, rng, _ramp(times, rng)))


def _leak_level(times: Array, rate: float, shape: Array | None = None) -> Array:
    if shape is None:
        return rate * (times - times[0])
    steps = np.diff(times, prepend=times[0])
    return np.cumsum(steps * rate * shape)


def _slow_leak(times: Array, rng: np.random.Generator) -> Curve:
    rate = rng.uniform(20, 40) * MB / (times[-1] - times[0])
    return _curve(
        "slow leak", rng, _static(times, rng), _churn(times, rng), _fresh(_leak_level(times, rate)), rate=rate
    )


def _rate(times: Array, rng: np.random.Generator) -> float:
    return rng.uniform(80, 300) * MB / (times[-1] - times[0])


def _leak(times: Array, rng: np.random.Generator) -> Curve:
    rate = _rate(times, rng)
    return _curve("leak", rng, _static(times, rng), _churn(times, rng), _fresh(_leak_level(times, rate)), rate=rate)


def _leak_sawtooth(times: Array, rng: np.random.Generator) -> Curve:
    rate = _rate(times, rng)
    return _curve(
        "leak + sawtooth", rng, _static(times, rng), _teeth(times, rng), _fresh(_leak_level(times, rate)), rate=rate
    )


def _leak_bursts(times: Array, rng: np.random.Generator) -> Curve:
    rate, window = _rate(times, rng), times[-1] - times[0]
    per_burst_s = window / rng.uniform(15, 40)
    counts = rng.poisson(np.diff(times, prepend=times[0]) / per_burst_s)
    level = np.cumsum(counts) * rate * per_burst_s
    return _curve("leak by bursts", rng, _static(times, rng), _churn(times, rng), _fresh(level), rate=rate)


def _leak_diurnal(times: Array, rng: np.random.Generator) -> Curve:
    rate = _rate(times, rng)
    load = _load(times, rng, _diurnal(times, rng))
    return _curve(
        "leak under diurnal load", rng, _static(times, rng), load, _fresh(_leak_level(times, rate)), rate=rate
    )


def _leak_ramp(times: Array, rng: np.random.Generator) -> Curve:
    rate = _rate(times, rng)
    load = _load(times, rng, _ramp(times, rng))
    return _curve("leak under load ramp", rng, _static(times, rng), load, _fresh(_leak_level(times, rate)), rate=rate)


def _leak_operation(times: Array, rng: np.random.Generator) -> Curve:
    """Every operation leaks, and their number follows the load."""
    shape = _diurnal(times, rng)
    mean = _rate(times, rng)
    load = _load(times, rng, shape)
    level = _leak_level(times, mean, shape)
    rate = (level[-1] - level[0]) / (times[-1] - times[0])
    return _curve("leak per operation", rng, _static(times, rng), load, _fresh(level), rate=rate)


Kind = Callable[[Array, np.random.Generator], Curve]

BENIGN: dict[str, Kind] = {
    "AR(.7) flat": _ar70,
    "AR(.95) flat": _ar95,
    "AR(.95) pool": _pool,
    "sawtooth": _sawtooth,
    "warm-up plateau": _plateau,
    "LRU fill": _lru,
    "step": _step,
    "diurnal load": _diurnal_load,
    "load step": _load_step,
    "load ramp": _load_ramp,
}
LEAKING: dict[str, Kind] = {
    "slow leak": _slow_leak,
    "leak": _leak,
    "leak + sawtooth": _leak_sawtooth,
    "leak by bursts": _leak_bursts,
    "leak under diurnal load": _leak_diurnal,
    "leak under load ramp": _leak_ramp,
    "leak per operation": _leak_operation,
}
KINDS: dict[str, Kind] = BENIGN | LEAKING


def draw(kind: str, count: int, times: Array, seed: int) -> list[Curve]:
    """`count` curves of a kind, each with sizes of its own."""
    rng = np.random.default_rng([seed, *kind.encode()])
    return [KINDS[kind](times, rng) for _ in range(count)]
