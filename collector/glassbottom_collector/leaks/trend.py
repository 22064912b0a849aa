"""Is a series growing, how fast, and how sure is that? Arithmetic on columns, one column per allocation site.

Everything works on the floors of blocks: the least of each block of consecutive snapshots, because garbage that
waits for a collection only ever adds to a floor's neighbours. Two tests that fail in different ways are both asked:

* Mann-Kendall (Mann 1945, Kendall 1975), with its exact null distribution: no assumption on size or shape, but it
  takes the floors as exchangeable, so a series that merely wanders (a random walk) passes it too often.
* A straight line in noise that is a mixture of white noise and a random walk ("local level", Harvey 1989), in
  proportions that are not known and therefore averaged over, each weighted by how well it explains the data.
  Sampled growth is such a walk, since each birth is caught or missed once and for ever; load that wanders is
  another. Fitting a line by least squares, or bootstrapping its residuals, would call both "certain".

The same averaging compares shapes (`log_evidence`): a line, a curve that levels off, a step. It holds no thresholds
and knows nothing of verdicts; those are in guards.py and detector.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..model.heap import F64

# Variance of one step of the random walk over the variance of the white noise, in blocks. 0: white noise only;
# infinity: random walk only. Factors of about four: finer ones change no answer.
WALK_RATIOS = (0.0, 0.05, 0.2, 0.8, 3.0, float("inf"))


@dataclass(frozen=True)
class Trend:
    """A straight line through each column. Shapes (N,).

    slope: per unit of time. low, high: ends of the 95 % interval. p: probability of a slope at least this large if
    the truth were flat, in the noise described above.
    """

    slope: F64
    low: F64
    high: F64
    p: F64


def block_starts(count: int, blocks: int) -> NDArray[np.intp]:
    """Index of the first snapshot of each block; blocks are as equal as can be."""
    return (np.arange(blocks) * count) // blocks


def floors(values: F64, starts: NDArray[np.intp]) -> F64:
    """Least value of each block, shape (K, N), from values (T, N)."""
    return np.minimum.reduceat(values, starts, axis=0)


def means(values: F64, starts: NDArray[np.intp]) -> F64:
    """Mean of each block, shape (K, ...), from values (T, ...)."""
    counts = np.diff(np.append(starts, len(values)))
    total: F64 = np.add.reduceat(values, starts, axis=0)
    return total / counts.reshape((-1,) + (1,) * (values.ndim - 1))


def mann_kendall(values: F64) -> tuple[F64, F64]:
    """Kendall's S of each column of (K, N), and its exact one-sided p (growth); both of shape (N,).

    Ties count for nothing in S, which makes p larger than it need be. Raises ValueError for more than 60 rows, where
    the exact distribution no longer fits a double.
    """
    count = len(values)
    score = np.zeros(values.shape[1])
    for row in range(count - 1):
        score += np.sign(values[row + 1 :] - values[row]).sum(axis=0)
    tail = _kendall_tail(count)
    pairs = count * (count - 1) // 2
    # S = pairs - 2 * inversions: S at least s means at most (pairs - s) / 2 inversions.
    inversions = np.floor((pairs - score) / 2).astype(np.intp)
    return score, tail[inversions]


@lru_cache(maxsize=64)
def _kendall_tail(count: int) -> F64:
    """P(at most k inversions in a random permutation of `count`), for every k (Kendall 1975, by convolution)."""
    if count > 60:
        raise ValueError(f"The exact distribution is kept for at most 60 blocks, not {count}.")
    chances = np.ones(1)
    for size in range(2, count + 1):
        chances = np.convolve(chances, np.full(size, 1 / size))
    return np.minimum(np.cumsum(chances), 1.0)


def theil_sen(times: F64, values: F64) -> F64:
    """Median of the slopes between all pairs of rows, per column of (K, N) (Theil 1950, Sen 1968)."""
    first, second = np.triu_indices(len(times), 1)
    slopes = (values[second] - values[first]) / (times[second] - times[first])[:, None]
    median: F64 = np.median(slopes, axis=0)
    return median


def line(times: F64, values: F64) -> Trend:
    """Fits a line to each column of values (K, N) at times (K,); K is at least 4."""
    weight, centre, scale = _lines(times, values)
    freedom = len(times) - 2

    def below(at: F64) -> F64:
        chance: F64 = (weight * student_below((at - centre) / scale, freedom)).sum(axis=0)
        return chance

    low, high = _quantiles(below, (centre - 60 * scale).min(axis=0), (centre + 60 * scale).max(axis=0))
    return Trend((weight * centre).sum(axis=0), low, high, below(np.zeros(values.shape[1])))


def slope(times: F64, values: F64) -> F64:
    """Slope of `line` alone, which is cheaper."""
    weight, centre, _ = _lines(times, values)
    mean: F64 = (weight * centre).sum(axis=0)
    return mean


def _lines(times: F64, values: F64) -> tuple[F64, F64, F64]:
    """Weight, slope and its scale for each kind of noise: three arrays (len(WALK_RATIOS), N)."""
    basis = np.stack([np.ones_like(times), times - times.mean()], axis=1)
    weights, centres, scales = [], [], []
    for walk in WALK_RATIOS:
        fit = _fit(basis, walk)
        coefficients, residual = fit.apply(values)
        weights.append(fit.log_evidence(residual))
        centres.append(coefficients[1])
        scales.append(np.sqrt(residual / (len(times) - 2) * fit.inverse[1, 1]))
    return _normalised(np.stack(weights)), np.stack(centres), np.stack(scales)


def log_evidence(times: F64, values: F64, shapes: Sequence[F64]) -> F64:
    """Log of how well "a constant plus one of these shapes, in either kind of noise" explains each column; (N,).

    Each shape (K,) is scaled to a range of one, so that what is compared is the form and not the size (same prior of
    the amplitude for all). Averages over the shapes and over WALK_RATIOS; only differences between calls mean
    anything.
    """
    logs = []
    for shape in shapes:
        basis = np.stack([np.ones_like(times), shape / np.ptp(shape)], axis=1)
        for walk in WALK_RATIOS:
            fit = _fit(basis, walk)
            logs.append(fit.log_evidence(fit.apply(values)[1]))
    stacked = np.stack(logs)
    top = stacked.max(axis=0)
    total: F64 = top + np.log(np.exp(stacked - top).mean(axis=0))
    return total


def student_below(t: F64, freedom: int) -> F64:
    """P(T <= t) of Student's distribution with whole degrees of freedom (Abramowitz and Stegun 26.7.3, 26.7.4).

    The finite series is exact to about 1e-15, which is all a p value needs, and importing scipy.stats costs a second
    and 60 MB.
    """
    angle = np.arctan(np.asarray(t, dtype=float) / np.sqrt(freedom))
    square = np.cos(angle) ** 2
    if freedom % 2:
        term = np.cos(angle)
        series = np.zeros_like(angle) if freedom == 1 else term.copy()
        for k in range(2, freedom - 1, 2):
            term = term * square * (k / (k + 1))
            series = series + term
        between = 2 / np.pi * (angle + np.sin(angle) * series)
    else:
        term = np.ones_like(angle)
        series = term.copy()
        for k in range(1, freedom - 2, 2):
            term = term * square * (k / (k + 1))
            series = series + term
        between = np.sin(angle) * series
    chance: F64 = np.clip((1 + between) / 2, 0.0, 1.0)
    return chance


def by_adjusted(p: F64) -> F64:
    """p values corrected for their number and any dependence (Benjamini and Yekutieli 2001)."""
    count = len(p)
    if count == 0:
        return p
    order = np.argsort(p)
    harmonic = (1 / np.arange(1, count + 1)).sum()
    raised = p[order] * count * harmonic / np.arange(1, count + 1)
    adjusted = np.empty(count)
    adjusted[order] = np.minimum(np.minimum.accumulate(raised[::-1])[::-1], 1.0)
    return adjusted


@dataclass(frozen=True)
class _Fit:
    """Generalised least squares for one basis and one kind of noise, ready to apply to many columns."""

    whiten: F64
    orthogonal: F64
    solve: F64
    inverse: F64
    log_determinants: float

    def apply(self, values: F64) -> tuple[F64, F64]:
        """Coefficients (2, N) and whitened residual sum of squares (N,)."""
        white = self.whiten @ values
        parts = self.orthogonal.T @ white
        residual = (white**2).sum(axis=0) - (parts**2).sum(axis=0)
        # A perfect line has no residual; the floor is far below anything a sampler can show.
        return self.solve @ parts, np.maximum(residual, 1e-12 * (white**2).sum(axis=0) + 1e-300)

    def log_evidence(self, residual: F64) -> F64:
        """Marginal likelihood with flat priors, up to a constant that depends on K only."""
        return self.log_determinants - (len(self.whiten) - 2) / 2 * np.log(residual)


def _fit(basis: F64, walk: float) -> _Fit:
    count = len(basis)
    # Means of a random walk over successive blocks: its steps are a quarter correlated, which a walk read at points
    # would not show, and ignoring it makes intervals a fifth too narrow.
    random_walk = np.minimum.outer(np.arange(count), np.arange(count)) + 0.5 - np.eye(count) / 6
    covariance = random_walk if np.isinf(walk) else np.eye(count) + walk * random_walk
    root = np.linalg.cholesky(covariance)
    whiten = np.linalg.inv(root)
    orthogonal, triangle = np.linalg.qr(whiten @ basis)
    solve = np.linalg.inv(triangle)
    determinants = -np.log(np.diag(root)).sum() - np.log(np.abs(np.diag(triangle))).sum()
    return _Fit(whiten, orthogonal, solve, solve @ solve.T, float(determinants))


def _normalised(logs: F64) -> F64:
    weight = np.exp(logs - logs.max(axis=0))
    total: F64 = weight / weight.sum(axis=0)
    return total


def _quantiles(below: Callable[[F64], F64], least: F64, most: F64) -> tuple[F64, F64]:
    ends = []
    for level in (0.025, 0.975):
        low, high = least.copy(), most.copy()
        for _ in range(60):
            middle = (low + high) / 2
            under = below(middle) < level
            low, high = np.where(under, middle, low), np.where(under, high, middle)
        ends.append((low + high) / 2)
    return ends[0], ends[1]
