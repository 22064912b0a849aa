"""Snapshots say what changed; these say what was in force. Pure numpy, no I/O.

Rows of one process and epoch are numbered by the place of their snapshot in time (`at`, 0, 1, 2, …). A stack keeps
its values until a later snapshot lists it, and holds nothing after a complete snapshot that does not list it; what
it allocated is cumulative and stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...model.heap import SiteColumns, TypeColumns
from .columns import SITE, TYPE

Rows = Mapping[str, NDArray[Any]]

SERIES = ("live_bytes", "live_bytes_variance", "live_objects", "live_objects_variance", "birth_mean_ms")
SERIES_COUNTS = ("birth_minutes", "samples")


def latest(sites: Rows, types: Rows) -> tuple[SiteColumns, TypeColumns]:
    """The last row of each stack, and the types listed together with it.

    sites, types: columns of the model, and `at`. The caller leaves out what lies before the last complete snapshot.
    """
    order = np.lexsort((sites["at"], sites["stack"]))
    stacks = sites["stack"][order]
    last = np.ones(len(order), dtype=bool)
    last[:-1] = stacks[1:] != stacks[:-1]
    chosen = order[last]
    at = sites["at"][chosen]
    stacks = stacks[last]
    place = np.searchsorted(stacks, types["stack"])
    known = place < len(stacks)
    place[~known] = 0
    if len(stacks):
        known &= (stacks[place] == types["stack"]) & (at[place] == types["at"])
    return (
        SiteColumns(**{name: sites[name][chosen] for name in SITE}),
        TypeColumns(**{name: types[name][known] for name in TYPE}),
    )


def matrices(
    sites: Rows, complete: NDArray[np.bool_], keep_from: int, cells_max: int
) -> tuple[NDArray[np.uint64], NDArray[np.intp], dict[str, NDArray[Any]]]:
    """Stacks, shape (N,); the places of the K snapshots kept; and by name the values in force there, shape (K, N).

    sites: columns of the model and `at`, ordered by `at`. complete: of every snapshot, shape (T,). Kept are those from
    place keep_from on, or evenly chosen ones of them when K times N would exceed cells_max.
    """
    stacks, column = np.unique(sites["stack"], return_inverse=True)
    keep = keep_from + thinned(len(complete) - keep_from, len(stacks), cells_max)
    # Row 0 of the extended columns holds zeros; row i + 1 is row i of `sites`.
    live = _rows_in_force(sites["at"], column, len(stacks), keep, complete)
    allocated = _rows_in_force(sites["at"], column, len(stacks), keep, np.zeros_like(complete))
    series = {name: np.take(_extended(sites[name]), live) for name in (*SERIES, *SERIES_COUNTS)}
    series["alloc_bytes"] = np.take(_extended(sites["alloc_bytes"]), allocated)
    return stacks, keep, series


def thinned(times: int, stacks: int, cells_max: int) -> NDArray[np.intp]:
    """At most so many of the snapshots 0 … times - 1 that a matrix stays in bounds, evenly, with first and last."""
    points = min(times, max(2, cells_max // max(1, stacks)))
    return np.unique(np.linspace(0, times - 1, points).round().astype(np.intp))


def _rows_in_force(
    at: NDArray[np.intp], column: NDArray[np.intp], stacks: int, keep: NDArray[np.intp], resets: NDArray[np.bool_]
) -> NDArray[np.intp]:
    """For each kept snapshot and stack the number of its extended row, shape (len(keep), stacks)."""
    result = np.zeros((len(keep), stacks), dtype=np.intp)
    # Between two kept snapshots only the last word on each stack counts, so events are folded onto the next kept one.
    fold = np.searchsorted(keep, at)
    inside = fold < len(keep)
    reset_at = np.flatnonzero(resets)
    # The last reset up to each kept snapshot decides which earlier rows are void.
    before = np.searchsorted(reset_at, keep, side="right") - 1
    void_until = np.where(before >= 0, reset_at[np.maximum(before, 0)] if len(reset_at) else 0, 0)
    rows = np.arange(1, len(at) + 1)
    # Rows are in order of time, so a later one overwrites an earlier one in the same cell.
    result[fold[inside], column[inside]] = rows[inside]
    np.maximum.accumulate(result, axis=0, out=result)
    if len(reset_at):
        row_at = np.concatenate(([-1], at))
        result[row_at[result] < void_until[:, None]] = 0
    return result


def _extended(values: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate((np.zeros(1, dtype=values.dtype), values))
