"""How paths read: "app.ws.HANDLERS dict -> list[18 204] -> bound method -> Session".

A path begins with the name under which a program reaches it: modules and classes are not steps but parts of that name.
Then each step says by which attribute or entry it is reached, what it is, and how long. Names come from the dump, which
holds those of attributes, types, modules and functions, and no value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .heap import (
    FRAME,
    GARBAGE,
    IMMORTAL,
    INTERPRETER,
    KEY,
    MODULE,
    NONE,
    STATIC_TYPE,
    C,
    Heap,
    Kind,
    TypeName,
)

# What people call the objects of these types.
_CALLED = {
    "method": "bound method",
    "builtin_function_or_method": "built-in function",
    "NoneType": "None",
    "async_generator": "async generator",
    "traceback": "traceback",
}
# Attributes that say no more than the types on both their sides.
_UNSAID = {"__self__", "__func__", "__dict__", "__class__", "cell_contents", "__cell_contents__"}
_MAPPINGS = {"dict", "OrderedDict", "defaultdict", "Counter", "mappingproxy"}
# Objects that are there to hold others: growth inside them is theirs.
CONTAINERS = _MAPPINGS | {"list", "tuple", "set", "frozenset", "deque", "WeakValueDictionary", "WeakKeyDictionary"}


@dataclass(frozen=True)
class Step:
    """One node of a path. label: of the edge to it, or a root's kind beyond the names; length: None without one."""

    label: int
    kind: Kind
    length: int | None


def count_text(number: int) -> str:
    """Such as "18 204"."""
    return f"{number:,}".replace(",", " ")


def object_text(type_name: TypeName, length: int | None) -> str:
    """Such as "list[18 204]", "bound method" or "Session"."""
    called = _CALLED.get(type_name.qualname, type_name.qualname)
    return called if length is None else f"{called}[{count_text(length)}]"


def step_texts(steps: Sequence[Step], names: Sequence[str], root_kind: int) -> list[str]:
    """One text for each step, "" for those that became part of the first name."""
    texts = [""] * len(steps)
    if not steps:
        return texts
    prefix, at = _head(steps, names)
    first = steps[at]
    if prefix:
        texts[at] = f"{prefix} {_what(first)}" if first.kind.root != FRAME else prefix
    else:
        texts[at] = {C: "held by C code: ", IMMORTAL: "immortal: ", GARBAGE: "garbage: "}.get(root_kind, "") + _alone(
            first
        )
    for i in range(at + 1, len(steps)):
        texts[i] = _label(steps[i], steps[i - 1], names) + _alone(steps[i])
    return texts


def _head(steps: Sequence[Step], names: Sequence[str]) -> tuple[str, int]:
    """The name with which a path begins, and the step it is the name of."""
    first = steps[0].kind
    if first.root == INTERPRETER:
        return first.name, 0
    if first.root not in (MODULE, FRAME, STATIC_TYPE) or not first.name:
        return "", 0
    prefix, at = f"{first.name}()" if first.root == FRAME else first.name, 0
    while at + 1 < len(steps) and steps[at].kind.root in (MODULE, FRAME, STATIC_TYPE):
        name = _name(steps[at + 1], names)
        if not name:
            break
        prefix += f": {name}" if steps[at].kind.root == FRAME else f".{name}"
        at += 1
    return prefix, at


def _name(step: Step, names: Sequence[str]) -> str:
    return names[step.label] if step.label < len(names) else ""


def _label(step: Step, before: Step, names: Sequence[str]) -> str:
    if step.label == KEY:
        return "key "
    name = _name(step, names)
    if not name or name in _UNSAID:
        return ""
    return (
        f'["{name}"] '
        if before.kind.type.qualname in _MAPPINGS and before.kind.root in (0, INTERPRETER)
        else f".{name} "
    )


def _what(step: Step) -> str:
    """What the thing is that has a name."""
    if step.kind.root == STATIC_TYPE:
        return "class"
    if step.kind.root == MODULE:
        return "module"
    text = object_text(step.kind.type, step.length)
    return f"{text} {step.kind.name}".rstrip() if step.kind.root == 0 else text


def _alone(step: Step) -> str:
    """What it is, and its own name if it has one."""
    return f"{_what(step)} {step.kind.name}".rstrip() if step.kind.root in (MODULE, STATIC_TYPE) else _what(step)


class Naming:
    """The same for the nodes and the owner paths of one heap."""

    def __init__(self, heap: Heap) -> None:
        self._heap = heap

    def chain(self, node: int) -> list[int]:
        """Nodes from a root to this one, without those that are part of their owner; [] when nothing leads to it.

        Of steps that lead along the same owner path again and again, as from link to link, the first, and the end.
        """
        ways, heap = self._heap.ways, self._heap
        way: list[int] = []
        at = node
        while at != heap.root:
            if at >= heap.nodes:
                return []
            way.append(at)
            at = int(ways.parents[at])
        ups = np.array(way[:0:-1], dtype=np.uint32)
        ups = ups[heap.owners[ups] == NONE]
        _, firsts = np.unique(ways.paths[ups], return_index=True)
        ups = ups[np.sort(firsts)]
        if len(ups) and ways.paths[ups[-1]] == ways.paths[node]:
            ups = ups[:-1]
        return [*ups.tolist(), node] if way else []

    def texts(self, chain: Sequence[int]) -> list[str]:
        """How each node of a chain reads in it; "" for those that are part of the first name."""
        heap = self._heap
        numbers, kinds = heap.kinds
        steps = [Step(int(heap.ways.vias[node]), kinds[numbers[node]], self.length(node)) for node in chain]
        return step_texts(steps, heap.names, int(heap.root_kinds[chain[0]]) if chain else 0)

    def texts_through(self, chain: Sequence[int], node: int) -> list[str]:
        """The same with one more step that is not on its shortest way: from the last of the chain to node."""
        heap = self._heap
        numbers, kinds = heap.kinds
        rows = [chain[-1], *np.flatnonzero(heap.owners[: heap.objects] == chain[-1]).tolist()]
        label = 0
        for row in rows:
            edges = np.arange(heap.offsets[row], heap.offsets[row + 1])
            found = edges[heap.targets[edges] == node]
            label = int(heap.labels[found[0]]) if len(found) else label
        steps = [Step(int(heap.ways.vias[each]), kinds[numbers[each]], self.length(each)) for each in chain]
        steps.append(Step(label, kinds[numbers[node]], self.length(node)))
        return step_texts(steps, heap.names, int(heap.root_kinds[chain[0]]))

    def length(self, node: int) -> int | None:
        """Entries, characters or bytes."""
        known = node < self._heap.objects and self._heap.lengths[node] >= 0
        return int(self._heap.lengths[node]) if known else None
