"""Places in code, named by content hash.

Ids are the first 8 bytes, little-endian, of BLAKE2b-64 over the text that proto/glassbottom/wire/v1/common.proto
gives for each kind, so the same code has the same id in every process and in every store.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b


@dataclass(frozen=True)
class Frame:
    """One line of one function."""

    function: str
    file: str
    line: int

    @property
    def id(self) -> int:
        """Content hash."""
        return content_id(f"frame\0{self.function}\0{self.file}\0{self.line}".encode())


@dataclass(frozen=True)
class Stack:
    """A call path: frame ids, innermost first. label: the route that was served, empty when none was known."""

    id: int
    frames: tuple[int, ...]
    truncated: bool = False
    label: str = ""


def stack_id(frames: tuple[int, ...], label: str = "") -> int:
    """Content hash of a call path given by its frame ids, and of its label."""
    kind = f"labelled\0{label}\0".encode() if label else b"stack\0"
    return content_id(kind + b"".join(frame.to_bytes(8, "little") for frame in frames))


def type_id(name: str) -> int:
    """Content hash of a type name."""
    return content_id(f"type\0{name}".encode())


def content_id(text: bytes) -> int:
    """First 8 bytes of BLAKE2b with a digest of 8 bytes, little-endian."""
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")
