"""Leaks that are spread over many lines: sums of sites, judged by the same tests as a site.

A request that stays may keep eight kilobytes allocated by thirty lines, none of which has samples enough to be sure of.
Together they have. What belongs together is known in two ways: what was allocated for one route, and what was allocated
below one function of the application. Both kinds of group are columns like sites, with tests of their own level
(hierarchical testing: a group that is accused is looked into, and only what its lines do not explain is told).

The place that is named for a group is the function that most of its growth has in common: of all functions that two
thirds of it pass through, the one furthest from the outermost, and in it the line with most growth.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..model.code import Frame, Stack
from ..model.heap import F64, U64
from ..model.places import is_application
from .blocks import Blocks
from .innocent import is_own
from .sites import Grouping

# Functions of an application beyond so many are not summed; routes come first.
GROUPS_MAX = 4000
# What so much of a group's growth passes through is what it has in common.
COMMON_SHARE = 2 / 3
# A table grows by an eighth (a list) to four times (a small dict) and rests in between; little of it is retained.
TABLE_GROWS, TABLE_RESTS, TABLE_KEPT_MAX = 1.1, 2, 0.5


@dataclass(frozen=True)
class Group:
    """Everything that was allocated for a route (file is "" then), or below a function of the application."""

    name: str
    file: str = ""

    @property
    def is_route(self) -> bool:
        """Whether it is a route's."""
        return not self.file


class GroupMap:
    """Which groups each call path belongs to; learns as call paths turn up, and never reorders."""

    def __init__(self) -> None:
        self.groups: list[Group] = []
        self._positions: dict[Group, int] = {}
        self._of: dict[int, tuple[int, ...]] = {}
        self.paths: dict[int, tuple[Frame, ...]] = {}
        self._application: dict[int, bool] = {}

    def __len__(self) -> int:
        return len(self.groups)

    def learn(self, stacks: Iterable[int], known: Mapping[int, Stack], frames: Mapping[int, Frame]) -> None:
        """Finds the groups of each call path; one without a definition belongs to none, and so does the agent's own."""
        for stack in stacks:
            defined = known.get(stack)
            if defined is None or not defined.frames:
                self._of[stack] = ()
                continue
            path = tuple(frames[each] for each in defined.frames if each in frames)
            self.paths[stack] = path
            self._of[stack] = () if path and is_own(path[0]) else self._groups_of(defined, frames)

    def _groups_of(self, stack: Stack, frames: Mapping[int, Frame]) -> tuple[int, ...]:
        wanted = [Group(stack.label)] if stack.label else []
        for identity in stack.frames:
            frame = frames.get(identity)
            if frame is None:
                continue
            if identity not in self._application:
                self._application[identity] = bool(frame.file) and is_application(frame) and not is_own(frame)
            if self._application[identity]:
                wanted.append(Group(frame.function, frame.file))
        found = []
        for group in dict.fromkeys(wanted):
            position = self._positions.get(group)
            if position is None:
                if len(self.groups) >= GROUPS_MAX and not group.is_route:
                    continue
                position = self._positions[group] = len(self.groups)
                self.groups.append(group)
            found.append(position)
        return tuple(found)

    def position(self, group: Group) -> int | None:
        """Its column."""
        return self._positions.get(group)

    def grouping(self, stacks: U64) -> Grouping:
        """For the columns of one series, all of which have been learned."""
        pairs = [(group, row) for row, stack in enumerate(stacks.tolist()) for group in self._of.get(stack, ())]
        both = np.array(pairs, dtype=np.intp).reshape(-1, 2)
        return Grouping(both[:, 0], len(self), both[:, 1])

    def contains(self, group: int, stack: int) -> bool:
        """Whether a call path belongs to it."""
        return group in self._of.get(stack, ())


@dataclass
class StackGrowth:
    """Bytes retained, and the least live bytes, of each call path in each block of one analysis, (K,) each; processes
    are added up as they come."""

    times_s: F64
    kept: dict[int, F64] = field(default_factory=dict)
    floors: dict[int, F64] = field(default_factory=dict)

    def add(self, stacks: U64, single: Blocks) -> None:
        """single: blocks whose columns are these call paths."""
        for column, stack in enumerate(stacks.tolist()):
            for known, values in ((self.kept, single.retained), (self.floors, single.floors)):
                before = known.get(stack)
                known[stack] = values[:, column] if before is None else before + values[:, column]

    def of(self, stacks: Sequence[int]) -> F64:
        """Bytes per second by which each grows, by least squares: a share of their sum, and not a claim by itself."""
        return self._slopes(self.kept, stacks)

    def sum(self, stacks: Sequence[int]) -> F64:
        """Bytes retained by all of them together in each block, (K,)."""
        total: F64 = np.sum([self.kept[stack] for stack in stacks], axis=0) if stacks else np.zeros(len(self.times_s))
        return total

    def tables(self, stacks: Sequence[int]) -> dict[int, float]:
        """Those that hold a table which is replaced by larger copies of itself, and their growth in bytes per second.

        What a container is kept in is copied when it grows: it is always young, so nothing of it counts as retained.
        It is told by living as one that never falls and grows in jumps.
        """
        some = [stack for stack in stacks if _is_table(self.floors[stack])]
        return {
            stack: grown
            for stack, grown, kept in zip(
                some, self._slopes(self.floors, some).tolist(), self.of(some).tolist(), strict=True
            )
            if grown > 0 and kept < TABLE_KEPT_MAX * grown
        }

    def _slopes(self, values: Mapping[int, F64], stacks: Sequence[int]) -> F64:
        if not stacks:
            return np.zeros(0)
        columns = np.stack([values[stack] for stack in stacks], axis=1)
        centred = self.times_s - self.times_s.mean()
        slopes: F64 = centred @ columns / (centred @ centred)
        return slopes


def _is_table(floors: F64) -> bool:
    steps = np.diff(floors)
    rises = int((steps > 0.02 * floors[-1]).sum())
    grew = floors[-1] >= TABLE_GROWS * max(float(floors[0]), 1.0)
    return bool(grew and steps.min() >= -0.01 * floors[-1] and 1 <= rises <= len(steps) / TABLE_RESTS)


@dataclass(frozen=True)
class CommonPlace:
    """The line named for a group, and the nearest line of the application above it, when that is another one."""

    frame: Frame
    application_frame: Frame | None


def common_place(paths: Sequence[tuple[Frame, ...]], growth: F64) -> CommonPlace | None:
    """Where most of the growth (N,) of these call paths (innermost first) goes through; None when nothing grows."""
    total = float(growth.sum())
    if total <= 0:
        return None
    through: dict[tuple[str, str], float] = {}
    depth: dict[tuple[str, str], float] = {}
    for path, grown in zip(paths, growth.tolist(), strict=True):
        first: dict[tuple[str, str], int] = {}
        for index, frame in enumerate(path):
            first.setdefault((frame.file, frame.function), len(path) - index)
        for function, distance in first.items():
            through[function] = through.get(function, 0.0) + grown
            depth[function] = depth.get(function, 0.0) + max(grown, 0.0) * distance
    common = [function for function, grown in through.items() if grown >= COMMON_SHARE * total]
    if not common:
        # Nothing is common to them: the one with most, such as the handler whose tasks went elsewhere.
        common = [max(through, key=lambda function: through[function])]
    deepest = max(common, key=lambda function: depth[function] / through[function])
    by_line: dict[CommonPlace, float] = {}
    for path, grown in zip(paths, growth.tolist(), strict=True):
        at = next((index for index, frame in enumerate(path) if (frame.file, frame.function) == deepest), None)
        if at is None:
            continue
        frame = path[at]
        near = None
        if not is_application(frame):
            near = next((each for each in path[at:] if each.file and is_application(each)), None)
        place = CommonPlace(frame, near)
        by_line[place] = by_line.get(place, 0.0) + grown
    return max(by_line, key=lambda place: by_line[place])
