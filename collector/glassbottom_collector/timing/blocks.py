"""What held event loops: observations of kind loop.blocked, counted once each and grouped by where it happened.

A block that goes on is told while it lasts (ended=false) and again when it has ended. Only what has ended counts,
and what had not when its process was last heard of.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

from ..model.code import Frame
from ..model.places import application_frame
from ..model.timing import Observation
from .places import Places

KIND = "loop.blocked"

_KeyOf = Callable[[tuple[Frame, ...]], Hashable]


@dataclass(frozen=True)
class Block:
    """Everything that held a loop from one place in one coroutine.

    path: innermost first, that of the place's lines which held longest; empty when none could be taken.
    gil_held: native code held the GIL at least once. late: some paths were taken right after. Times in seconds.
    """

    path: tuple[Frame, ...]
    coroutine: str
    frame: Frame | None
    count: int
    total_s: float
    max_s: float
    first_ns: int
    last_ns: int
    gil_held: bool
    late: bool
    thread: str
    application_frame: Frame | None
    instance_ids: tuple[str, ...]


def counted(observations: Iterable[Observation]) -> list[Observation]:
    """Each block once: see the top of this file. By time."""
    kept: list[Observation] = []
    going_on: dict[tuple[str, str], Observation] = {}
    # What has ended sorts behind what goes on, so that a block told twice with one time is counted as ended.
    for each in sorted(observations, key=lambda each: (each.at_ns, _ended(each))):
        loop = (each.instance_id, each.attributes.get("thread.name", ""))
        going_on.pop(loop, None)
        if _ended(each):
            kept.append(each)
        else:
            going_on[loop] = each
    return sorted([*kept, *going_on.values()], key=lambda each: each.at_ns)


def blocks(observations: Iterable[Observation], places: Places) -> list[Block]:
    """Groups of what `counted` gave: by the functions of the call path, and by coroutine. Most time first.

    By functions and not by lines: a loop that computes is caught at another line each time.
    """
    return _grouped(observations, places, lambda path: tuple((frame.function, frame.file) for frame in path))


def blocks_by_place(observations: Iterable[Observation], places: Places) -> list[Block]:
    """As `blocks`, but by the nearest function of the application, whatever it called."""

    def place(path: tuple[Frame, ...]) -> Hashable:
        nearest = application_frame(path) or (path[0] if path else None)
        return None if nearest is None else (nearest.function, nearest.file)

    return _grouped(observations, places, place)


def _grouped(observations: Iterable[Observation], places: Places, key_of: _KeyOf) -> list[Block]:
    groups: dict[tuple[Hashable, str], list[Observation]] = {}
    for each in observations:
        key = (key_of(places.path(each.stack)), each.name)
        groups.setdefault(key, []).append(each)
    return sorted((_block(mine, places) for mine in groups.values()), key=lambda each: -each.total_s)


def _block(rows: Sequence[Observation], places: Places) -> Block:
    held: dict[int, float] = {}
    for each in rows:
        held[each.stack] = held.get(each.stack, 0.0) + each.value
    path = places.path(max(held, key=lambda stack: held[stack]))
    longest = max(rows, key=lambda each: each.value)
    return Block(
        path=path,
        coroutine=rows[0].name,
        frame=next((frame for each in rows if (frame := places.frame(each.frame)) is not None), None),
        count=sum(each.count for each in rows),
        total_s=sum(each.value for each in rows),
        max_s=longest.value,
        first_ns=min(each.at_ns for each in rows),
        last_ns=max(each.at_ns for each in rows),
        gil_held=any(each.attributes.get("gil_held") == "true" for each in rows),
        late=any(each.attributes.get("late") == "true" for each in rows),
        thread=longest.attributes.get("thread.name", ""),
        application_frame=application_frame(path),
        instance_ids=tuple(sorted({each.instance_id for each in rows})),
    )


def _ended(observation: Observation) -> bool:
    return observation.attributes.get("ended", "true") != "false"
