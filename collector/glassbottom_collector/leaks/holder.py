"""Who keeps what a site allocates: the path in a heap dump that fits the site.

A dump does not know which line allocated an object, and the sampler does not know who refers to it. What both know is
the type and how many there are. A site's objects are therefore looked for among the holders of their types: a holder
fits as far as it leads to as many objects of the type as the sampler estimates that the site holds in that process at
that moment. A class of one's own says more than `dict` or `bytes`, of which a process has thousands that other lines
have allocated. With two dumps of the process, what grew between them is compared with how fast the site grows, which a
holder that is merely large does not fit.

Blocks that are no objects have no type to look for. Those of a constructor belong to an object of its class; one large
block is the memory of a container, which is looked for by its size.

Pure: dumps are asked through functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..model.code import Frame
from ..model.heapdump import Growth, HeapObject, HolderPath

TYPES_MAX = 6
"""Types of a site that are looked for, those with most bytes first."""
FIT_MIN = 0.25
"""A holder of a quarter or of four times as many objects is somebody else's: sampling errs by less than that where a
leak is certain."""
PLAIN_WEIGHT = 0.5
"""Of a type that anybody allocates, against one of the application or a library."""
RIVAL_SHARE = 0.7
"""A second holder whose numbers agree so nearly as well might as well be the one: sampling tells them not apart."""
FRAMES_LOOKED_AT = 4
"""How far from the line that allocates a constructor may be that it works for."""
BLOCKS_MAX = 3.0
"""More blocks than that are those of many objects, not the table of one."""
BLOCK_FIT_MIN = 0.6
"""Tables grow in steps of an eighth to a half; a sampled block of their size is known exactly."""
_CONSTRUCTORS = ("__init__", "__new__", "__post_init__")


@dataclass(frozen=True)
class Held:
    """What a site holds of one type in one process, as the sampler estimates it.

    type_name: a word of the sampler's own such as <buffer> for blocks that are no objects.
    """

    type_name: str
    live_bytes: float
    live_objects: float
    weight: float = 0.0

    @property
    def is_object(self) -> bool:
        """Whether a dump may have it."""
        return not self.type_name.startswith("<")


@dataclass(frozen=True)
class Holder:
    """Who keeps it. fit: how well the numbers agree, 0 to 1."""

    text: str
    type_name: str
    objects: int
    fit: float


def constructed(held: Iterable[Held], path: Sequence[Frame]) -> list[Held]:
    """The same, and objects of the class whose constructor allocates, when one does.

    path: of the site, innermost first. There are as many of the class as of what each of them has most of.
    """
    found = list(held)
    objects = max((each.live_objects for each in found), default=0.0)
    for frame in path[:FRAMES_LOOKED_AT]:
        name, _, method = frame.function.rpartition(".")
        if name and method in _CONSTRUCTORS:
            whole = sum(each.live_bytes for each in found)
            return [*found, Held(name, whole, objects, 1.0)]
    return found


def holder_in(
    held: Iterable[Held], holders: Callable[[str], Sequence[HolderPath]], *, plain: bool = True
) -> Holder | None:
    """The path of a dump that fits best, or None. holders: those of a type, by its name in the dump.

    plain: also by types that anybody allocates. Of these a holder counts only when no other one fits nearly as well.
    """
    best: tuple[float, Holder] | None = None
    for each in _worth_looking_for(held):
        common = _weight(each) <= PLAIN_WEIGHT
        if common and not plain:
            continue
        fits = sorted(
            ((_agreement(each.live_objects, path.objects), path) for path in holders(each.type_name)),
            key=lambda item: -item[0],
        )
        if not fits or fits[0][0] < FIT_MIN or (common and _is_doubtful(fits)):
            continue
        fit, path = fits[0]
        weight = fit * _weight(each)
        if best is None or weight > best[0]:
            best = (weight, Holder(str(path), each.type_name, path.objects, fit))
    return None if best is None else best[1]


def holder_by_growth(
    held: Iterable[Held], objects_per_second: float, growth: Sequence[Growth], seconds: float
) -> Holder | None:
    """As holder_in, by what grew between two dumps that lie `seconds` apart.

    objects_per_second: growth of the site in that process.
    """
    held = list(held)
    whole = sum(each.live_objects for each in held if not each.weight)
    best: tuple[float, Holder] | None = None
    for each in _worth_looking_for(held):
        expected = objects_per_second * seconds * each.live_objects / whole if whole else 0.0
        for row in growth:
            grown = row.objects_after - row.objects_before
            if not _same_type(row.type_name, each.type_name) or grown <= 0:
                continue
            fit = _agreement(expected, grown)
            weight = fit * _weight(each)
            if fit >= FIT_MIN and (best is None or weight > best[0]):
                best = (weight, Holder(row.path, each.type_name, row.objects_after, fit))
    return None if best is None else best[1]


def container_of(held: Sequence[Held], largest: Callable[[], Sequence[HeapObject]]) -> tuple[HeapObject, float] | None:
    """The object whose own memory is as large as the one block that a site holds, and how well it agrees; or None.

    largest: objects with a size of their own to choose among.
    """
    blocks = [each for each in held if not each.is_object]
    size, count = sum(each.live_bytes for each in blocks), sum(each.live_objects for each in blocks)
    if not size or count > BLOCKS_MAX or size < sum(each.live_bytes for each in held) / 2:
        return None
    best = max(largest(), key=lambda each: _agreement(size, each.size), default=None)
    if best is None or (fit := _agreement(size, best.size)) < BLOCK_FIT_MIN:
        return None
    return best, fit


def _worth_looking_for(held: Iterable[Held]) -> list[Held]:
    found = [each for each in held if each.is_object and each.live_objects > 0]
    return sorted(found, key=lambda each: -each.live_bytes)[:TYPES_MAX]


def _is_doubtful(fits: Sequence[tuple[float, HolderPath]]) -> bool:
    """Whether somebody else keeps nearly as many. fits: best first. Two ways that begin alike are one holder's."""
    best, path = fits[0]
    return any(fit >= RIVAL_SHARE * best and _begins(other) != _begins(path) for fit, other in fits[1:])


def _begins(path: HolderPath) -> str:
    return path.steps[0].text if path.steps else path.root


def _agreement(one: float, other: float) -> float:
    greater = max(one, other)
    return min(one, other) / greater if greater > 0 else 0.0


def _weight(held: Held) -> float:
    return held.weight or (1.0 if "." in held.type_name else PLAIN_WEIGHT)


def _same_type(in_dump: str, wanted: str) -> bool:
    """wanted: the whole name, or the class alone where only that is known."""
    name = in_dump.removeprefix("builtins.")
    return name == wanted or name.endswith(f".{wanted}")
