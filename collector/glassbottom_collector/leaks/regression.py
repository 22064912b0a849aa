"""Which operations a series grows with: levels against cumulative counts, none of them shrinking it.

    level(t) = a + sum over operations of b_r N_r(t) + noise,   b_r >= 0

Least squares without negative coefficients (Lawson and Hanson 1974, by active sets, a few columns and some twenty rows,
which is no reason to import scipy). Intervals by resampling blocks of neighbouring residuals (Kuensch 1989), for
the freedom that the fit has taken from them, and widened, since with known truths they covered 83 % instead of 95.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..model.heap import F64

ROUNDS = 120
BLOCK = 3
WIDEN = 1.8
# Without an operation the fit must become this much worse, or another one explains the growth as well.
NEEDED = 1.5


@dataclass(frozen=True)
class Fit:
    """Bytes per operation with their 95 % interval, (R,); and which of them cannot be replaced by the others, (R,)."""

    value: F64
    low: F64
    high: F64
    needed: tuple[bool, ...]


def fit(level: F64, counts: F64, seed: int = 0) -> Fit:
    """level: (K,). counts: (K, R), cumulative. Coefficients of counts that do not vary are 0."""
    shifted = counts - counts.mean(axis=0)
    scale = np.sqrt((shifted**2).sum(axis=0))
    basis = np.divide(shifted, scale, out=np.zeros_like(shifted), where=scale > 0)
    target = level - level.mean()
    found = nnls(basis, target)
    fitted = basis @ found
    residual = target - fitted
    freedom = max(len(level) - 1 - int((found > 0).sum()), 1)
    draws = _bootstrap(basis, fitted, residual * (len(level) / freedom) ** 0.5, np.random.default_rng(seed))
    low, high = np.quantile(draws, [0.025, 0.975], axis=0) if len(draws) else (found, found)
    low, high = found - WIDEN * (found - np.minimum(low, found)), found + WIDEN * (np.maximum(high, found) - found)
    factor = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
    noise = float((residual**2).sum()) + 1e-9 * float((target**2).sum())
    needed = tuple(
        bool(found[column] > 0 and _without(basis, target, column) > NEEDED * noise) for column in range(len(found))
    )
    return Fit(found * factor, np.maximum(low, 0.0) * factor, high * factor, needed)


def nnls(basis: F64, target: F64) -> F64:
    """Least squares with coefficients that are not negative; basis (K, R), target (K,)."""
    count = basis.shape[1]
    found: F64 = np.zeros(count)
    active = np.zeros(count, dtype=bool)
    tolerance = 1e-10 * (float(np.abs(basis.T @ target).max(initial=0.0)) + 1e-300)
    for _ in range(3 * count + 3):
        gradient = basis.T @ (target - basis @ found)
        gradient[active] = -np.inf
        best = int(np.argmax(gradient)) if count else 0
        if not count or gradient[best] <= tolerance:
            break
        active[best] = True
        while True:
            trial: F64 = np.zeros(count)
            trial[active] = np.linalg.lstsq(basis[:, active], target, rcond=None)[0]
            wrong = active & (trial <= 0)
            if not wrong.any():
                break
            # As far towards the trial as no coefficient turns negative; whichever arrives at zero leaves.
            share = np.min(found[wrong] / (found[wrong] - trial[wrong] + 1e-300))
            found = found + share * (trial - found)
            leaving = active & (found <= 1e-15)
            active &= ~(leaving if leaving.any() else wrong)
            found[~active] = 0.0
            if not active.any():
                trial = np.zeros(count)
                break
        found = trial
    return found


def _without(basis: F64, target: F64, column: int) -> float:
    """Sum of squares that is left when one column is not there."""
    others = np.delete(basis, column, axis=1)
    rest = target - (others @ nnls(others, target) if others.shape[1] else 0.0)
    return float((rest**2).sum())


def _bootstrap(basis: F64, fitted: F64, residual: F64, rng: np.random.Generator) -> F64:
    count = len(residual)
    if count < 2 * BLOCK:
        return np.zeros((0, basis.shape[1]))
    draws = []
    for _ in range(ROUNDS):
        starts = rng.integers(0, count - BLOCK + 1, size=-(-count // BLOCK))
        rows = (starts[:, None] + np.arange(BLOCK)).ravel()[:count]
        drawn = fitted + residual[rows]
        draws.append(nnls(basis, drawn - drawn.mean()))
    return np.stack(draws)
