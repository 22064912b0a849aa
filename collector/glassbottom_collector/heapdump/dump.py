"""One loaded heap dump, and the questions it answers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from ..errors import HeapDumpError
from ..model.heapdump import Growth, HeapObject, HeapSummary, HolderPath, Suspect, TypeTotal
from .growth import growth
from .heap import FRAME, NONE, REASONS, U32, Heap, read
from .names import Naming
from .suspects import Finder

# So many of those that lead the same way are looked at to say which way that is.
MEMBERS_LOOKED_AT = 10_000
STEPS_MAX = 64


def load(path: Path) -> HeapDump:
    """Reads a dump and finds who dominates what. A file cut short is read as far as it goes; summary() says so.

    Raises HeapDumpError if the file is not a heap dump, is of a later version, or contradicts itself.
    """
    return HeapDump(read(path))


class HeapDump:
    """A heap as it was at one moment. See load()."""

    def __init__(self, heap: Heap) -> None:
        self.heap = heap
        self.naming = Naming(heap)

    def summary(self) -> HeapSummary:
        """The dump as a whole."""
        heap, info = self.heap, self.heap.info
        reason = "" if heap.end else "the file was cut short"
        if heap.end and heap.end[2]:
            reason = REASONS.get(heap.end[2], f"it ended early, for reason {heap.end[2]}")
        return HeapSummary(
            service=str(info.get("service", "")),
            instance_id=str(info.get("instance_id", "")),
            at_ns=_whole(info.get("at_ns")),
            python_version=str(info.get("python", "")),
            objects=heap.objects,
            references=int(heap.offsets[heap.objects]),
            size=heap.size,
            types=len(heap.type_names),
            pause_ns=_whole(info.get("pause_ns")),
            complete=not reason,
            reason=reason,
        )

    def largest(self, limit: int = 20, type_name: str | None = None) -> list[HeapObject]:
        """Objects (of one type) that retain most, most first. Of all: a chain of links is there once, as its first."""
        heap, paths = self.heap, self.heap.ways.paths
        if type_name is None:
            chosen = heap.is_visible & (paths[: heap.objects] != paths[heap.idoms[: heap.objects]])
        else:
            chosen = heap.is_visible & self._is_type(type_name)
        nodes = np.flatnonzero(chosen).astype(np.uint32)
        return [self.object(int(node)) for node in self._most_retained(nodes, limit)]

    def types(self, limit: int = 30) -> list[TypeTotal]:
        """Types whose objects retain most, most first."""
        return self._totals(self.heap.types, [each.full for each in self.heap.type_names], limit)

    def modules(self, limit: int = 30) -> list[TypeTotal]:
        """The same, by the module that defines the type."""
        numbers: dict[str, int] = {}
        of_type = [numbers.setdefault(each.module, len(numbers)) for each in self.heap.type_names]
        return self._totals(np.array(of_type, np.uint32)[self.heap.types], list(numbers), limit)

    def paths(self, *, type_name: str | None = None, address: int | None = None, limit: int = 5) -> list[HolderPath]:
        """From roots to the objects of a type, merged where they lead the same way, or to one object.

        Most objects first; to one object the shortest first, then those through others that refer to it. Raises
        HeapDumpError when the dump has no such type or object.
        """
        if address is not None:
            return list(self._ways_to(self._node(address), limit))
        found = self.holders(type_name or "", limit)
        if not found:
            raise HeapDumpError(f"The dump has no object of type {type_name}. Ask for its types to see what it has.")
        return found

    def children(self, address: int, limit: int | None = None) -> list[HeapObject]:
        """What an object alone keeps alive: those below it in the dominator tree, largest retained first.

        address 0 stands for the whole heap: what no other object dominates. Raises HeapDumpError when the dump has no
        such object.
        """
        below = self._below(address)
        return [self.object(int(node)) for node in self._most_retained(below, len(below) if limit is None else limit)]

    def children_count(self, address: int) -> int:
        """How many children() would be without a limit. Raises HeapDumpError when the dump has no such object."""
        return len(self._below(address))

    def at(self, address: int) -> HeapObject:
        """The object there. Raises HeapDumpError when the dump has none."""
        return self.object(self._node(address))

    def suspects(self) -> list[Suspect]:
        """What retains a large part of the heap, by the rules of Eclipse MAT, largest first."""
        return Finder(self.heap, self.naming, self.object, self.path_to).suspects()

    def holders(self, type_name: str, limit: int = 5) -> list[HolderPath]:
        """Who holds the objects of a type; empty when the dump has none. type_name: full, or the class alone."""
        heap = self.heap
        members = np.flatnonzero(heap.is_visible & self._is_type(type_name)).astype(np.uint32)
        if not len(members):
            return []
        paths, counts = np.unique(heap.ways.paths[members], return_counts=True)
        most = paths[np.argsort(-counts, kind="stable")][:limit]
        together = [members[heap.ways.paths[members] == path] for path in most]
        # What each of them retains, in one pass over the tree.
        groups = np.full(heap.nodes, NONE, dtype=np.uint32)
        for number, nodes in enumerate(together):
            groups[nodes] = number
        retained = heap.retained_by(groups, len(together)).tolist()
        found = [
            self.path_to(self.typical(nodes), len(nodes), whole)
            for nodes, whole in zip(together, retained, strict=True)
        ]
        return [each for each in found if each is not None]

    # ---- what the parts of the analysis share --------------------------------------------------------------------

    def object(self, node: int, text: str | None = None) -> HeapObject:
        """A node as an object; text: how it reads in the path it is shown in, by default its own."""
        heap = self.heap
        if text is None:
            chain = self.naming.chain(node)
            text = (self.naming.texts(chain) or [""])[-1]
        return HeapObject(
            address=int(heap.addresses[node]),
            type_name=heap.type_names[heap.types[node]].full,
            size=int(heap.sizes[node]),
            retained=int(heap.retained[node]),
            length=self.naming.length(node),
            text=text,
        )

    def path_to(self, node: int, objects: int = 1, retained: int | None = None) -> HolderPath | None:
        """The way from a root to a node; None when it is a root that is no object."""
        return self._path(self.naming.chain(node), objects, retained)

    def typical(self, members: U32) -> int:
        """One of nodes that share an owner path: where their ways part, it went with most."""
        heap = self.heap
        looked_at = members[:: max(1, len(members) // MEMBERS_LOOKED_AT)]
        levels = [looked_at]
        while len(levels) < STEPS_MAX and not (levels[-1] == heap.root).all():
            last = levels[-1]
            levels.append(np.where(last == heap.root, last, heap.ways.parents[last]))
        left = np.ones(len(looked_at), dtype=bool)
        for level in reversed(levels):
            nodes, counts = np.unique(level[left], return_counts=True)
            left &= level == nodes[np.argmax(counts)]
        return int(looked_at[np.argmax(left)])

    # ---- within --------------------------------------------------------------------------------------------------

    def _path(self, chain: list[int], objects: int, retained: int | None) -> HolderPath | None:
        if not chain:
            return None
        heap = self.heap
        steps = tuple(
            self.object(node, text)
            for node, text in zip(chain, self.naming.texts(chain), strict=True)
            if text and node < heap.objects
        )
        whole = int(heap.retained[chain[-1]]) if retained is None else retained
        return HolderPath(root=self._root_text(chain[0]), steps=steps, objects=objects, retained=whole)

    def _root_text(self, node: int) -> str:
        heap = self.heap
        numbers, kinds = heap.kinds
        kind = kinds[numbers[node]]
        if heap.root_kinds[node] == FRAME:
            thread, function, file, line = heap.frames[node - heap.objects]
            return f"thread {thread} in {function} ({file}:{line})"
        names = ("", "module", "frame", "interpreter", "class", "thread", "other root", "C code", "immortal", "garbage")
        return f"{names[heap.root_kinds[node]]} {kind.name if kind.root else ''}".rstrip()

    def _ways_to(self, node: int, limit: int) -> Iterator[HolderPath]:
        """Through its parent on the shortest way first, then through every other object that refers to it."""
        chain = self.naming.chain(node)
        first = self._path(chain, 1, None)
        if first is not None and limit > 0:
            yield first
            limit -= 1
        shown = {int(self.heap.ways.parents[node])}
        for referrer in self.heap.referrers(node):
            if limit <= 0:
                return
            before = self.naming.chain(int(referrer))
            if int(referrer) in shown or not before or node in before:
                continue
            texts = self.naming.texts_through(before, node)
            steps = [
                self.object(each, text)
                for each, text in zip([*before, node], texts, strict=True)
                if text and each < self.heap.objects
            ]
            yield HolderPath(self._root_text(before[0]), tuple(steps), 1, int(self.heap.retained[node]))
            limit -= 1

    @cached_property
    def _type_numbers(self) -> dict[str, list[int]]:
        """Types by their full name and by the class alone."""
        numbers: dict[str, list[int]] = {}
        for number, each in enumerate(self.heap.type_names):
            for name in {each.full, each.qualname, f"{each.module}.{each.qualname}"}:
                numbers.setdefault(name, []).append(number)
        return numbers

    def _is_type(self, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        chosen = np.zeros(max(1, len(self.heap.type_names)), dtype=bool)
        chosen[self._type_numbers.get(name, [])] = True
        return np.asarray(chosen[self.heap.types])

    def _below(self, address: int) -> U32:
        heap = self.heap
        if address:
            return heap.visible(heap.below(self._node(address)))
        # A frame and what garbage hangs from are no objects: what is below them stands in their place.
        direct = heap.below(heap.root)
        others = direct[direct >= heap.objects]
        return heap.visible(np.concatenate([direct, *(heap.below(int(node)) for node in others)]))

    def _node(self, address: int) -> int:
        node = self.heap.find(address)
        if node is None:
            raise HeapDumpError(f"The dump has no object at {address:#x}. Addresses are those of one dump only.")
        return node

    def _most_retained(self, nodes: U32, limit: int) -> U32:
        """Ties by address, so that an answer is the same every time."""
        heap = self.heap
        if 0 < limit < len(nodes):
            least = np.partition(heap.retained[nodes], len(nodes) - limit)[len(nodes) - limit]
            nodes = nodes[heap.retained[nodes] >= least]
        order = np.lexsort((heap.addresses[nodes], -heap.retained[nodes].astype(np.int64)))
        return nodes[order][: max(limit, 0)]

    def _totals(self, groups: U32, names: list[str], limit: int) -> list[TypeTotal]:
        heap = self.heap
        visible = heap.is_visible
        by_node = np.full(heap.nodes, NONE, dtype=np.uint32)
        by_node[: heap.objects] = np.where(visible, groups, NONE)
        retained = heap.retained_by(by_node, len(names))
        objects = np.bincount(groups[visible], minlength=len(names))
        sizes = np.bincount(groups[visible], weights=heap.sizes[: heap.objects][visible], minlength=len(names))
        order = sorted(range(len(names)), key=lambda i: (-int(retained[i]), -sizes[i], names[i]))
        return [
            TypeTotal(names[i], int(objects[i]), int(sizes[i]), int(retained[i])) for i in order[:limit] if objects[i]
        ]


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


def diff(before: HeapDump, after: HeapDump, limit: int = 30) -> list[Growth]:
    """What grew between two dumps of one process, by owner path, most bytes first."""
    return growth(before.heap, after.heap, limit)
