"""A heap dump as arrays: read, its dominator tree, and the ways from roots to every object.

What takes long is C and does not hold the GIL; what not every question needs is computed when first asked for. Nodes
are numbered as native/graph.h says: objects, frames, then `root` and `garbage`.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _graph
from ..errors import HeapDumpError

U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]

NONE = 2**32 - 1
KEY = NONE  # the label of an edge to a dictionary's key
MODULE, FRAME, INTERPRETER, STATIC_TYPE, THREAD_STATE, OTHER, C, IMMORTAL, GARBAGE = range(1, 10)
ROOT_KINDS = 10
KEYS_AND_VALUES = 8  # of the flags of an object
REASONS = {1: "it reached its limit of bytes", 2: "it reached its limit of time", 3: "too many objects were unreadable"}
# Names such as a process has in its source; a heap with a longer table of paths lets the rest share those there are.
PATHS_MAX = 1_000_000
_LIBRARY = 1 << 63
_TYPE_SUBCLASS = 1 << 31  # of tp_flags: its objects are classes


@dataclass(frozen=True)
class TypeName:
    """A type as the dump names it. full: with its module unless that is builtins."""

    module: str
    qualname: str

    @property
    def full(self) -> str:
        """Such as "app.ws.Session", or "dict"."""
        return self.qualname if self.module in ("builtins", "") else f"{self.module}.{self.qualname}"


@dataclass(frozen=True)
class Kind:
    """What a path calls a node: an object by its type, a coroutine by that and its function, a class, module, frame or
    root by its own name."""

    root: int  # NO_ROOT (0) for an object or a class, else MODULE, FRAME or INTERPRETER
    name: str
    type: TypeName


@dataclass(frozen=True)
class OwnerPaths:
    """The ways from roots to everything, shortest first, and the table of those that read the same.

    parents, vias (labels), paths, order: by node. The rest by path; path 0 is that of root, and parents come first.
    """

    parents: U32
    vias: U32
    paths: U32
    order: U32
    path_parents: U32
    path_labels: U32
    path_kinds: U32
    path_hashes: U64
    merged: int


class Heap:
    """The arrays. Sizes and retained sizes are bytes; both are 0 for what belongs to an owner."""

    def __init__(self, parsed: dict[str, Any]) -> None:
        self.objects: int = parsed["nodes"]
        self.modules: list[tuple[int, str]] = parsed["modules"]
        self.frames: list[tuple[int, str, str, int]] = parsed["frames"]
        self.roots: list[tuple[int, str]] = parsed["roots"]
        self.names: list[str] = parsed["names"]
        self.type_names = [TypeName(module, qualname) for _, _, module, qualname in parsed["type_names"]]
        self.type_flags: U64 = np.array([flags for _, flags, _, _ in parsed["type_names"]], dtype=np.uint64)
        self.type_addresses = np.array([address for address, _, _, _ in parsed["type_names"]], dtype=np.uint64)
        called = np.frombuffer(parsed["called"], np.uint32)[: 2 * parsed["called_count"]].reshape(-1, 2)
        self.called: tuple[U32, U32] = called[:, 0], called[:, 1]
        self.info = _info(parsed["info"])
        self.end: tuple[int, int, int, int] | None = next(iter(parsed["end"]), None)
        self.repeated: int = parsed["repeated"]
        self.missing: int = parsed["missing"]
        self.root = self.objects + len(self.frames)
        self.garbage = self.root + 1
        self.nodes = self.root + 2
        self.addresses: U64 = np.frombuffer(parsed["addresses"], np.uint64)[: self.objects]
        self.lengths: I64 = np.frombuffer(parsed["lengths"], np.int64)[: self.objects]
        self.flags: U8 = np.frombuffer(parsed["flags"], np.uint8)[: self.objects]
        self.types: U32 = np.frombuffer(parsed["types"], np.uint32)[: self.objects]
        self.root_kinds: U8 = np.frombuffer(parsed["root_kinds"], np.uint8).copy()
        self.owners: U32 = np.frombuffer(parsed["owners"], np.uint32)
        self.offsets: U32 = np.frombuffer(parsed["offsets"], np.uint32)
        self.edges: int = parsed["edges"]
        # Slices of bytes would be copies; these are views.
        self.targets: U32 = np.frombuffer(parsed["targets"], np.uint32)[: self.edges]
        self.labels: U32 = np.frombuffer(parsed["labels"], np.uint32)[: self.edges]
        self.sizes: U64 = np.zeros(self.nodes, np.uint64)
        self.sizes[: self.objects] = np.frombuffer(parsed["sizes"], np.uint64)[: self.objects]
        idoms, order = _graph.dominators(self.offsets.data, self.targets.data, self.root, self.garbage)
        self.idoms: U32 = np.frombuffer(idoms, np.uint32)
        self.retained: U64 = np.frombuffer(_graph.sum_up(idoms, order, self.sizes.data), np.uint64)
        self.root_kinds[: self.root][self.idoms[: self.root] == self.garbage] = GARBAGE

    @property
    def size(self) -> int:
        """Bytes of all objects, garbage included."""
        return int(self.retained[self.root])

    def visible(self, nodes: U32) -> U32:
        """Those that are objects of their own: no frames, no dictionaries that are part of their owner."""
        return np.asarray(nodes[(nodes < self.objects) & (self.owners[nodes] == NONE)])

    @cached_property
    def is_visible(self) -> NDArray[np.bool_]:
        """By object: whether it is one of its own."""
        return np.asarray(self.owners[: self.objects] == NONE)

    @cached_property
    def tree(self) -> tuple[U32, U32]:
        """The dominator tree downwards: (offsets, children)."""
        offsets, children = _graph.children(self.idoms.data)
        return np.frombuffer(offsets, np.uint32), np.frombuffer(children, np.uint32)

    def below(self, node: int) -> U32:
        """Its children in the dominator tree; those of a dictionary that is part of it are its own."""
        offsets, children = self.tree
        direct = children[offsets[node] : offsets[node + 1]]
        parts = direct[self.owners[direct] != NONE]
        if not len(parts):
            return direct
        return np.concatenate([direct[self.owners[direct] == NONE], *(self.below(int(part)) for part in parts)])

    def retained_by(self, groups: U32, count: int) -> U64:
        """What the nodes of each group retain together; groups: a number below count or NONE, by node."""
        offsets, children = self.tree
        totals = _graph.retained_by_group(
            offsets.data, children.data, self.root, groups.data, count, self.retained.data
        )
        return np.frombuffer(totals, np.uint64)

    @cached_property
    def kinds(self) -> tuple[U32, list[Kind]]:
        """What paths call nodes: (number of the kind by node, kinds)."""
        nothing = TypeName("", "")
        types = self.type_names or [nothing]
        count = len(types)
        # Objects, classes that have objects and therefore a name here, and classes by what their class is.
        kinds = [Kind(0, "", each) for each in types]
        kinds += [Kind(STATIC_TYPE, each.full, TypeName("", "type")) for each in types]
        kinds += [Kind(STATIC_TYPE, "", each) for each in types]
        numbers = np.zeros(self.nodes, np.uint32)
        numbers[: self.objects] = self.types
        if self.type_names:
            made_of_classes = self.type_flags & np.uint64(_TYPE_SUBCLASS) != 0
            numbers[: self.objects] += np.where(made_of_classes[self.types], 2 * count, 0).astype(np.uint32)
            order = np.argsort(self.type_addresses)
            at = np.searchsorted(self.type_addresses, self.addresses, sorter=order)
            candidates = order[np.minimum(at, len(order) - 1)]
            classes = self.type_addresses[candidates] == self.addresses
            numbers[: self.objects][classes] = count + candidates[classes]
        numbers[self.called[0]] = self._called_kinds(kinds, types)
        for node, text in self.roots:
            if numbers[node] < count and text:
                kinds.append(Kind(INTERPRETER, text, types[self.types[node]]))
                numbers[node] = len(kinds) - 1
        for node, name in self.modules:
            kinds.append(Kind(MODULE, name, types[self.types[node]]))
            numbers[node] = len(kinds) - 1
        for at_frame, (_, function, file, _) in enumerate(self.frames):
            kinds.append(Kind(FRAME, function, TypeName(file, "frame")))
            numbers[self.objects + at_frame] = len(kinds) - 1
        return numbers, kinds

    def _called_kinds(self, kinds: list[Kind], types: list[TypeName]) -> U32:
        """Adds a kind for each type and function that generators and coroutines have; its number for each of these."""
        nodes, names = self.called
        both = self.types[nodes].astype(np.uint64) << np.uint64(32) | names
        found, at = np.unique(both, return_inverse=True)
        first = len(kinds)
        kinds += [Kind(0, self.names[int(each) & NONE], types[int(each) >> 32]) for each in found]
        return np.asarray(first + at.reshape(-1), dtype=np.uint32)

    @cached_property
    def ways(self) -> OwnerPaths:
        """How one comes from roots to every node."""
        numbers, kinds = self.kinds
        label_hashes = _hashes([*self.names, *(f"root {kind}" for kind in range(ROOT_KINDS))])
        kind_hashes = _hashes(f"{each.root} {each.name} {each.type.full}" for each in kinds)
        library = [
            each.root == MODULE and each.name.partition(".")[0] in sys.stdlib_module_names and each.name != "__main__"
            for each in kinds
        ]
        kind_hashes = np.where(library, kind_hashes | np.uint64(_LIBRARY), kind_hashes & np.uint64(_LIBRARY - 1))
        arrays = _graph.owner_paths(
            self.offsets.data,
            self.targets.data,
            self.labels.data,
            self.root_kinds.data,
            self.owners.data,
            numbers.data,
            label_hashes.data,
            kind_hashes.data,
            min(PATHS_MAX, self.nodes + 2),
        )
        u32 = [np.frombuffer(array, np.uint32) for array in arrays[:7]]
        parents, vias, paths, order, path_parents, path_labels, path_kinds = u32
        hashes = np.frombuffer(arrays[7], np.uint64)
        return OwnerPaths(parents, vias, paths, order, path_parents, path_labels, path_kinds, hashes, arrays[8])

    def find(self, address: int) -> int | None:
        """The node of the object at an address."""
        if not 0 <= address < 2**64:
            return None
        found = np.flatnonzero(self.addresses == np.uint64(address))
        return int(found[0]) if len(found) else None

    def referrers(self, node: int) -> U32:
        """Nodes with a reference to it, ascending, each once."""
        edges = np.flatnonzero(self.targets == node)
        return np.unique(np.searchsorted(self.offsets, edges, side="right") - 1).astype(np.uint32)


def read(path: Path) -> Heap:
    """Raises HeapDumpError when the file cannot be read as a heap dump."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            parsed = _graph.parse(memoryview(mapped))
    except OSError as error:
        raise HeapDumpError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        reason = "it is empty" if "empty file" in str(error) else str(error)
        raise HeapDumpError(f"{path} is not a heap dump that can be read: {reason}. Take another dump.") from error
    return Heap(parsed)


def _info(records: list[bytes]) -> dict[str, Any]:
    try:
        found = json.loads(records[0]) if records else {}
    except ValueError:
        found = {}
    if not isinstance(found, dict):
        return {}
    if found.get("format", 1) != 1:
        raise HeapDumpError(
            f"The dump has format {found['format']}, and this version reads format 1. Install a later glassbottom."
        )
    return found


def _hashes(texts: Iterable[str]) -> U64:
    """64 bits of each text, the same in every process."""
    digests = (hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest() for text in texts)
    return np.frombuffer(b"".join(digests), np.uint64)
