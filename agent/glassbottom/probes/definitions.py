"""Definitions for the streams that are not the heap's: frames and stacks by content hash, and which the collector has.

Each batch carries every definition it uses that no batch of this stream has brought to the collector yet, so a batch
that is dropped takes nothing with it that a later one needs. Used by one probe, in the agent's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import CodeType
from typing import Protocol

from ..transport.encode import encode
from ..transport.queue import BatchQueue
from ..wire.v1 import common_pb2
from .heap_symbols import LABEL_CHARACTERS_MAX, STACK_FRAMES_MAX, frame_id, line_at, presentable, stack_id

PLACES_MAX = 10_000
"""Places remembered by code object and offset; beyond that all are forgotten and looked up again."""

BATCHES_REMEMBERED = 4
"""A place that this many to twice as many batches did not name is forgotten, and its code object released: a process
that makes functions anew would otherwise have its dead ones kept by us, at some 1.2 KB each."""

KNOWN_MAX = 8_192
"""Ids remembered as known to the collector, some 100 bytes each; beyond that all are forgotten and told again."""


class Message(Protocol):
    """A serialisable message with definitions."""

    @property
    def definitions(self) -> common_pb2.Definitions: ...

    def SerializeToString(self) -> bytes: ...  # noqa: N802


class Definer:
    """Gives ids, and tells what a batch must define. welcomed() must be called for every new connection."""

    def __init__(self) -> None:
        self._store_id = ""
        self._known: set[int] = set()
        self._frames: dict[int, tuple[str, str, int]] = {}
        self._stacks: dict[int, tuple[tuple[int, ...], bool, str]] = {}
        # Most places come again with every batch, and finding a line takes long. Each keeps its code object, so that
        # no other can have its id. Those named lately, and those named before them.
        self._places: dict[tuple[int, int], tuple[CodeType, int]] = {}
        self._older_places: dict[tuple[int, int], tuple[CodeType, int]] = {}
        self._batches = 0

    def welcomed(self, store_id: str, store_changed: bool) -> None:
        """A store that is new knows nothing."""
        self._store_id = store_id
        if store_changed:
            self._known.clear()

    def frame(self, function: str, file: str, line: int) -> int:
        """The id of a place, to be used in the batch now being made."""
        function, file = presentable(function), presentable(file)
        found = frame_id(function, file, line)
        if found not in self._known:
            self._frames[found] = (function, file, line)
        return found

    def code(self, code: CodeType, offset: int = -1) -> int:
        """The id of an instruction of a code object; of its first line with offset -1."""
        place = (id(code), offset)
        seen = self._places.get(place) or self._older_places.get(place)
        if seen is not None and (seen[1] in self._known or seen[1] in self._frames):
            found = seen[1]
        else:
            found = self.frame(code.co_qualname, code.co_filename, line_at(code, offset))
        if len(self._places) >= PLACES_MAX:
            self._places.clear()
        self._places[place] = (code, found)
        return found

    def stack(self, frames: Sequence[int], *, truncated: bool = False, label: str = "") -> int:
        """The id of a call path by its frame ids, innermost first."""
        label = presentable(label)[:LABEL_CHARACTERS_MAX]
        path = tuple(frames[:STACK_FRAMES_MAX])
        found = stack_id(path, label)
        if found not in self._known:
            self._stacks[found] = (path, truncated or len(path) < len(frames), label)
        return found

    def path(self, places: Iterable[tuple[CodeType, int]], *, truncated: bool = False, label: str = "") -> int:
        """The id of a call path by its code objects and offsets, innermost first."""
        return self.stack([self.code(code, offset) for code, offset in places], truncated=truncated, label=label)

    def put(self, queue: BatchQueue, stream: int, message: Message, *, rows: int) -> None:
        """Completes the message with the definitions it uses, and queues it."""
        ids = [*self._frames, *self._stacks]
        for identity, (function, file, line) in self._frames.items():
            message.definitions.frames.add(id=identity, function=function, file=file, line=line)
        for identity, (frames, truncated, label) in self._stacks.items():
            message.definitions.stacks.add(id=identity, frames=frames, truncated=truncated, label=label)
        self._frames, self._stacks = {}, {}
        self._batches += 1
        if self._batches % BATCHES_REMEMBERED == 0:
            self._places, self._older_places = {}, self._places
        # What is known already, this batch relies on: it means nothing to another store.
        store_id = self._store_id if self._known else ""
        queue.put(stream, encode(message.SerializeToString()), rows=rows, store_id=store_id, on_stored=self._told(ids))

    def _told(self, ids: list[int]) -> Callable[[], None]:
        store_id = self._store_id

        def stored() -> None:
            if store_id == self._store_id:
                if len(self._known) > KNOWN_MAX:
                    self._known.clear()
                self._known.update(ids)

        return stored
