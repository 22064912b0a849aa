"""From node ids of the native tables to content-addressed stacks, frames and types, and which the collector knows.

Everything here is ordinary Python in the agent's thread, long after the allocation: names and lines are never looked
up in a hook. Ids are those of common.proto. Caches live for one epoch of the native tables, in which code objects do
not move, so id(code) is a key without keeping the code alive.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from types import CodeType

from ..wire.v1 import common_pb2

TEXT_CHARACTERS_MAX = 1024
STACK_FRAMES_MAX = 128
LABEL_CHARACTERS_MAX = 255
KNOWN_MAX = 12_288
"""Ids remembered as known to the collector; beyond that all are forgotten and told again."""
BREATH_EVERY = 32
"""Stacks resolved between two offers of the GIL to the application, some tenths of a millisecond."""

Resolve = Callable[[int], tuple[list[tuple[CodeType, int]], bool, int]]


def hash_of(text: bytes) -> int:
    """The 64-bit content hash of common.proto."""
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")


def frame_id(function: str, file: str, line: int) -> int:
    return hash_of(f"frame\0{function}\0{file}\0{line}".encode())


def stack_id(frames: Sequence[int], label: str = "") -> int:
    kind = f"labelled\0{label}\0".encode() if label else b"stack\0"
    return hash_of(kind + struct.pack(f"<{len(frames)}Q", *frames))


def type_id(name: str) -> int:
    return hash_of(f"type\0{name}".encode())


def line_at(code: CodeType, offset: int) -> int:
    """The line of the instruction at that byte offset; the function's first line before it has started; 0 if none."""
    if offset < 0:
        return code.co_firstlineno or 0
    for start, end, line in code.co_lines():
        if start <= offset < end:
            return line or 0
    return 0


def presentable(text: str) -> str:
    """Bounded, and valid UTF-8: file names may hold anything."""
    return text[:TEXT_CHARACTERS_MAX].encode("utf-8", "replace").decode()


class Symbols:
    """Knows ids for nodes and type indices, and which definitions a batch must carry."""

    def __init__(self, breathe: Callable[[], None], label_name: Callable[[int], str] = lambda _: "") -> None:
        self._breathe = breathe
        self._label_name = label_name
        self._stack_of_node: dict[int, int] = {}
        self._frame_of_place: dict[tuple[int, int], int] = {}
        self._type_of_index: list[int] = []
        # Definitions not yet acknowledged, and those the current group of batches already carries.
        self._stacks: dict[int, tuple[tuple[int, ...], bool, str]] = {}
        self._frames: dict[int, tuple[str, str, int]] = {}
        self._types: dict[int, str] = {}
        self._told: set[int] = set()
        self._known: set[int] = set()
        self.known_forgotten = 0

    def forget_epoch(self) -> None:
        """Node ids and code objects have changed. What the collector knows, it still knows: ids are of content."""
        self._stack_of_node.clear()
        self._frame_of_place.clear()
        self._type_of_index.clear()
        for definitions in (self._stacks, self._frames, self._types):
            definitions.clear()
        self._told.clear()

    def forget_places(self) -> None:
        """Code objects have gone, and others may get their addresses."""
        self._frame_of_place.clear()

    def forget_known(self) -> None:
        """The collector knows nothing any more: everything is resolved and told anew."""
        self._known.clear()
        self.forget_epoch()

    def stacks(self, nodes: Iterable[int], resolve: Resolve) -> list[int]:
        """The stack id of each node."""
        known = self._stack_of_node
        ids = []
        resolved = 0
        for node in nodes:
            found = known.get(node)
            if found is None:
                found = known[node] = self._resolve(*resolve(node))
                resolved += 1
                if resolved % BREATH_EVERY == 0:
                    self._breathe()
            ids.append(found)
        return ids

    def types(self, names: Sequence[str]) -> list[int]:
        """The type id at each index of the native list of names, which only grows within an epoch."""
        for name in names[len(self._type_of_index) :]:
            shown = presentable(name)
            found = type_id(shown)
            self._type_of_index.append(found)
            if found not in self._known:
                self._types[found] = shown
        return self._type_of_index

    def define(
        self, stacks: Iterable[int], types: Iterable[int], *, is_key: bool
    ) -> tuple[common_pb2.Definitions, list[int]]:
        """Definitions of these that the collector does not know and this group has not told; and all their ids.

        A key batch starts a group: it and those that build on it are kept or dropped together.
        """
        if is_key:
            self._told.clear()
        definitions = common_pb2.Definitions()
        ids: list[int] = []
        for found in stacks:
            if found in self._stacks and self._is_new(found, ids):
                frames, truncated, label = self._stacks[found]
                definitions.stacks.add(id=found, frames=frames, truncated=truncated, label=label)
                for frame in frames:
                    if frame in self._frames and self._is_new(frame, ids):
                        function, file, line = self._frames[frame]
                        definitions.frames.add(id=frame, function=function, file=file, line=line)
                if len(definitions.stacks) % BREATH_EVERY == 0:
                    self._breathe()
        for found in types:
            if found in self._types and self._is_new(found, ids):
                definitions.types.add(id=found, name=self._types[found])
        return definitions, ids

    def acknowledged(self, ids: Iterable[int]) -> None:
        """The collector has stored a batch with these definitions."""
        for found in ids:
            self._stacks.pop(found, None)
            self._frames.pop(found, None)
            self._types.pop(found, None)
            self._told.discard(found)
            self._known.add(found)

    def is_overfull(self) -> bool:
        """Whether many more ids are remembered than are in use: the next reading should start from nothing.

        KNOWN_MAX, some 80 bytes each, is room for the ids of a service of ordinary size; a large one gets more, or it
        would tell everything anew all the time.
        """
        in_use = len(self._stack_of_node) + len(self._frame_of_place) + len(self._type_of_index)
        return len(self._known) > max(KNOWN_MAX, 2 * in_use)

    def _is_new(self, found: int, ids: list[int]) -> bool:
        if found in self._told:
            return False
        self._told.add(found)
        ids.append(found)
        return True

    def _resolve(self, places: list[tuple[CodeType, int]], truncated: bool, label_id: int) -> int:
        frames = tuple(self._frame(code, offset) for code, offset in places[:STACK_FRAMES_MAX])
        if not frames:
            # The core's two ways to say that there is no path: its table was full, or no Python code was running.
            function = "<more call paths than the agent keeps>" if truncated else "<no Python code>"
            frames = (self._define_frame(function, "", 0),)
        label = presentable(self._label_name(label_id))[:LABEL_CHARACTERS_MAX] if label_id else ""
        found = stack_id(frames, label)
        if found not in self._known:
            self._stacks[found] = (frames, truncated or len(places) > STACK_FRAMES_MAX, label)
        return found

    def _frame(self, code: CodeType, offset: int) -> int:
        place = (id(code), offset)
        found = self._frame_of_place.get(place)
        if found is None:
            function, file = presentable(code.co_qualname), presentable(code.co_filename)
            found = self._frame_of_place[place] = self._define_frame(function, file, line_at(code, offset))
        return found

    def _define_frame(self, function: str, file: str, line: int) -> int:
        found = frame_id(function, file, line)
        if found not in self._known:
            self._frames[found] = (function, file, line)
        return found
