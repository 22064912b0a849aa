"""Where a capture's file lies until the collector has it: a directory of its own, that only this user can read.

In containers /tmp is often in memory, where a large file would cost just what is being looked into; then /var/tmp is
taken if that lies on a disk, and otherwise the file must be small.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from .._errors import CaptureError

PREFIX = "glassbottom-capture-"
FREE_BYTES_MIN = 128 * 1024 * 1024
"""Left on the file system for others."""
IN_MEMORY_BYTES_MAX = 64 * 1024 * 1024
LEFT_OVER_AFTER_S = 3 * 3600
"""Older than any lease: of a process that was killed."""
MOUNTS = Path("/proc/self/mountinfo")


@dataclass(frozen=True)
class Place:
    """A directory for files, and how many bytes may go there now."""

    path: Path
    bytes_max: int


def choose(configured: Path | None, bytes_max: int, mounts: Path = MOUNTS) -> Place:
    """The configured directory, or the first of TMPDIR, /tmp and /var/tmp that lies on a disk.

    Raises CaptureError when there is none to write to, or no room.
    """
    if configured is not None:
        candidates = [configured]
    else:
        candidates = [Path(name) for name in (os.environ.get("TMPDIR", ""), "/tmp", "/var/tmp") if name]  # noqa: S108
    usable = [path for path in candidates if os.access(path, os.W_OK | os.X_OK) and path.is_dir()]
    if not usable:
        names = " and ".join(dict.fromkeys(map(str, candidates)))
        raise CaptureError(f"{names} cannot be written to; name a directory in GLASSBOTTOM_CAPTURE_DIR.")
    in_memory = {path: _lies_in_memory(path, mounts) for path in usable}
    path = next((path for path in usable if not in_memory[path]), usable[0])
    status = os.statvfs(path)
    room = status.f_bavail * status.f_frsize - FREE_BYTES_MIN
    if room <= 0:
        raise CaptureError(
            f"{path} has less than {FREE_BYTES_MIN >> 20} MiB free; make room, or name another directory in "
            "GLASSBOTTOM_CAPTURE_DIR."
        )
    return Place(path, min(bytes_max, room, IN_MEMORY_BYTES_MAX if in_memory[path] else bytes_max))


def make_directory(place: Path) -> Path:
    """A new directory in place, after those that killed processes have left there are gone."""
    clear_left_overs(place, time.time())
    path = place / f"{PREFIX}{os.urandom(8).hex()}"
    path.mkdir(mode=0o700)
    return path


def remove_directory(path: Path) -> None:
    """With all that is in it. What cannot be removed stays until it counts as left over."""
    from shutil import rmtree

    rmtree(path, ignore_errors=True)


def clear_left_overs(place: Path, now: float) -> None:
    """now: as time.time(). Only this user's, and only those older than any lease."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(place):
            if not entry.name.startswith(PREFIX) or not entry.is_dir(follow_symlinks=False):
                continue
            status = entry.stat(follow_symlinks=False)
            if status.st_uid == os.geteuid() and now - status.st_mtime > LEFT_OVER_AFTER_S:
                remove_directory(Path(entry.path))


def _lies_in_memory(path: Path, mounts: Path) -> bool:
    """By the mount that holds it; False where that cannot be known."""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
        real = os.path.realpath(path)
    except OSError:
        return False
    deepest, kind = "", ""
    for line in lines:
        before, separator, after = line.partition(" - ")
        fields = before.split()
        if not separator or len(fields) < 5:
            continue
        point = fields[4].replace("\\040", " ")
        within = real == point or real.startswith(point.rstrip("/") + "/")
        # The last of two mounts at one point is the one that is seen.
        if within and len(point) >= len(deepest):
            deepest, kind = point, after.split()[0]
    return kind in ("tmpfs", "ramfs")
