"""Where the file of a capture may lie."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from glassbottom._errors import CaptureError
from glassbottom.captures import places
from glassbottom.captures.places import IN_MEMORY_BYTES_MAX, PREFIX, choose, make_directory

pytestmark = pytest.mark.once

GIB = 1 << 30


def mounts(tmp_path: Path, *points: tuple[Path, str]) -> Path:
    """A mountinfo in which these are mounted."""
    path = tmp_path / "mountinfo"
    lines = ["1 0 0:1 / / rw shared:1 - ext4 /dev/root rw"]
    lines += [f"2 1 0:2 / {point} rw,nosuid shared:2 - {kind} none rw" for point, kind in points]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_directory_on_a_disk_is_taken_before_one_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "memory"))
    (tmp_path / "memory").mkdir()
    place = choose(None, GIB, mounts(tmp_path, (tmp_path / "memory", "tmpfs")))
    assert place.path in (Path("/tmp"), Path("/var/tmp"))


def test_in_memory_a_file_must_be_small(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    escaped = Path(str(tmp_path / "a b").replace(" ", "\\040"))
    assert choose(tmp_path / "a b", GIB, mounts(tmp_path, (escaped, "tmpfs"))).bytes_max == IN_MEMORY_BYTES_MAX
    assert choose(tmp_path / "a b", 100, mounts(tmp_path, (escaped, "tmpfs"))).bytes_max == 100


def test_a_disk_mounted_inside_memory_is_a_disk(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    table = mounts(tmp_path, (tmp_path, "tmpfs"), (tmp_path / "disk", "ext4"))
    assert choose(tmp_path / "disk", 1000 * IN_MEMORY_BYTES_MAX, table).bytes_max > IN_MEMORY_BYTES_MAX


def test_without_a_table_of_mounts_a_directory_counts_as_a_disk(tmp_path: Path) -> None:
    place = choose(tmp_path, 2 * IN_MEMORY_BYTES_MAX, tmp_path / "none")
    assert place.bytes_max == 2 * IN_MEMORY_BYTES_MAX


def test_a_directory_that_cannot_be_used_is_named_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="nowhere cannot be written to; name a directory in GLASSBOTTOM_CAPTURE_DIR"):
        choose(tmp_path / "nowhere", GIB)


def test_a_full_disk_is_a_refusal_and_room_is_left_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    monkeypatch.setattr(places, "FREE_BYTES_MIN", free // 2)
    assert choose(tmp_path, 1 << 60, tmp_path / "none").bytes_max <= free - free // 2 + GIB
    monkeypatch.setattr(places, "FREE_BYTES_MIN", 1 << 60)
    with pytest.raises(CaptureError, match="make room, or name another directory"):
        choose(tmp_path, GIB)


def test_only_this_user_can_read_what_a_capture_writes(tmp_path: Path) -> None:
    assert make_directory(tmp_path).stat().st_mode & 0o777 == 0o700


def test_what_a_killed_process_left_is_removed_once_it_is_older_than_any_lease(tmp_path: Path) -> None:
    old, young, foreign = tmp_path / f"{PREFIX}old", tmp_path / f"{PREFIX}young", tmp_path / "something-else"
    for path in (old, young, foreign):
        path.mkdir()
        (path / "file").write_text("x")
    long_ago = time.time() - places.LEFT_OVER_AFTER_S - 60
    for path in (old, foreign):
        os.utime(path, (long_ago, long_ago))
    made = make_directory(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([young, foreign, made])
