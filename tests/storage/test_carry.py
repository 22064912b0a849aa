"""Carrying values forward, against the plainest possible way to do it."""

from __future__ import annotations

import numpy as np
from glassbottom_collector.storage.embedded import carry
from glassbottom_collector.storage.embedded.columns import SITE, TYPE
from hypothesis import given
from hypothesis import strategies as st

Snapshots = list[tuple[bool, dict[int, float]]]

snapshots = st.lists(
    st.tuples(st.booleans(), st.dictionaries(st.integers(1, 6), st.floats(0, 100).map(round), max_size=6)),
    min_size=1,
    max_size=15,
)


def rows(given_: Snapshots) -> dict[str, np.ndarray]:
    """Columns as the reader loads them; alloc_bytes is a hundred more than live_bytes."""
    flat = [(at, stack, value) for at, (_, live) in enumerate(given_) for stack, value in live.items()]
    columns = {name: np.array([value for _, _, value in flat], dtype=np.float64) for name in SITE}
    columns["stack"] = np.array([stack for _, stack, _ in flat], dtype=np.uint64)
    columns["alloc_bytes"] = columns["live_bytes"] + 100
    columns["at"] = np.array([at for at, _, _ in flat], dtype=np.intp)
    return columns


def plainly(given_: Snapshots) -> tuple[list[dict[int, float]], list[dict[int, float]]]:
    """Live and allocated bytes in force after each snapshot."""
    live: dict[int, float] = {}
    allocated: dict[int, float] = {}
    lives, allocations = [], []
    for complete, listed in given_:
        live = {**({} if complete else live), **listed}
        allocated = {**allocated, **{stack: value + 100 for stack, value in listed.items()}}
        lives.append(live)
        allocations.append(allocated)
    return lives, allocations


@given(snapshots, st.data())
def test_matrices_hold_what_was_in_force_at_each_kept_snapshot(given_: Snapshots, data: st.DataObject) -> None:
    complete = np.array([complete for complete, _ in given_])
    first = data.draw(st.integers(0, len(given_) - 1))
    stacks, keep, values = carry.matrices(rows(given_), complete, first, data.draw(st.integers(1, 60)))
    assert (keep[0], keep[-1]) == (first, len(given_) - 1)
    lives, allocations = plainly(given_)
    for row, place in enumerate(keep.tolist()):
        for column, stack in enumerate(stacks.tolist()):
            assert values["live_bytes"][row, column] == lives[place].get(stack, 0.0)
            assert values["alloc_bytes"][row, column] == allocations[place].get(stack, 0.0)


@given(snapshots)
def test_the_latest_state_is_the_last_row_of_the_matrices(given_: Snapshots) -> None:
    last_complete = max((at for at, (complete, _) in enumerate(given_) if complete), default=0)
    loaded = rows(given_)
    since = {name: column[loaded["at"] >= last_complete] for name, column in loaded.items()}
    none = {name: np.empty(0, dtype=np.uint64) for name in (*TYPE, "at")}
    sites, _ = carry.latest(since, none)
    lives, _ = plainly(given_[last_complete:])
    assert dict(zip(sites.stack.tolist(), sites.live_bytes.tolist(), strict=True)) == lives[-1]


@given(st.integers(1, 5_000), st.integers(0, 5_000), st.integers(1, 100_000))
def test_thinning_keeps_the_ends_and_the_bound(times: int, stacks: int, cells_max: int) -> None:
    keep = carry.thinned(times, stacks, cells_max)
    assert keep[0] == 0
    assert keep[-1] == times - 1
    assert len(keep) <= max(2, cells_max // max(1, stacks))
    assert np.all(np.diff(keep) > 0)
