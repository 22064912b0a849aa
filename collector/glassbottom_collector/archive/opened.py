"""Opens an archive of an incident without trusting it: it may be cut short, changed, made to hurt, or too new.

Nothing is unpacked to disk. Only plain files below one directory are taken, within bounds that hold for what they
unpack to; every one of them must be in the manifest with its hash, and nothing else may be there.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ArchiveError

FORMAT_VERSION = 1
"""The newest that is understood."""
PACKED_BYTES_MAX = 512 << 20
BYTES_MAX = 512 << 20
FILE_BYTES_MAX = 64 << 20
FILES_MAX = 10_000

_PATH = re.compile(r"debug_\d{8}_\d{6}/[A-Za-z0-9_@+=,-][A-Za-z0-9._@+=,-]*(/[A-Za-z0-9_@+=,-][A-Za-z0-9._@+=,-]*)*\Z")


# What each field is of, where it is there: a type, or the fields of each item of a list.
Shape = Mapping[str, Any]
COLLECTOR: Shape = {"name": str, "state": str, "files": int, "bytes": int, "ms": (int, float)}
FILE: Shape = {"path": str, "sha256": str, "bytes": int, "node": str, "role": str, "collector": str}
ERROR: Shape = {"collector": str, "state": str, "sentence": str, "notes": list}
MANIFEST: Shape = {
    "glassbottom": str,
    "id": str,
    "issue": str,
    "service": str,
    "from_ns": int,
    "to_ns": int,
    "asked_by": str,
    "trigger": str,
    "collectors": [COLLECTOR],
    "files": [FILE],
}
NS_MAX = 2**63 - 1


@dataclass(frozen=True)
class Opened:
    """An archive whose every file is what its manifest says. files: by path, without the directory they lie in."""

    id: str
    manifest: Mapping[str, Any]
    files: Mapping[str, bytes]

    def json(self, path: str) -> Any:
        """One of them. Raises ArchiveError when it is not there or no JSON."""
        data = self.files.get(path)
        if data is None:
            raise ArchiveError(f"The archive has no {path}; `glassbottom archive inspect` lists what there is.")
        return _json(path, data)

    def below(self, directory: str) -> dict[str, bytes]:
        """Files of a directory by their path in it."""
        prefix = f"{directory}/"
        return {path.removeprefix(prefix): data for path, data in self.files.items() if path.startswith(prefix)}


def open_archive(path: Path) -> Opened:
    """Reads an archive and verifies it. Raises ArchiveError with one sentence about what is wrong."""
    try:
        if path.stat().st_size > PACKED_BYTES_MAX:
            raise ArchiveError(f"{path} has more than {PACKED_BYTES_MAX >> 20} MiB; no archive of ours is so large.")
        packed = path.read_bytes()
    except OSError as error:
        raise ArchiveError(f"{path} cannot be read: {error.strerror}.") from None
    return verified(path.name, packed)


def verified(name: str, packed: bytes) -> Opened:
    """The same of bytes. name: for sentences."""
    members = _members(name, _unpacked(name, packed))
    tops = {path.partition("/")[0] for path in members}
    if len(tops) != 1:
        raise ArchiveError(f"{name} is no archive of an incident: it does not hold one directory.")
    (top,) = tops
    files = {path.partition("/")[2]: data for path, data in members.items()}
    if "manifest.json" not in files:
        raise ArchiveError(f"{name} is no archive of an incident: it has no manifest.json.")
    manifest = _json("manifest.json", files["manifest.json"])
    if not isinstance(manifest, dict):
        raise ArchiveError(f"The manifest of {name} is no object.")
    _check_version(name, manifest)
    _check_shape(name, "manifest.json", manifest, MANIFEST)
    _check_files(name, manifest, files)
    if "errors.json" in files:
        _check_shape(name, "errors.json", {"errors": _json("errors.json", files["errors.json"])}, {"errors": [ERROR]})
    return Opened(top, manifest, files)


def _unpacked(name: str, packed: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as stream:
            data = stream.read(BYTES_MAX + 1)
    except (OSError, EOFError, zlib.error):
        raise ArchiveError(f"{name} is damaged or cut short: it does not unpack; fetch it again.") from None
    if len(data) > BYTES_MAX:
        raise ArchiveError(f"{name} unpacks to more than {BYTES_MAX >> 20} MiB; it is refused.")
    return data


def _members(name: str, data: bytes) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for member in tar:
                if not member.isreg():
                    raise ArchiveError(f"{name} holds {member.name[:200]!r}, which is no plain file; it is refused.")
                if _PATH.match(member.name) is None:
                    raise ArchiveError(
                        f"{name} holds {member.name[:200]!r}, which leaves its directory; it is refused."
                    )
                if member.name in found:
                    raise ArchiveError(f"{name} holds {member.name!r} twice; it is refused.")
                if len(found) >= FILES_MAX or member.size > FILE_BYTES_MAX:
                    raise ArchiveError(f"{name} holds more, or larger, files than an archive of ours; it is refused.")
                stream = tar.extractfile(member)
                found[member.name] = b"" if stream is None else stream.read()
                if len(found[member.name]) != member.size:
                    raise ArchiveError(f"{name} is cut short in {member.name}; fetch it again.")
    except (tarfile.TarError, ValueError, OverflowError, RecursionError):
        raise ArchiveError(f"{name} is damaged or cut short; fetch it again.") from None
    if not found:
        raise ArchiveError(f"{name} is empty, or damaged at its beginning.")
    return found


def _check_version(name: str, manifest: Mapping[str, Any]) -> None:
    version = manifest.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ArchiveError(f"The manifest of {name} does not say which format it has.")
    if version > FORMAT_VERSION:
        raise ArchiveError(
            f"{name} has format {version}, and this glassbottom knows {FORMAT_VERSION}: install a newer glassbottom."
        )


def _check_shape(name: str, path: str, document: Mapping[str, Any], shape: Shape) -> None:
    """Raises ArchiveError for a field that is missing, or of another type than every archive of ours has."""
    for field, kind in shape.items():
        value = document.get(field)
        if isinstance(kind, list):
            if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
                raise ArchiveError(f"{field} in {path} of {name} is no list of objects; it is refused.")
            for item in value:
                # Of files that come from no node, the node is not told.
                _check_shape(name, path, {**dict.fromkeys(("node", "role"), ""), **item}, kind[0])
        elif not isinstance(value, kind) or isinstance(value, bool):
            raise ArchiveError(f"{field} in {path} of {name} is missing, or is not what it should be; it is refused.")
        elif isinstance(value, int) and not 0 <= value <= NS_MAX:
            raise ArchiveError(f"{field} in {path} of {name} is out of range; it is refused.")


def _check_files(name: str, manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    listed: dict[str, str] = {entry["path"]: entry["sha256"] for entry in manifest["files"]}
    there = set(files) - {"manifest.json"}
    if missing := sorted(set(listed) - there):
        raise ArchiveError(f"{name} lacks {missing[0]}, which its manifest lists; somebody took it out.")
    if extra := sorted(there - set(listed)):
        raise ArchiveError(f"{name} holds {extra[0]}, which its manifest does not list; somebody put it in.")
    for path, digest in listed.items():
        if hashlib.sha256(files[path]).hexdigest() != digest:
            raise ArchiveError(f"{path} in {name} is not what the manifest says; somebody changed it.")


def _json(path: str, data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise ArchiveError(f"{path} in the archive is no JSON.") from None
