"""What retains a large part of the heap, by the rules of Eclipse MAT (FindLeaksQuery), and where it accumulates.

* One object that nothing but roots holds, and that retains a fifth of the heap.
* Many such objects of one type that do so together.
* Garbage that waits for a collection, which Java's tool leaves out.

Where it accumulates: down the dominator tree from the object to its largest child, until none of the children retains
most of what their parent does. For many objects: down the ways from roots, as long as one holds most of them.

Classes, functions, modules and what is immortal are the program itself: together they are never a suspect.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..leaks.wording import bytes_text, percent_text
from ..model.heapdump import HeapObject, HolderPath, Suspect
from .heap import IMMORTAL, U32, Heap
from .names import Naming, count_text

SHARE_MIN = 0.2
DROP_RATIO = 0.7
MEMBERS_SHARE_MIN = 0.8
MEMBERS_MAX = 10_000
DEPTH_MAX = 1000
LARGEST_TOLD = 3
PROGRAM = {"type", "ABCMeta", "EnumType", "EnumMeta", "function", "code", "module", "builtin_function_or_method"} | {
    "wrapper_descriptor",
    "method_descriptor",
    "getset_descriptor",
    "member_descriptor",
    "classmethod_descriptor",
    "staticmethod",
    "classmethod",
    "property",
    "ModuleSpec",
    "SourceFileLoader",
    "ExtensionFileLoader",
}


# What is there for one other object; an example's is told with it.
WRAPPERS = {"method", "cell", "tuple", "partial", "weakref", "list_iterator", "coroutine_wrapper", "Context", "Handle"}


class Finder:
    """Looks for suspects in one heap. object_of, path_to: how a node is shown."""

    def __init__(
        self,
        heap: Heap,
        naming: Naming,
        object_of: Callable[[int], HeapObject],
        path_to: Callable[..., HolderPath | None],
    ) -> None:
        self._heap = heap
        self._naming = naming
        self._object_of = object_of
        self._path_to = path_to

    def suspects(self) -> list[Suspect]:
        """All, largest first."""
        heap = self._heap
        if not heap.size:
            return []
        top = heap.below(heap.root)
        garbage = self._garbage() if heap.retained[heap.garbage] >= SHARE_MIN * heap.size else []
        top = top[top != heap.garbage]
        large = heap.retained[top] >= SHARE_MIN * heap.size
        found = [self._single(int(node)) for node in top[large]]
        found += self._groups(top[~large])
        return sorted(found + garbage, key=lambda suspect: -suspect.retained)

    def _single(self, node: int) -> Suspect:
        heap = self._heap
        point = self._accumulation(node)
        retained, share = int(heap.retained[node]), float(heap.retained[node]) / heap.size
        shown = point if point < heap.objects else None
        path = self._path_to(point)
        what = self._object_of(point) if shown is not None else None
        below = heap.visible(heap.below(point))
        type_name = what.type_name if what is not None else "frame"
        inside = self._inside(below)
        sentence = f"{path or type_name} retains {self._amount(int(heap.retained[point]))}"
        sentence += f": {inside}." if inside else "."
        return Suspect(sentence, type_name, 1, retained, share, what, path)

    def _groups(self, top: U32) -> list[Suspect]:
        heap = self._heap
        top = heap.visible(top)
        top = top[heap.root_kinds[top] != IMMORTAL]
        types, members_of = np.unique(heap.types[top], return_inverse=True)
        retained = np.bincount(members_of, weights=heap.retained[top], minlength=len(types))
        found = []
        for i in np.flatnonzero(retained >= SHARE_MIN * heap.size):
            type_name = heap.type_names[types[i]]
            if type_name.qualname in PROGRAM:
                continue
            members = top[members_of == i]
            point = self._common_holder(members)
            what = self._object_of(point) if point is not None else None
            path = self._path_to(point, len(members), int(retained[i])) if point is not None else None
            where = f", most of them held by {path}" if path is not None else ""
            amount = self._amount(int(retained[i]))
            sentence = f"{count_text(len(members))} objects of {type_name.full} retain {amount}{where}."
            share = float(retained[i]) / heap.size
            found.append(Suspect(sentence, type_name.full, len(members), int(retained[i]), share, what, path))
        return found

    def _garbage(self) -> list[Suspect]:
        heap = self._heap
        retained = int(heap.retained[heap.garbage])
        starts = heap.below(heap.garbage)
        objects = heap.visible(starts)
        inside = self._most_of(objects)
        sentence = f"Garbage in reference cycles retains {self._amount(retained)} until it is collected: {inside}."
        types = np.bincount(heap.types[objects], minlength=1)
        name = heap.type_names[int(np.argmax(types))].full if len(objects) else ""
        return [Suspect(sentence, name, len(objects), retained, retained / heap.size, None, None)]

    def _accumulation(self, node: int) -> int:
        """Where the children of the dominator tree become small."""
        heap = self._heap
        for _ in range(DEPTH_MAX):
            below = heap.below(node)
            if not len(below):
                break
            largest = int(below[np.argmax(heap.retained[below])])
            if heap.retained[largest] < DROP_RATIO * float(heap.retained[node]):
                break
            node = largest
        return node

    def _common_holder(self, members: U32) -> int | None:
        """The last node on the ways from roots to them that leads to most of them; None when there is none."""
        heap = self._heap
        looked_at = members[:: max(1, len(members) // MEMBERS_MAX)]
        levels = [heap.ways.parents[looked_at]]
        while len(levels) < DEPTH_MAX and not (levels[-1] == heap.root).all():
            last = levels[-1]
            levels.append(np.where(last == heap.root, last, heap.ways.parents[last]))
        left, holder = np.ones(len(looked_at), dtype=bool), None
        for level in reversed(levels):
            nodes, counts = np.unique(level[left & (level != heap.root)], return_counts=True)
            if not len(nodes):
                continue
            most = int(np.argmax(counts))
            if counts[most] < MEMBERS_SHARE_MIN * len(looked_at):
                break
            left &= level == nodes[most]
            holder = int(nodes[most])
        if holder is not None and int(heap.owners[holder]) < heap.nodes:
            holder = int(heap.owners[holder])
        return holder if holder is not None and holder < heap.objects else None

    def _inside(self, nodes: U32) -> str:
        """What retains most of it: many of one type, or else the largest few."""
        heap = self._heap
        if not len(nodes):
            return ""
        types = heap.types[nodes]
        by_type = np.bincount(types, weights=heap.retained[nodes])
        number = int(np.argmax(by_type))
        if 2 * by_type[number] >= by_type.sum() and np.count_nonzero(types == number) > LARGEST_TOLD:
            return self._most_of(nodes)
        largest = nodes[np.argsort(-heap.retained[nodes].astype(np.int64), kind="stable")][:LARGEST_TOLD]
        told = (f"{self._object_of(int(each)).text} ({bytes_text(int(heap.retained[each]))})" for each in largest)
        return "above all " + ", ".join(told)

    def _most_of(self, nodes: U32) -> str:
        """Such as "18 204 objects of method (app.ws.Session)"; empty for none."""
        if not len(nodes):
            return ""
        heap = self._heap
        types = heap.types[nodes]
        counts = np.bincount(types)
        number = int(np.argmax(np.bincount(types, weights=heap.retained[nodes])))
        rest = f" and {count_text(len(nodes) - int(counts[number]))} others" if counts[number] < len(nodes) else ""
        inside = int(nodes[np.argmax(types == number)])
        for _ in range(DEPTH_MAX):
            below = heap.visible(heap.below(inside))
            if heap.type_names[heap.types[inside]].qualname not in WRAPPERS or not len(below):
                break
            inside = int(below[np.argmax(heap.retained[below])])
        inner = "" if heap.types[inside] == number else f" ({heap.type_names[heap.types[inside]].full})"
        amount = count_text(int(counts[number]))
        return f"{amount} object{'' if amount == '1' else 's'} of {heap.type_names[number].full}{inner}{rest}"

    def _amount(self, retained: int) -> str:
        return f"{bytes_text(retained)}, {percent_text(retained / self._heap.size)} of the heap"
