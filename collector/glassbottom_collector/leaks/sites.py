"""From call paths to allocation sites: the places a person can go and look at.

A site is the line that allocates. When that line belongs to the standard library or to an installed package, the
nearest line of the application that led there belongs to the site too: `json/decoder.py:353` called from a cache
that leaks and from one that does not are two sites, or the innocent one would hide the other.

No I/O: definitions are given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..model.code import Frame, Stack
from ..model.heap import F64, U64
from ..model.places import is_application

UNKNOWN = Frame("<unknown>", "<unknown>", 0)
# So many numbers are moved at a time: 32 MB.
MOVED_MAX = 4_000_000


@dataclass(frozen=True)
class Site:
    """frame: the line that allocates. application_frame: the nearest line of the application, when that is another
    one; None when `frame` is the application's own or none is known."""

    frame: Frame
    application_frame: Frame | None


class SiteMap:
    """Which site each call path belongs to; learns as call paths turn up, and never reorders."""

    def __init__(self) -> None:
        self.sites: list[Site] = []
        self._positions: dict[Site, int] = {}
        self._site_of: dict[int, int] = {}
        self._foreign: dict[int, bool] = {}
        self._labels: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.sites)

    def unknown(self, stacks: U64) -> list[int]:
        """Those of the call paths that learn() has not been told of."""
        return [stack for stack in stacks.tolist() if stack not in self._site_of]

    def learn(self, stacks: Iterable[int], known: Mapping[int, Stack], frames: Mapping[int, Frame]) -> None:
        """Finds the site of each call path; those without a definition share one named <unknown>."""
        for stack in stacks:
            site = _site_of(known.get(stack), frames, self._foreign)
            position = self._positions.setdefault(site, len(self.sites))
            if position == len(self.sites):
                self.sites.append(site)
            self._site_of[stack] = position
            if stack in known and known[stack].label:
                self._labels[stack] = known[stack].label

    def label(self, stack: int) -> str:
        """The route that was served when the call path allocated; empty when none is known."""
        return self._labels.get(stack, "")

    def site(self, stack: int) -> int:
        """Site of a call path that has been learned."""
        return self._site_of[stack]

    def columns(self, stacks: U64) -> NDArray[np.intp]:
        """Site of each of these call paths, all of which have been learned."""
        return np.fromiter((self._site_of[stack] for stack in stacks.tolist()), dtype=np.intp, count=len(stacks))


@dataclass(frozen=True)
class Grouping:
    """Which columns of one series are summed into which of `count` groups: the k-th term of a sum is the series' column
    `rows[k]` (its k-th, when None), and goes to group `columns[k]`. A column may be in several groups or in none."""

    columns: NDArray[np.intp]
    count: int
    rows: NDArray[np.intp] | None = None

    def sums(self, values: F64) -> F64:
        """Sums columns of values (..., n) by group: (..., count)."""
        result: F64 = np.zeros((*values.shape[:-1], self.count))
        if not len(self.columns):
            return result
        order = np.argsort(self.columns, kind="stable")
        present, starts = np.unique(self.columns[order], return_index=True)
        taken = order if self.rows is None else self.rows[order]
        if values.ndim > 1 and len(values) > 1 and values.size * len(taken) > MOVED_MAX * values.shape[-1]:
            for row in range(len(values)):
                result[row] = self.sums(values[row])
            return result
        moved = values[..., taken]
        whole = len(present) == len(order)
        result[..., present] = moved if whole else np.add.reduceat(moved, starts, axis=-1)
        return result

    def greatest(self, values: F64) -> F64:
        """Greatest value (n,) of each group, 0 where it has none: (count,)."""
        most: F64 = np.zeros(self.count)
        np.maximum.at(most, self.columns, values if self.rows is None else values[self.rows])
        return most


def _site_of(stack: Stack | None, frames: Mapping[int, Frame], foreign: dict[int, bool]) -> Site:
    if stack is None or not stack.frames:
        return Site(UNKNOWN, None)
    innermost = frames.get(stack.frames[0], UNKNOWN)
    for depth, identity in enumerate(stack.frames):
        if identity not in foreign:
            frame = frames.get(identity)
            foreign[identity] = frame is None or not is_application(frame)
        if not foreign[identity]:
            return Site(innermost, None if depth == 0 else frames[identity])
    return Site(innermost, None)
