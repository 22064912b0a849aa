"""What grew between two dumps of a process, by owner path.

Objects move and the order of a dump changes, but "app.ws.HANDLERS dict -> list" is the same in both. A path that holds
one list before and after, below which there are a hundred sessions more, is where they accumulate: from the roots down,
the first path whose children became more while it did not. What grew below it is told by type, and counted once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .. import _graph
from ..model.heapdump import Growth
from .heap import I64, KEY, NONE, U32, Heap
from .names import CONTAINERS, Step, step_texts

# Growth below this share of all of it is not followed, nor below a few hundred bytes.
SHARE_MIN = 0.005
BYTES_MIN = 512
TYPES_OF_A_PATH = 3


@dataclass(frozen=True)
class _Sums:
    """By path of one heap: objects, bytes, entries of containers (-1 without)."""

    objects: I64
    sizes: I64
    lengths: I64


def growth(before: Heap, after: Heap, limit: int) -> list[Growth]:
    """Most bytes first."""
    paths = _Paths(before, after)
    rows = [row for owner, parts in paths.owners() for row in paths.rows(owner, parts)]
    return sorted(rows, key=lambda row: (row.size_before - row.size_after, row.path, row.type_name))[:limit]


class _Paths:
    """The paths of both dumps as one tree: those of `after` first, then those that only `before` has."""

    def __init__(self, before: Heap, after: Heap) -> None:
        self._heaps = (after, before)
        ours, theirs = after.ways, before.ways
        count = len(ours.path_hashes)
        order = np.argsort(ours.path_hashes)
        at = np.minimum(np.searchsorted(ours.path_hashes, theirs.path_hashes, sorter=order), count - 1)
        same = ours.path_hashes[order[at]] == theirs.path_hashes
        new = np.cumsum(~same) - 1
        self._theirs = np.where(same, order[at], count + new).astype(np.int64)
        only_theirs = np.flatnonzero(~same)
        self._count = count
        self._origin = only_theirs
        self.parents: U32 = np.concatenate(
            [ours.path_parents, self._theirs[theirs.path_parents[only_theirs]].astype(np.uint32)]
        ).astype(np.uint32)
        total = len(self.parents)
        self.after = _sums(after, np.arange(count, dtype=np.int64), total)
        self.before = _sums(before, self._theirs, total)
        self.more = self.after.objects - self.before.objects
        own = self.after.sizes - self.before.sizes
        # Differences may be negative; sums of 64 bits that wrap come out right.
        order_of_all = np.arange(total, dtype=np.uint32)
        sums = _graph.sum_up(self.parents.data, order_of_all.data, own.view(np.uint64).data)
        self.growth: I64 = np.frombuffer(sums, np.int64)
        offsets, children = _graph.children(self.parents.data)
        self._offsets, self._children = np.frombuffer(offsets, np.uint32), np.frombuffer(children, np.uint32)
        self.own = own

    def children(self, path: int) -> U32:
        return self._children[self._offsets[path] : self._offsets[path + 1]]

    def owners(self) -> Iterator[tuple[int, list[int]]]:
        """(path, its children that count as part of it): from the roots down, no path below two of them."""
        rising = self.growth[self.children(0)]
        least = max(BYTES_MIN, SHARE_MIN * float(rising[rising > 0].sum()))
        pending = self.children(0)[rising >= least].tolist()
        while pending:
            path = pending.pop()
            children = self.children(path)
            is_large = self.growth[children] >= least
            large = children[is_large]
            more = self.more[large] > max(int(self.more[path]), 0)
            container = self._is_container(path)
            if container and more.any():
                yield path, children.tolist()
                continue
            grown = large[more & (self.more[large] >= 2)]
            # What it has itself, and what many small children add up to.
            rest = int(self.growth[path]) - int(self.growth[large].sum())
            if len(grown) or rest >= least:
                yield path, [*grown.tolist(), *(children[~is_large].tolist() if rest >= least else ())]
            pending.extend(np.setdiff1d(large, grown).tolist())

    def rows(self, path: int, parts: list[int]) -> Iterator[Growth]:
        """What grew below a path, by type, most first; entries are those of the path's own objects."""
        by_type: dict[str, list[int]] = {}
        pending = list(parts)
        self._add(by_type, path)
        while pending:
            below = pending.pop()
            self._add(by_type, below)
            pending.extend(self.children(below).tolist())
        text = self.text(path)
        before, after = int(self.before.lengths[path]), int(self.after.lengths[path])
        most = sorted(by_type.items(), key=lambda item: item[1][2] - item[1][3])
        for name, (objects_before, objects_after, size_before, size_after) in most[:TYPES_OF_A_PATH]:
            if size_after <= size_before:
                continue
            yield Growth(
                path=text,
                type_name=name,
                objects_before=objects_before,
                objects_after=objects_after,
                size_before=size_before,
                size_after=size_after,
                length_before=before if before >= 0 else None,
                length_after=after if after >= 0 else None,
            )

    def text(self, path: int) -> str:
        """How it reads; lengths are left out, as they differ."""
        steps: list[Step] = []
        root_kind, names = 0, self._heaps[0].names
        while path:
            heap, own = self._at(path)
            names = heap.names
            label = int(heap.ways.path_labels[own])
            root_kind = label - len(names) if label != KEY else 0
            steps.append(Step(label, heap.kinds[1][int(heap.ways.path_kinds[own])], None))
            path = int(self.parents[path])
        return " -> ".join(text for text in step_texts(steps[::-1], names, max(root_kind, 0)) if text)

    def _at(self, path: int) -> tuple[Heap, int]:
        if path < self._count:
            return self._heaps[0], path
        return self._heaps[1], int(self._origin[path - self._count])

    def _is_container(self, path: int) -> bool:
        if not path:
            return False
        heap, own = self._at(path)
        return heap.kinds[1][int(heap.ways.path_kinds[own])].type.qualname in CONTAINERS

    def _add(self, by_type: dict[str, list[int]], path: int) -> None:
        heap, own = self._at(path)
        sums = by_type.setdefault(heap.kinds[1][int(heap.ways.path_kinds[own])].type.full, [0, 0, 0, 0])
        counts = (self.before.objects, self.after.objects, self.before.sizes, self.after.sizes)
        for i, each in enumerate(counts):
            sums[i] += int(each[path])


def _sums(heap: Heap, numbers: I64, total: int) -> _Sums:
    """Sums by path, in the numbers of the tree of both."""
    paths = heap.ways.paths[: heap.objects]
    seen = heap.is_visible & (paths != NONE)
    at = numbers[paths[seen]]
    lengths = heap.lengths[seen]
    objects = np.bincount(at, minlength=total).astype(np.int64)
    sizes = _whole(np.bincount(at, weights=heap.sizes[: heap.objects][seen], minlength=total))
    has_length = np.bincount(at[lengths >= 0], minlength=total) > 0
    entries = _whole(np.bincount(at[lengths >= 0], weights=lengths[lengths >= 0], minlength=total))
    return _Sums(objects, sizes, np.where(has_length, entries, -1))


def _whole(sums: NDArray[np.float64]) -> I64:
    """What a damaged file says may be more than 64 bits hold."""
    return np.minimum(sums, 2.0**62).astype(np.int64)
