"""What a heap dump says: objects, types, who holds them, and what is suspicious about that.

Sizes are bytes. `size` is an object's own memory with what belongs to it alone by construction (an instance's
dictionary, a list's array); `retained` what would be freed if the object were: the sum of sizes below it in the
dominator tree (Lengauer and Tarjan 1979). Weak references hold nothing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HeapObject:
    """One object. address identifies it within its dump. length: entries, characters or bytes; None without one.

    text: how a path names it, such as "app.ws.HANDLERS" or "list[18 204]"; never a value of the application's.
    """

    address: int
    type_name: str
    size: int
    retained: int
    length: int | None
    text: str


@dataclass(frozen=True)
class TypeTotal:
    """All objects of a type, or of the types of a module. retained counts what hangs below several of them once."""

    name: str
    objects: int
    size: int
    retained: int


@dataclass(frozen=True)
class HolderPath:
    """From a root to an object: what holds what, outermost first; objects: how many of those asked for it leads to."""

    root: str
    steps: tuple[HeapObject, ...]
    objects: int
    retained: int

    def __str__(self) -> str:
        """'app.ws.HANDLERS dict -> list[18 204] -> bound method -> Session'."""
        return " -> ".join(step.text for step in self.steps) or self.root


@dataclass(frozen=True)
class Suspect:
    """One finding by the rules of Eclipse MAT: an object, or many of one type, that retain a large part of the heap.

    point: where what is retained accumulates (the path's last big step). share: of the whole heap, 0 to 1.
    """

    sentence: str
    type_name: str
    objects: int
    retained: int
    share: float
    point: HeapObject | None
    path: HolderPath | None


@dataclass(frozen=True)
class Growth:
    """What changed between two dumps of one process below one owner path, in objects and bytes of a type."""

    path: str
    type_name: str
    objects_before: int
    objects_after: int
    size_before: int
    size_after: int
    length_before: int | None
    length_after: int | None


@dataclass(frozen=True)
class HeapSummary:
    """Of a dump as a whole. complete: False when it was cut short, and reason says by what."""

    service: str
    instance_id: str
    at_ns: int
    python_version: str
    objects: int
    references: int
    size: int
    types: int
    pause_ns: int
    complete: bool
    reason: str
