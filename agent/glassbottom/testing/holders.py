"""Who keeps objects alive: the shortest way down to them from a module or a running function.

Asked only once something leaks. One walk over everything that can be reached answers for all objects asked about. It
does not ask the garbage collector for referrers, which would miss dicts and tuples that it has found not worth
tracking, and with them half of the caches of this world.
"""

from __future__ import annotations

import gc
import inspect
import sys
import types
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import _lru_cache_wrapper
from itertools import pairwise
from pathlib import Path
from threading import Timer
from typing import Any

NAMES_MAX = 256
OBJECTS_MAX = 3_000_000
"""Looked at; a larger heap is told as far as that goes."""
_HERE = str(Path(__file__).parent)
_ATOMS = {int, float, complex, bool, types.NoneType, types.EllipsisType}
_RUNNING = {types.FrameType, types.GeneratorType, types.CoroutineType}


@dataclass(frozen=True)
class Holder:
    """text: the way down, "" when unknown. bounded: what will not grow for ever, and how full. pending: what will let
    go of it in time."""

    text: str
    bounded: str = ""
    pending: str = ""


class Reached:
    """Everything that can be reached, and from where. Holds on to all of it until it is dropped itself."""

    def __init__(self, hidden: Iterable[object] = ()) -> None:
        """hidden: containers of the caller's, which keep nothing as far as this is concerned."""
        self._above: dict[int, Any] = {}
        self._names: dict[int, str] = {}
        # What this walk itself makes is not the application's either.
        self._hidden = {id(self), id(vars(self)), id(self._above), id(self._names), *map(id, hidden)}
        self._walk(list(self._roots()))
        # What only the collector knows: kept by C code or a function that runs, or waiting in cycles.
        for each in gc.get_objects():
            if id(each) not in self._above and id(each) not in self._hidden and not is_ours(each):
                for held in referents(each):
                    if type(held) not in _ATOMS and held is not each:
                        self._above.setdefault(id(held), each)

    def holder_of(self, target: object) -> Holder:
        """Who keeps an object that lived before this walk."""
        chain, met = [target], {id(target)}
        while (upper := self._above.get(id(chain[-1]))) is not None and id(upper) not in met:
            chain.append(upper)
            met.add(id(upper))
        chain.reverse()
        explained = _explains(chain)
        return Holder(self._way_down(chain), explained.bounded, explained.pending)

    def forget(self) -> None:
        """Lets go of everything: what was reached may refer to this walk, and nobody may collect cycles here."""
        self._above.clear()
        self._names.clear()

    def _walk(self, level: list[Any]) -> None:
        above, hidden = self._above, self._hidden
        for each in level:
            above.setdefault(id(each), None)
        while level and len(above) < OBJECTS_MAX:
            lower: list[Any] = []
            for each in level:
                if id(each) in hidden:
                    continue
                for held in referents(each):
                    key, kind = id(held), type(held)
                    if key in above or key in hidden or held is level or held is lower:
                        continue
                    above[key] = each
                    if kind in _ATOMS or (kind in _RUNNING and is_ours(held)):
                        continue
                    lower.append(held)
            level = lower

    def _roots(self) -> Iterator[Any]:
        for name, module in list(sys.modules.items()):
            if isinstance(module, types.ModuleType) and not name.startswith(_PACKAGE):
                self._names[id(vars(module))] = name
                yield vars(module)
        # The collector does not know the frames of functions that run. Before 3.13, whoever looks at their locals makes
        # the next call of a trace function write these old values back into the function.
        for top in list(sys._current_frames().values()) if sys.version_info >= (3, 13) else ():
            frame: types.FrameType | None = top
            while frame is not None:
                if not is_ours(frame) and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
                    for name, value in list(frame.f_locals.items()):
                        if id(value) not in self._names and type(value) not in (types.ModuleType, *_ATOMS):
                            self._names[id(value)] = f"local {name} of {frame.f_code.co_qualname}"
                            yield value
                frame = frame.f_back

    def _way_down(self, chain: list[Any]) -> str:
        """chain: from the root on."""
        root = self._names.get(id(chain[0]))
        end = "" if root is not None else ", which a local variable, a cycle or C code keeps"
        if root is None:
            text = _kind(chain[0])
        elif isinstance(chain[0], dict) and not root.startswith("local ") and len(chain) > 1:
            text = f"{root}{_edge(chain[0], chain[1])} ({_kind(chain[1])})"
            chain = chain[1:]
        else:
            text = f"{root} ({_kind(chain[0])})"
        for upper, lower in pairwise(chain):
            # The keys of large dicts are data, not names.
            edge = _edge(upper, lower) if not isinstance(upper, dict) or len(upper) <= NAMES_MAX else ""
            if isinstance(lower, dict) and _namespace(upper) is lower:
                continue
            text += f"{edge} → {_kind(lower)}"
        return text + end


def referents(each: Any) -> list[Any]:
    """What an object refers to. Of a module its names alone: some show the garbage collector objects they have freed
    and keep for later, and whoever takes hold of one of these breaks that list (seen: _asyncio of 3.12.1)."""
    return [vars(each)] if isinstance(each, types.ModuleType) else gc.get_referents(each)


def _explains(chain: list[Any]) -> Holder:
    """A bound or a timer on the way, which lets what it holds go."""
    for each in chain:
        if isinstance(each, _lru_cache_wrapper):
            info = each.cache_info()
            if info.maxsize is not None and info.currsize < info.maxsize:
                return Holder(
                    "", bounded=f"functools.lru_cache of {_name_of(each)} holds {info.currsize} of {info.maxsize}"
                )
        elif isinstance(each, deque):
            if each.maxlen is not None and len(each) < each.maxlen:
                return Holder("", bounded=f"a deque holds {len(each)} of {each.maxlen}")
        elif isinstance(each, Timer):
            return Holder("", pending="threads of threading.Timer that wait for their time")
        elif _is_loop_timer(each):
            return Holder("", pending="timers of the event loop that are not due yet")
    return Holder("")


def _edge(owner: Any, held: Any) -> str:
    """How the owner calls what it holds: a key that is a name, an attribute, or nothing."""
    names = owner if isinstance(owner, dict) else _namespace(owner)
    if names is None:
        return ""
    # A copy: another thread may add to it meanwhile.
    for key, value in list(names.items()):
        if value is held and isinstance(key, str) and key.isidentifier():
            return f".{key}"
    return ""


def _namespace(owner: Any) -> Any:
    try:
        return object.__getattribute__(owner, "__dict__")
    except AttributeError:
        return None


def _kind(each: Any) -> str:
    if isinstance(each, _lru_cache_wrapper):
        return f"functools.lru_cache(maxsize={each.cache_info().maxsize}) of {_name_of(each)}"
    if isinstance(each, type):
        return f"class {type_name(each)}"
    kind = type(each)
    name = type_name(kind)
    if kind in (list, dict, set, tuple, frozenset, deque):
        return f"{name} of {len(each)}"
    if isinstance(each, types.CoroutineType | types.GeneratorType | types.FunctionType | types.MethodType):
        return f"{name} {getattr(each, '__qualname__', '')}".rstrip()
    return name


def type_name(kind: type) -> str:
    """ "module.Name", without the module for what is built in."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _name_of(wrapper: Any) -> str:
    return f"{getattr(wrapper, '__module__', '?')}.{getattr(wrapper, '__qualname__', '?')}"


def _is_loop_timer(each: object) -> bool:
    kind = type(each)
    return kind.__name__ == "TimerHandle" and kind.__module__.split(".")[0] in ("asyncio", "uvloop")


def is_ours(each: object) -> bool:
    """Frames and generators of this package: what they hold, they hold in order to look at it."""
    if isinstance(each, types.FrameType):
        return each.f_code.co_filename.startswith(_HERE)
    if isinstance(each, types.GeneratorType):
        return each.gi_code.co_filename.startswith(_HERE)
    if isinstance(each, types.CoroutineType):
        return each.cr_code.co_filename.startswith(_HERE)
    return False


_PACKAGE = __name__.rpartition(".")[0]
