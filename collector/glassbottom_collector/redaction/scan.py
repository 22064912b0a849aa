"""The second look: goes through a finished archive as a stranger would, and tells what should not be in it.

The finders are those of the Redactor, over every byte that leaves the house: names of members, archives in archives,
compressed files. What cannot be looked into (too deep, too large, encrypted, damaged) is a hit as well: an archive
that was not looked through is not known to be harmless.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from .finding import found
from .redactor import chunks

DEPTH_MAX = 6
BYTES_MAX = 512 << 20  # of all that is unpacked for one call
MEMBERS_MAX = 50_000
HITS_MAX = 1_000
NOT_SCANNED = "not-scanned"

_GZIP, _BZIP2, _XZ, _ZIP, _ZSTD = b"\x1f\x8b\x08", b"BZh", b"\xfd7zXZ\0", b"PK\x03\x04", b"\x28\xb5\x2f\xfd"
_TAR_AT, _TAR = 257, b"ustar"


@dataclass(frozen=True)
class Hit:
    """Something that should not be there, never with its value. path: as PATH!MEMBER!MEMBER; line: from 1.
    rule: as in the ledger, or `not-scanned`, and then `why` says why."""

    rule: str
    path: str
    line: int
    characters: int
    why: str = ""


class _Stop(Exception):  # noqa: N818 - ends the walk, is no failure
    """A bound was reached. The text says which."""


class _Scan:
    """One call. Counts what it has unpacked."""

    def __init__(self, personal: bool, addresses: bool) -> None:
        self._personal, self._addresses = personal, addresses
        self._bytes_left, self._members_left = BYTES_MAX, MEMBERS_MAX
        self.hits: list[Hit] = []

    def look(self, path: str, data: bytes, depth: int) -> None:
        """At one file: into it when it is an archive, else at its text."""
        try:
            inside = self._inside(data)
            if inside is None:
                self._text(path, data)
                return
            if depth >= DEPTH_MAX:
                self._not_scanned(path, f"an archive more than {DEPTH_MAX} levels deep")
                return
            for name, content in inside:
                self._text(f"{path}!", name.encode("utf-8", "surrogateescape"))
                self.look(f"{path}!{name}", content, depth + 1)
        except (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, zlib.error, lzma.LZMAError) as error:
            self._not_scanned(path, f"it cannot be unpacked ({type(error).__name__})")
        except (tarfile.TarError, zipfile.BadZipFile) as error:
            self._not_scanned(path, f"it cannot be unpacked ({type(error).__name__})")

    def _text(self, path: str, data: bytes) -> None:
        self._lines(path, data)
        if b"\0" in data:  # UTF-16 and its like read as text when the zeros are gone
            self._lines(path, data.replace(b"\0", b""))

    def _lines(self, path: str, data: bytes) -> None:
        line = 1
        for chunk in chunks(data):
            for span in found(chunk, path, with_personal=self._personal, with_addresses=self._addresses):
                at = line + chunk.count(b"\n", 0, span.start)
                characters = len(chunk[span.start : span.end].decode("utf-8", "replace"))
                self._add(Hit(span.rule, path, at, characters))
            line += chunk.count(b"\n")

    def _add(self, hit: Hit) -> None:
        if len(self.hits) >= HITS_MAX:
            raise _Stop(f"more than {HITS_MAX} hits")
        if hit not in self.hits[-8:]:
            self.hits.append(hit)

    def _not_scanned(self, path: str, why: str) -> None:
        self._add(Hit(NOT_SCANNED, path, 0, 0, why))

    def _inside(self, data: bytes) -> Iterator[tuple[str, bytes]] | None:
        """(name, content) of what is in an archive or a compressed file; None when it is neither."""
        if data[_TAR_AT : _TAR_AT + len(_TAR)] == _TAR:
            return self._tar(data)
        if data.startswith(_ZIP):
            return self._zip(data)
        for magic, opened in _STREAMS.items():
            if data.startswith(magic):
                return self._stream(opened, data)
        return None

    def _tar(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for member in archive:
                self._count_member()
                # What a member is called and who owns it are bytes of the archive like any others.
                yield (
                    member.name,
                    "\n".join((member.linkname, member.uname, member.gname, *member.pax_headers.values())).encode(),
                )
                content = archive.extractfile(member) if member.isreg() else None
                if content is not None:
                    yield member.name, self._read(content)

    def _zip(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            yield "", archive.comment
            for member in archive.infolist():
                self._count_member()
                yield member.filename, member.comment
                if not member.is_dir():
                    with archive.open(member) as content:
                        yield member.filename, self._read(content)

    def _stream(self, opened: Callable[[Any], Any], data: bytes) -> Iterator[tuple[str, bytes]]:
        self._count_member()
        with opened(io.BytesIO(data)) as content:
            yield "", self._read(content)

    def _count_member(self) -> None:
        self._members_left -= 1
        if self._members_left < 0:
            raise _Stop(f"more than {MEMBERS_MAX} files")

    def _read(self, content: Any) -> bytes:
        """All of it, within what is left of the budget: a bomb is noticed before it is unpacked."""
        data = cast("bytes", content.read(self._bytes_left + 1))
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            raise _Stop(f"more than {BYTES_MAX >> 20} MiB when unpacked")
        return data


def _zstd(source: Any) -> Any:
    import zstandard

    return zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(source, read_across_frames=True)


_STREAMS: dict[bytes, Callable[[Any], Any]] = {
    _GZIP: lambda source: gzip.GzipFile(fileobj=source),
    _BZIP2: bz2.BZ2File,
    _XZ: lzma.LZMAFile,
    _ZSTD: _zstd,
}


def scan(path_in_archive: str, data: bytes, *, personal: bool = True, addresses: bool = False) -> list[Hit]:
    """Looks through a file, or through everything in an archive. Raises nothing, whatever the bytes.

    Returns at most 1 000 hits, none when the file is harmless. addresses: whether an IP address that is not one of ours
    counts; off, since a version can look like one.
    """
    looking = _Scan(personal, addresses)
    try:
        looking.look(path_in_archive, data, 0)
    except _Stop as bound:
        looking.hits.append(Hit(NOT_SCANNED, path_in_archive, 0, 0, str(bound)))
    return looking.hits
