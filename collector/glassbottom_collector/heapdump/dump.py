"""One loaded heap dump, and the questions it answers."""

from __future__ import annotations

from pathlib import Path

from ..errors import HeapDumpError
from ..model.heapdump import Growth, HeapObject, HeapSummary, HolderPath, Suspect, TypeTotal


def load(path: Path) -> HeapDump:
    """Reads a dump and finds who dominates what. A file cut short is read as far as it goes; summary() says so.

    Raises HeapDumpError if the file is not a heap dump, is of a later version, or contradicts itself.
    """
    raise HeapDumpError(f"{path} cannot be read yet: the reader of heap dumps is being written.")


class HeapDump:
    """A heap as it was at one moment. See load()."""

    def summary(self) -> HeapSummary:
        """The dump as a whole."""
        raise NotImplementedError

    def largest(self, limit: int = 20, type_name: str | None = None) -> list[HeapObject]:
        """Objects (of one type) that retain most, most first."""
        raise NotImplementedError

    def types(self, limit: int = 30) -> list[TypeTotal]:
        """Types whose objects retain most, most first."""
        raise NotImplementedError

    def modules(self, limit: int = 30) -> list[TypeTotal]:
        """The same, by the module that defines the type."""
        raise NotImplementedError

    def paths(self, *, type_name: str | None = None, address: int | None = None, limit: int = 5) -> list[HolderPath]:
        """From roots to the objects of a type, merged where they lead the same way, or to one object.

        Most objects first. Raises HeapDumpError when the dump has no such type or object.
        """
        raise NotImplementedError

    def children(self, address: int) -> list[HeapObject]:
        """What an object alone keeps alive: those below it in the dominator tree, largest retained first.

        Raises HeapDumpError when the dump has no such object.
        """
        raise NotImplementedError

    def suspects(self) -> list[Suspect]:
        """What retains a large part of the heap, by the rules of Eclipse MAT, largest first."""
        raise NotImplementedError

    def holders(self, type_name: str) -> list[HolderPath]:
        """Who holds the objects of a type; empty when the dump has none. type_name: full, or the class alone."""
        raise NotImplementedError


def diff(before: HeapDump, after: HeapDump, limit: int = 30) -> list[Growth]:
    """What grew between two dumps of one process, by owner path, most bytes first."""
    raise NotImplementedError
