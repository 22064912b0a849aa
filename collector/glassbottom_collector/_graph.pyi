"""Arithmetic over the objects of a heap, in C, without the GIL. Arrays are bytes: `numpy.frombuffer` reads them.

Nodes and edges are as native/graph.h says: those of node v are targets[offsets[v]:offsets[v + 1]], 32 bits each;
2**32 - 1 stands for "none". Arrays that do not fit together raise ValueError.
"""

from typing import Any, TypeAlias

Array: TypeAlias = bytes | memoryview[Any]

def parse(file: bytes | memoryview[Any], /) -> dict[str, Any]:
    """A heap dump as arrays and lists.

    Arrays, by node: addresses, sizes (64 bits; of objects only), lengths (64 bits signed, -1 without), types, flags
    (8), root_kinds (8, enum gh_root), owners (the object whose __dict__ this is), offsets; by edge: targets, labels.
    called: (object, name) by turns, called_count pairs: whose generator or coroutine it is.
    Lists: names (texts; 0 is none), type_names ((address, tp_flags, module, qualname)), modules ((node, name)), frames
    ((thread, function, file, line)), roots ((node, text)), info and end (at most one each). Numbers: nodes (objects
    only), edges, repeated (objects written again), missing (references to what is not in the file).
    cut_short: it has no end record.

    Raises ValueError where the file contradicts itself; the message names the place.
    """

def dominators(offsets: Array, targets: Array, root: int, garbage: int, /) -> tuple[bytes, bytes]:
    """(immediate dominator of each node, nodes in an order in which it comes first).

    garbage: a node without edges below which everything is put that root does not reach, or 2**32 - 1 for none.
    """

def sum_up(parent: Array, order: Array, values: Array, /) -> bytes:
    """Of a tree: the sum of values (64 bits) at and below each node."""

def children(parent: Array, /) -> tuple[bytes, bytes]:
    """A tree as a graph: (offsets, children)."""

def retained_by_group(
    offsets: Array, children: Array, root: int, groups: Array, count: int, retained: Array, /
) -> bytes:
    """What the nodes of each group (32 bits a node, from 0 to count - 1) retain together, nothing counted twice."""

def owner_paths(
    offsets: Array,
    targets: Array,
    labels: Array,
    root_kinds: Array,
    owners: Array,
    kinds: Array,
    label_hashes: Array,
    kind_hashes: Array,
    paths_max: int,
    /,
) -> tuple[bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes, int]:
    """How one comes from roots to every node, shortest first, and which nodes are reached in the same way.

    By node: (parents, labels of the edges from them, paths, nodes in the order they were reached); by path: (parents,
    labels, kinds, hashes); how many steps had to share a path because there were paths_max. See native/graph_paths.c.
    """
