"""Populations whose truth is known: tasks, threads or descriptors that are born and die, read now and then.

A population is drawn as single births and deaths, so that counts, ages and the oldest fit one another as they do in
a process. What is there before the first reading was born before it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from glassbottom_collector.findings.growth import Readings
from numpy.typing import NDArray

Array = NDArray[np.float64]
Population = tuple[Array, Array]  # births and deaths, seconds from the start of the window; infinite: never
Kind = Callable[[float, np.random.Generator], list[Population]]


def _arrivals(rate: Callable[[Array], Array], most: float, window: float, before: float, rng) -> Array:
    """Times of a Poisson process of a rate that never exceeds `most`, by thinning (Lewis and Shedler 1979)."""
    count = rng.poisson(most * (window + before))
    times = np.sort(rng.uniform(-before, window, count))
    return times[rng.uniform(0, most, count) < rate(times)]


def _served(rate, most: float, window: float, lifetime: float, rng) -> Population:
    births = _arrivals(rate, most, window, 6 * lifetime, rng)
    return births, births + rng.exponential(lifetime, len(births))


def _steady(window, rng):
    level, lifetime = rng.uniform(5, 200), window * rng.uniform(0.005, 0.1)
    return [_served(lambda t: np.full(len(t), level / lifetime), level / lifetime, window, lifetime, rng)]


def _long_lived(window, rng):
    """Connections that stay for long, come and go independently of one another, and have done so for ever."""
    level, lifetime = rng.uniform(20, 300), window * rng.uniform(0.2, 0.8)
    return [_served(lambda t: np.full(len(t), level / lifetime), level / lifetime, window, lifetime, rng)]


def _stays(births: Array) -> Population:
    return births, np.full(len(births), np.inf)


def _warm_up(window, rng):
    births = rng.exponential(window * rng.uniform(0.05, 0.25), rng.integers(30, 300))
    return [_stays(births), *_steady(window, rng)]


def _pool(window, rng):
    """Fills evenly, and has been full for the last seventh of the window at least."""
    births = np.linspace(0, window * rng.uniform(0.1, 0.85), rng.integers(30, 200))
    return [_stays(births), *_steady(window, rng)]


def _step(window, rng):
    births = np.full(rng.integers(30, 300), window * rng.uniform(0.2, 0.9))
    return [_stays(births), *_steady(window, rng)]


def _two_steps(window, rng):
    births = np.repeat(window * rng.uniform(0.1, 0.95, 2), rng.integers(20, 200, 2))
    return [_stays(births), *_steady(window, rng)]


def _daily(window, rng):
    level, lifetime = rng.uniform(20, 200), window * rng.uniform(0.005, 0.05)
    period, phase = window * rng.uniform(0.8, 1.5), rng.uniform()
    peak = level / lifetime

    def rate(t):
        return peak * (1 + 0.6 * np.sin(2 * np.pi * (t / period + phase))) / 1.6

    return [_served(rate, peak, window, lifetime, rng)]


def _ramp(window, rng):
    """Load that rises by 70 to 250 % all through the window."""
    level, lifetime, more = rng.uniform(20, 200), window * rng.uniform(0.005, 0.05), rng.uniform(0.7, 2.5)
    peak = level / lifetime * (1 + more)
    return [_served(lambda t: peak * (1 + more * np.clip(t / window, 0, 1)) / (1 + more), peak, window, lifetime, rng)]


def _sawtooth(window, rng):
    """Piles up, and is cleared at once, again and again."""
    height, period = rng.uniform(30, 300), window / rng.uniform(1.2, 8)
    births = rng.uniform(-period, window, round(height * (window / period + 1)))
    return [(births, (np.floor(births / period) + 1) * period)]


def _leak(window, rng):
    births = rng.uniform(0, window, rng.integers(60, 600))
    return [_stays(births), *_steady(window, rng)]


def _leak_regular(window, rng):
    return [_stays(np.linspace(0, window, rng.integers(60, 600))), _stays(np.full(5, -1.0))]


def _leak_under_daily_load(window, rng):
    return [_stays(rng.uniform(0, window, rng.integers(150, 600))), *_daily(window, rng)]


BENIGN: dict[str, Kind] = {
    "steady": _steady,
    "long-lived": _long_lived,
    "warm-up": _warm_up,
    "pool that fills": _pool,
    "step": _step,
    "two steps": _two_steps,
    "daily load": _daily,
    "sawtooth": _sawtooth,
}
RAMP: dict[str, Kind] = {"load ramp": _ramp}
LEAKING: dict[str, Kind] = {
    "leak": _leak,
    "regular leak": _leak_regular,
    "leak under daily load": _leak_under_daily_load,
}
KINDS = BENIGN | RAMP | LEAKING


def readings(kind: str, seed: int, times_s: Array, *, ages: bool, columns: int = 1) -> Readings:
    """`columns` populations of one kind, read at times_s (T,). With ages as tasks have them, or counts only."""
    rng = np.random.default_rng([seed, *kind.encode()])
    window = float(times_s[-1] - times_s[0])
    shape = (len(times_s), columns)
    counts, mass, oldest = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for column in range(columns):
        for births, deaths in KINDS[kind](window, rng):
            at = times_s[:, None] - times_s[0]
            alive = (births <= at) & (at < deaths)
            age = np.where(alive, at - births, 0.0)
            counts[:, column] += alive.sum(axis=1)
            mass[:, column] += age.sum(axis=1)
            oldest[:, column] = np.maximum(oldest[:, column], age.max(axis=1, initial=0.0))
    return Readings(times_s, counts, mass if ages else None, oldest if ages else None)
