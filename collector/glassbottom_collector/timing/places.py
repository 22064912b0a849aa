"""Definitions of the code that rows refer to, fetched once for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..model.code import Frame, Stack
from ..model.places import application_frame
from ..model.timing import Observation
from ..storage import Reader


@dataclass(frozen=True)
class Places:
    """What ids stand for; what is not known is left out of paths."""

    stacks: Mapping[int, Stack]
    frames: Mapping[int, Frame]

    def frame(self, identity: int) -> Frame | None:
        """One place; None when it is 0 or not known."""
        return self.frames.get(identity)

    def path(self, stack: int) -> tuple[Frame, ...]:
        """A call path, innermost first."""
        known = self.stacks.get(stack)
        return () if known is None else self.along(known.frames)

    def along(self, frames: Iterable[int]) -> tuple[Frame, ...]:
        """The known ones of some frames, in their order."""
        return tuple(self.frames[each] for each in frames if each in self.frames)


def look_up(reader: Reader, stacks: Iterable[int] = (), frames: Iterable[int] = ()) -> Places:
    """Definitions of call paths with all their frames, and of frames. 0 means none and is not asked for."""
    known = reader.stacks({each for each in stacks if each})
    wanted = {each for each in frames if each}.union(*(stack.frames for stack in known.values()))
    return Places(known, reader.frames(wanted))


def of_observations(reader: Reader, observations: Iterable[Observation]) -> Places:
    """Definitions of everything that some observations refer to."""
    rows = list(observations)
    return look_up(reader, (each.stack for each in rows), (each.frame for each in rows))


def place_of(path: tuple[Frame, ...], frame: Frame | None = None) -> Frame | None:
    """The place to look at: the nearest line of the application, else the place told, else the innermost line."""
    return application_frame(path) or frame or (path[0] if path else None)
