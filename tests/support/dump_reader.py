"""Reads a heap dump in plain Python, record by record, believing nothing: what docs/heap-dump-format.md says, no more.

Slow and simple on purpose. It is what the agent's file is held against; the collector has a reader of its own.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAGIC = b"GBHEAP1\n"
TRACKED, IMMORTAL, HAS_LENGTH, KEY_VALUE, NAMED, ITEMS = 1, 2, 4, 8, 16, 32


@dataclass
class Type:
    address: int
    basicsize: int
    itemsize: int
    flags: int
    module: str
    qualname: str


@dataclass
class Object:
    address: int
    type: Type
    flags: int
    size: int
    refcount: int
    length: int | None
    dump: Dump = field(repr=False)
    written: list[_Cursor] = field(default_factory=list, repr=False)
    """Its references, a record each; read when they are asked for."""
    called: str = ""

    @property
    def edges(self) -> list[tuple[int, str]]:
        """Address and name, "" without."""
        found = []
        for record in self.written:
            c = _Cursor(record.data, record.at, record.end)
            for _ in range(c.varint()):
                target = self.address + c.signed()
                found.append((target, self.dump.names[c.varint()] if self.flags & NAMED else ""))
            assert c.at == c.end, "bytes left behind the references"
        return found

    @property
    def targets(self) -> list[int]:
        return [address for address, _ in self.edges]

    def named(self, name: str) -> int:
        """The address under that name, which must be the only one."""
        (address,) = [address for address, found in self.edges if found == name]
        return address


@dataclass
class Frame:
    thread: int
    function: str
    file: str
    line: int
    locals: list[tuple[int, str]]


@dataclass
class Dump:
    info: dict[str, Any] = field(default_factory=dict)
    types: list[Type] = field(default_factory=list)
    names: list[str] = field(default_factory=lambda: [""])
    objects: dict[int, Object] = field(default_factory=dict)
    modules: dict[int, str] = field(default_factory=dict)
    frames: list[Frame] = field(default_factory=list)
    roots: list[tuple[int, int, str]] = field(default_factory=list)
    end: list[int] | None = None
    """Objects, edges, reason, elapsed_us, and what more there may be; None when the file was cut short."""
    records: int = 0
    repeated: int = 0


class _Cursor:
    def __init__(self, data: bytes, at: int = 0, end: int | None = None) -> None:
        self.data, self.at, self.end = data, at, len(data) if end is None else end

    def varint(self) -> int:
        value = shift = 0
        while True:
            if self.at >= self.end:
                raise EOFError
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    def signed(self) -> int:
        value = self.varint()
        return value >> 1 ^ -(value & 1)

    def text(self) -> str:
        length = self.varint()
        self.at += length
        assert self.at <= self.end
        return self.data[self.at - length : self.at].decode()


def ends(path: Path) -> tuple[dict[str, Any], list[int] | None]:
    """What the first record says, and the numbers of the last; None when that is not the end. Looks at nothing else."""
    data = path.read_bytes()
    assert data.startswith(MAGIC)
    c = _Cursor(data, len(MAGIC))
    info: dict[str, Any] = {}
    while c.at < len(data):
        tag = data[c.at]
        c.at += 1
        with contextlib.suppress(EOFError):
            length = c.varint()
            if c.at + length > len(data):
                break
            if not info:
                info = json.loads(data[c.at : c.at + length])
            if tag == ord("Z"):
                assert c.at + length == len(data)
                found = []
                while c.at < len(data):
                    found.append(c.varint())
                return info, found
            c.at += length
    return info, None


def read(path: Path) -> Dump:
    """A file cut off in the middle of a record is read up to there."""
    data = path.read_bytes()
    assert data.startswith(MAGIC)
    dump = Dump()
    c = _Cursor(data, len(MAGIC))
    last: Object | None = None
    previous = 0
    while c.at < len(data):
        try:
            tag = chr(data[c.at])
            c.at += 1
            length = c.varint()
        except EOFError:
            return dump
        if c.at + length > len(data):
            return dump
        record = _Cursor(data, c.at, c.at + length)
        c.at += length
        dump.records += 1
        assert dump.end is None, "nothing follows the end"
        assert (tag == "I") == (dump.records == 1)
        if tag == "I":
            dump.info = json.loads(data[record.at : record.end])
            continue
        if tag == "T":
            dump.types.append(Type(*[record.varint() for _ in range(4)], record.text(), record.text()))
        elif tag == "S":
            dump.names.append(record.text())
        elif tag == "O":
            previous += record.signed()
            kind, flags, size, refcount = (record.varint() for _ in range(4))
            length_of = record.varint() if flags & HAS_LENGTH else None
            last = Object(previous, dump.types[kind], flags, size, refcount, length_of, dump, [record])
            dump.repeated += previous in dump.objects
            dump.objects.setdefault(previous, last)
            continue
        elif tag == "E":
            assert last is not None
            last.written.append(record)
            continue
        elif tag == "N":
            assert last is not None
            last.called = dump.names[record.varint()]
        elif tag == "M":
            module = record.varint()
            dump.modules[module] = record.text()
        elif tag == "F":
            frame = Frame(record.varint(), record.text(), record.text(), record.varint(), [])
            frame.locals = [(record.varint(), dump.names[record.varint()]) for _ in range(record.varint())]
            dump.frames.append(frame)
        elif tag == "R":
            kind, address = record.varint(), record.varint()
            dump.roots.append((kind, address, record.text()))
        elif tag == "Z":
            dump.end = []
            while record.at < record.end:
                dump.end.append(record.varint())
        else:
            raise AssertionError(f"unknown record {tag!r}")
        assert record.at == record.end, f"bytes left in a record {tag!r}"
    return dump
