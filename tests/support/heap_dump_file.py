"""Heap dumps written by hand: the format of docs/heap-dump-format.md, by another hand than the agent's.

    dump = DumpFile()
    sessions = dump.list([dump.add("app.ws.Session") for _ in range(3)])
    dump.module("app.ws", HANDLERS=sessions)
    dump.write(path)

Reference counts are those of the references written, unless an object is given others. Addresses ascend by 16 in the
order of adding, so what refers comes after what it refers to; `refer` adds an edge later.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

IN_GC, IMMORTAL, HAS_LENGTH, KEYS_AND_VALUES, NAMED, ITEMS, WEAK = 1, 2, 4, 8, 16, 32, 64
EDGES_IN_A_RECORD = 4096
CLASSES = 1 << 31  # of tp_flags: objects of the type are classes


def varint(value: int) -> bytes:
    out = bytearray()
    while True:
        low, value = value & 0x7F, value >> 7
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def zigzag(value: int) -> bytes:
    return varint(value << 1 if value >= 0 else ((-value) << 1) - 1)


def text(value: str) -> bytes:
    return varint(len(value.encode())) + value.encode()


def record(tag: str, payload: bytes) -> bytes:
    return tag.encode() + varint(len(payload)) + payload


@dataclass
class Written:
    """One object. edges: (target, name or "")."""

    address: int
    type_name: str
    size: int
    flags: int
    length: int | None
    edges: list[tuple[int, str]] = field(default_factory=list)
    references: int | None = None
    called: str = ""


class DumpFile:
    """Objects, and what makes them roots, until they are written."""

    def __init__(self, **info: object) -> None:
        self.info = {"format": 1, "pid": 7, "service": "checkout", "instance_id": "i-1", "at_ns": 5, "python": "3.12.4"}
        self.info |= info
        self.objects: dict[int, Written] = {}
        self.classes: dict[str, int] = {}
        self.modules: list[tuple[int, str]] = []
        self.frames: list[tuple[int, str, str, int, Mapping[str, int]]] = []
        self.roots: list[tuple[int, int, str]] = []
        self._addresses = itertools.count(0x7F00_0000_0000, 16)

    def add(
        self,
        type_name: str,
        *items: int,
        size: int = 64,
        length: int | None = None,
        flags: int = IN_GC,
        references: int | None = None,
        **attributes: int,
    ) -> int:
        """An object with references by position and by name; returns its address."""
        address = next(self._addresses)
        flags |= NAMED if attributes else 0
        one = Written(address, type_name, size, flags | (HAS_LENGTH if length is not None else 0), length)
        one.edges = [(item, "") for item in items] + [(item, name) for name, item in attributes.items()]
        one.references = references
        self.objects[address] = one
        return address

    def list(self, items: Iterable[int] = (), size: int | None = None, type_name: str = "list") -> int:
        items = tuple(items)
        size = 56 + 8 * len(items) if size is None else size
        return self.add(type_name, *items, size=size, length=len(items), flags=IN_GC | ITEMS)

    def dict(self, pairs: Iterable[tuple[int, int]] = (), **named: int) -> int:
        """By keys that are objects, or by keys that are names."""
        pairs = tuple(pairs)
        flat = tuple(itertools.chain.from_iterable(pairs))
        size = 64 + 24 * (len(pairs) + len(named))
        flags = IN_GC | (0 if named else KEYS_AND_VALUES)
        return self.add("dict", *flat, size=size, length=len(pairs) + len(named), flags=flags, **named)

    def instance(self, type_name: str, size: int = 48, **attributes: int) -> int:
        """An object with a dictionary of its own for its attributes."""
        return self.add(type_name, size=size, __dict__=self.dict(**attributes))

    def class_(self, name: str, **attributes: int) -> int:
        """The class of the objects whose type has this name."""
        address = self.instance("type", size=1000, **attributes)
        self.classes[name] = address
        return address

    def module(self, name: str, **attributes: int) -> int:
        address = self.instance("module", size=56, **attributes)
        self.modules.append((address, name))
        # The table of modules holds it, and is not written here.
        self.objects[address].references = 0
        return address

    def call(self, address: int, function: str) -> int:
        """Says whose coroutine or generator that is."""
        self.objects[address].called = function
        return address

    def refer(self, holder: int, target: int, name: str = "") -> None:
        self.objects[holder].edges.append((target, name))
        self.objects[holder].flags |= NAMED if name else 0

    def frame(self, function: str, file: str = "/srv/app.py", line: int = 3, thread: int = 77, **local: int) -> None:
        self.frames.append((thread, function, file, line, local))

    def root(self, kind: int, address: int, name: str = "") -> None:
        self.roots.append((kind, address, name))

    def bytes(self, end: bool = True, reason: int = 0) -> bytes:
        """The file."""
        counts = dict.fromkeys(self.objects, 0)
        holders = [edges for each in self.objects.values() if not each.flags & WEAK for edges in each.edges]
        held = [target for target, _ in holders]
        held += [target for frame in self.frames for target in frame[4].values()]
        held += [target for _, target, _ in self.roots]
        for target in held:
            counts[target] = counts.get(target, 0) + 1
        out = [b"GBHEAP1\n", record("I", json.dumps(self.info).encode())]
        types: dict[str, int] = {}
        names: dict[str, int] = {}
        before = edges_written = 0

        def name_number(name: str) -> bytes:
            if name and name not in names:
                names[name] = len(names) + 1
                out.append(record("S", text(name)))
            return varint(names.get(name, 0))

        for one in self.objects.values():
            if one.type_name not in types:
                types[one.type_name] = len(types)
                module, _, qualname = one.type_name.rpartition(".")
                address = varint(self.classes.get(one.type_name, 1))
                rest = (
                    varint(one.size)
                    + varint(0)
                    + varint(CLASSES if qualname == "type" else 0)
                    + text(module or "builtins")
                    + text(qualname)
                )
                out.append(record("T", address + rest))
            edges = []
            for target, name in one.edges:
                edge = zigzag(target - one.address)
                edges.append(edge + name_number(name) if one.flags & NAMED else edge)
            references = counts[one.address] if one.references is None else one.references
            head = zigzag(one.address - before) + varint(types[one.type_name]) + varint(one.flags) + varint(one.size)
            head += varint(0 if one.flags & IMMORTAL else max(references, 1))
            head += varint(one.length) if one.length is not None else b""
            for begin in range(0, max(len(edges), 1), EDGES_IN_A_RECORD):
                part = edges[begin : begin + EDGES_IN_A_RECORD]
                payload = varint(len(part)) + b"".join(part)
                out.append(record("E", payload) if begin else record("O", head + payload))
            if one.called:
                number = name_number(one.called)
                out.append(record("N", number))
            before = one.address
            edges_written += len(edges)
        for address, module_name in self.modules:
            out.append(record("M", varint(address) + text(module_name)))
        for thread, function, file, line, local in self.frames:
            locals_ = b"".join(varint(target) + name_number(name) for name, target in local.items())
            head = varint(thread) + text(function) + text(file) + varint(line) + varint(len(local))
            out.append(record("F", head + locals_))
        for kind, address, root_text in self.roots:
            out.append(record("R", varint(kind) + varint(address) + text(root_text)))
        if end:
            numbers = (len(self.objects), edges_written, reason, 1500)
            out.append(record("Z", b"".join(varint(number) for number in numbers)))
        return b"".join(out)

    def write(self, path: Path, **how: bool) -> Path:
        path.write_bytes(self.bytes(**how))
        return path
