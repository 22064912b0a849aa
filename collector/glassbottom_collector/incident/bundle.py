"""The files of an archive while it is being put together, and the archive itself: the same files are the same bytes.

Everything that comes in is made harmless before it is kept, is bounded, and is refused where its path could leave the
archive. Names of services, databases and tables are other people's: segment() makes a part of a path from any text.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import tarfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .parts import CollectingError, Role, as_json

FILE_BYTES_MAX = 16 << 20
TOTAL_BYTES_MAX = 96 << 20
"""Before compression; text becomes a fifth or less, so an archive stays well below 20 MB."""
FILES_MAX = 5_000
NOTES_MAX = 100
NOTE_CHARACTERS_MAX = 500
PATH_CHARACTERS_MAX = 200

_PART = re.compile(r"[A-Za-z0-9_@+=,-][A-Za-z0-9._@+=,-]{0,99}\Z")
_OTHERS = re.compile(r"[^A-Za-z0-9._@+=,-]+")


class Redactor(Protocol):
    """Makes text harmless; see redaction."""

    def text(self, text: str, place: str) -> str: ...

    def json(self, value: Any, place: str) -> Any: ...

    def sql(self, statement: str, place: str) -> str: ...

    def ledger(self) -> Sequence[Mapping[str, Any]]: ...


@dataclass(frozen=True)
class File:
    """One file: what it holds, where that came from, and which collector brought it."""

    data: bytes
    node: str
    role: Role
    collector: str


def segment(text: str) -> str:
    """A part of a path for a name that somebody else chose. Names that look alike stay apart by a hash."""
    if _PART.match(text):
        return text
    plain = _OTHERS.sub("_", text).lstrip(".")[:80] or "unnamed"
    return f"{plain}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


class Bundle:
    """Takes files from several threads."""

    def __init__(self, redactor: Redactor, *, bytes_max: int = TOTAL_BYTES_MAX) -> None:
        self._redactor = redactor
        self._bytes_max = bytes_max
        self._bytes = 0
        self._files: dict[str, File] = {}
        self._lock = threading.Lock()

    def sink(self, collector: str) -> BundleSink:
        """Where one collector leaves what it finds, until it is closed."""
        return BundleSink(self, self._redactor, collector)

    def harmless(self, sentence: str) -> str:
        """A sentence as it may be shown: errors quote what they were given."""
        return self._redactor.text(sentence, "errors.json")

    def files(self) -> Mapping[str, File]:
        """What has come in, by path, in order of paths."""
        with self._lock:
            return dict(sorted(self._files.items()))

    def put(self, path: str, content: str | bytes, node: str, role: Role, collector: str) -> str:
        """Keeps a file; a sentence when it had to be cut, else "". Raises CollectingError, also for a binary file that
        does not fit: half of one is worth nothing."""
        parts = path.split("/")
        if len(path) > PATH_CHARACTERS_MAX or any(_PART.match(part) is None for part in parts):
            raise CollectingError(f"{path[:PATH_CHARACTERS_MAX]!r} is no path within an archive.")
        data = content.encode("utf-8", "replace") if isinstance(content, str) else content
        with self._lock:
            if path in self._files:
                raise CollectingError(f"{path} is in the archive already.")
            if len(self._files) >= FILES_MAX:
                raise CollectingError(f"{path} is left out: an archive holds at most {FILES_MAX} files.")
            room = min(FILE_BYTES_MAX, self._bytes_max - self._bytes)
            whole = len(data)
            if whole > room and isinstance(content, bytes):
                raise CollectingError(f"{path} has {whole} bytes and does not fit into the archive any more.")
            if whole > room:
                # At the end of a line, so that what is left can be read.
                data = data[: data.rfind(b"\n", 0, max(room, 0)) + 1]
            self._bytes += len(data)
            self._files[path] = File(data, node, role, collector)
        return "" if len(data) == whole else f"{path} was cut to {len(data)} of {whole} bytes: there is no more room."


class BundleSink:
    """Implements parts.Sink for one collector."""

    def __init__(self, bundle: Bundle, redactor: Redactor, collector: str) -> None:
        self._bundle = bundle
        self._redactor = redactor
        self._collector = collector
        self._closed = False
        self._lock = threading.Lock()
        self.notes: list[str] = []
        self.notes_dropped = 0

    def text(self, path: str, text: str, *, node: str, role: Role) -> None:
        self._put(path, self._redactor.text(text, path), node, role)

    def json(self, path: str, value: Any, *, node: str, role: Role) -> None:
        self._put(path, as_json(self._redactor.json(value, path)), node, role)

    def anonymised(self, path: str, text: str, *, node: str, role: Role) -> None:
        self._put(path, text, node, role)

    def numbers(self, path: str, data: bytes, *, node: str, role: Role) -> None:
        self._put(path, data, node, role)

    def note(self, sentence: str) -> None:
        with self._lock:
            if self._closed:
                return
            if len(self.notes) >= NOTES_MAX:
                self.notes_dropped += 1
                return
            self.notes.append(self._redactor.text(sentence, "errors.json")[:NOTE_CHARACTERS_MAX])

    def close(self) -> None:
        """Nothing comes in any more: whoever is late has lost its turn."""
        with self._lock:
            self._closed = True

    def _put(self, path: str, data: str | bytes, node: str, role: Role) -> None:
        with self._lock:
            if self._closed:
                raise CollectingError(f"{self._collector} was too late; its time was over.")
            # A node can be named by what a person typed into a configuration.
            cut = self._bundle.put(path, data, self._redactor.text(node, "manifest.json"), role, self._collector)
        if cut:
            self.note(cut)


def pack(files: Mapping[str, bytes], *, at_s: int, top: str) -> bytes:
    """A tar.gz of these files below the directory `top`: sorted, owned by nobody, 0600, dated at_s (Unix seconds)."""
    tar_bytes = io.BytesIO()
    with tarfile.open(fileobj=tar_bytes, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(files):
            entry = tarfile.TarInfo(f"{top}/{path}")
            entry.size = len(files[path])
            entry.mode = 0o600
            entry.mtime = at_s
            tar.addfile(entry, io.BytesIO(files[path]))
    packed = io.BytesIO()
    # No name and no time in the header of gzip, and one level: all three would be others on another day or machine.
    with gzip.GzipFile(filename="", mode="wb", fileobj=packed, compresslevel=6, mtime=0) as stream:
        stream.write(tar_bytes.getbuffer())
    return packed.getvalue()
