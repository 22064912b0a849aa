"""Files of captures on the disk, and the record of every attempt, through crashes, bounds and a full disk."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from glassbottom_collector.captures import CaptureStore
from glassbottom_collector.captures import store as module
from glassbottom_collector.captures.store import PIECE_BYTES_MAX
from glassbottom_collector.config import CapturesConfig
from glassbottom_collector.errors import BadRequest, NotFound, StorageError, StorageFull
from glassbottom_collector.model.capture import FAILED, ORDERED, REFUSED, STORED, UPLOADING, CaptureRow

pytestmark = pytest.mark.once

DAY_NS = 86_400 * 10**9
NOW_NS = 1_700_000_000 * 10**9


def order(number: int, at_ns: int = NOW_NS, service: str = "checkout") -> CaptureRow:
    return CaptureRow(
        id=f"{number:032x}",
        kind="dump_heap",
        service=service,
        instance_id="i" * 32,
        state=ORDERED,
        asked_at_ns=at_ns,
        asked_by="me",
        lease_until_ns=at_ns + 900 * 10**9,
        bytes_max=10**9,
        options={"native": "1"},
    )


class Opened:
    """opened(**limits): the store of one directory, closed before it is opened again; `now_ns` is its clock."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.now_ns = NOW_NS
        self.store: CaptureStore | None = None

    def __call__(self, **limits: int) -> CaptureStore:
        self.close()
        config = CapturesConfig(**{"bytes_max": 10_000, "file_bytes_max": 10_000, **limits})
        self.store = CaptureStore(self.directory, config, lambda: self.now_ns)
        return self.store

    def close(self) -> None:
        if self.store is not None:
            self.store.close()
            self.store = None

    def names(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir() if path.name != "audit.jsonl")


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    opened = Opened(tmp_path / "captures")
    yield opened
    opened.close()


def stored(store: CaptureStore, number: int, content: bytes, at_ns: int = NOW_NS) -> CaptureRow:
    """A capture from order to file."""
    row = store.open(order(number, at_ns))
    store.begin(row.id, len(content))
    store.write(row.id, 0, content)
    return store.complete(row.id)


def test_a_row_is_there_after_a_restart_with_every_field(opened: Opened) -> None:
    store = opened()
    store.open(order(1))
    store.change(f"{1:032x}", state=STORED, numbers={"pause_ms": 1.25}, texts={"note": "naïve"}, reason="")
    row = store.get("0")
    assert (row.state, row.ended_at_ns) == (STORED, NOW_NS)
    assert opened().get("0") == row
    assert dataclasses.replace(row, state=ORDERED, ended_at_ns=0, numbers={}, texts={}) == order(1)


def test_an_end_is_final(opened: Opened) -> None:
    store = opened()
    row = store.open(order(1))
    store.change(row.id, state=REFUSED, reason="No.")
    assert store.change(row.id, state=STORED).state == REFUSED
    assert opened().get(row.id).reason == "No."


def test_a_half_written_line_is_passed_over_and_the_next_row_is_whole(opened: Opened) -> None:
    opened().open(order(1))
    opened.close()
    with (opened.directory / "audit.jsonl").open("ab") as file:
        file.write(b'{"id":"half')
    store = opened()
    store.open(order(2))
    assert store.statistics()["captures_rows_unreadable_total"] == 1
    assert [row.id for row in opened().list()] == [order(2).id, order(1).id]


def test_a_row_of_a_newer_version_can_still_be_read(opened: Opened) -> None:
    opened().open(order(1))
    opened.close()
    path = opened.directory / "audit.jsonl"
    path.write_text(path.read_text().replace('{"id"', '{"novelty":[1],"id"'))
    assert opened().get(order(1).id) == order(1)


def test_a_file_is_only_where_it_can_be_read_when_it_is_whole(opened: Opened) -> None:
    store = opened()
    row = store.open(order(1))
    store.begin(row.id, 6)
    store.write(row.id, 0, b"abc")
    assert opened.names() == [f"{row.id}.dump_heap.part"]
    with pytest.raises(NotFound, match="not complete"):
        store.path_of(row.id)
    store.write(row.id, 3, b"def")
    store.complete(row.id)
    assert opened.names() == [f"{row.id}.dump_heap"]
    assert store.path_of(row.id).read_bytes() == b"abcdef"
    assert store.path_of(row.id).stat().st_mode & 0o077 == 0, "for this user alone"


def test_a_restart_goes_on_before_the_last_piece(opened: Opened) -> None:
    store = opened(bytes_max=1 << 30, file_bytes_max=1 << 30)
    row = store.open(order(1))
    store.begin(row.id, 3 * PIECE_BYTES_MAX)
    for number in range(2):
        store.write(row.id, number * PIECE_BYTES_MAX, b"x" * PIECE_BYTES_MAX)
    again = opened(bytes_max=1 << 30, file_bytes_max=1 << 30)
    assert again.get(row.id).state == UPLOADING
    assert again.get(row.id).stored_bytes == PIECE_BYTES_MAX
    assert again.begin(row.id, 3 * PIECE_BYTES_MAX).stored_bytes == PIECE_BYTES_MAX


def test_a_crash_between_renaming_and_recording_is_found_at_the_start(opened: Opened) -> None:
    store = opened()
    row = store.open(order(1))
    store.begin(row.id, 3)
    store.write(row.id, 0, b"abc")
    opened.close()
    (opened.directory / f"{row.id}.dump_heap.part").rename(opened.directory / f"{row.id}.dump_heap")
    assert opened().get(row.id).state == STORED
    assert opened().path_of(row.id).read_bytes() == b"abc"


def test_what_nobody_waits_for_is_removed_at_the_start(opened: Opened) -> None:
    store = opened()
    row = store.open(order(1))
    store.begin(row.id, 3)
    kept = stored(store, 2, b"kept")
    opened.close()
    (opened.directory / "ffff.dump_heap").write_bytes(b"whose?")
    store = opened()
    store.change(row.id, state=FAILED, reason="Its lease ended.")
    assert opened.names() == [f"{kept.id}.dump_heap"]


def test_a_file_somebody_deleted_by_hand_is_said_to_be_gone(opened: Opened) -> None:
    row = stored(opened(), 1, b"abc")
    (opened.directory / f"{row.id}.dump_heap").unlink()
    with pytest.raises(NotFound, match="was deleted"):
        opened().path_of(row.id)


def test_the_oldest_files_go_first_and_their_rows_stay(opened: Opened) -> None:
    store = opened()
    for number in range(4):
        opened.now_ns = NOW_NS + number
        stored(store, number, b"x" * 4000, NOW_NS + number)
    assert [row.has_file for row in store.list()] == [True, True, False, False]
    assert len(opened.names()) == 2
    with pytest.raises(NotFound, match="deleted for its age or to make room"):
        store.path_of(order(0).id)
    assert store.statistics()["captures_files_deleted_total"] == 2
    assert store.statistics()["captures_bytes"] == 8000


def test_a_file_goes_when_it_is_too_old(opened: Opened) -> None:
    store = opened(retention_days=3)
    row = stored(store, 1, b"abc")
    opened.now_ns += 3 * DAY_NS
    store.retire()
    assert store.get(row.id).has_file
    opened.now_ns += 1
    store.retire()
    assert not store.get(row.id).has_file
    assert opened.names() == []


def test_rows_are_bounded_too_and_the_record_is_written_anew(opened: Opened) -> None:
    store = opened(records_max=10)
    for number in range(100):
        row = store.open(order(number, NOW_NS + number))
        store.change(row.id, state=REFUSED, reason="No.")
        store.retire()
    assert [row.id for row in store.list()] == [order(number).id for number in range(99, 89, -1)]
    assert (opened.directory / "audit.jsonl").read_bytes().count(b"\n") <= 4 * 10 + 1
    assert [row.id for row in opened(records_max=10).list()] == [order(number).id for number in range(99, 89, -1)]


def test_without_room_on_the_disk_nothing_is_begun(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened()
    stored(store, 1, b"abc")
    row = store.open(order(2))
    monkeypatch.setattr(module, "FREE_BYTES_MIN", 1 << 60)
    with pytest.raises(StorageFull, match="make room there"):
        store.begin(row.id, 100)


def test_a_disk_that_is_full_meanwhile_is_a_sentence(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened()
    row = store.open(order(1))
    store.begin(row.id, 3)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StorageFull, match="cannot write to its directory of captures: No space left"):
        store.write(row.id, 0, b"abc")


def test_a_row_that_cannot_be_written_is_an_error_and_not_remembered(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", full)
        with pytest.raises(StorageFull):
            store.open(order(1))
    assert store.list() == []
    assert store.statistics()["captures_rows_unwritten_total"] == 1
    store.open(order(2))
    assert order(2).id in [row.id for row in opened().list()]


def test_a_failure_ends_a_capture_also_when_the_disk_is_too_full_to_record_it(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    row = store.open(order(1))
    store.begin(row.id, 3)
    store.write(row.id, 0, b"ab")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", full)
        store.change(row.id, state=FAILED, reason="No room.")
    assert store.get(row.id).state == FAILED
    assert opened.names() == []


def test_an_id_may_be_shortened_while_it_is_unique(opened: Opened) -> None:
    store = opened()
    for number in (0x1A << 120, 0x1B << 120):
        store.open(order(number))
    assert store.get("1a").id.startswith("1a")
    with pytest.raises(BadRequest, match="2 captures have an id that begins with 1"):
        store.get("1")
    for unknown in ("2", ""):
        with pytest.raises(NotFound, match="`glassbottom captures` lists"):
            store.get(unknown)


def test_the_latest_come_first_and_of_one_service_when_asked(opened: Opened) -> None:
    store = opened()
    for number, service in enumerate(("a", "b", "a")):
        store.open(order(number, NOW_NS + number, service))
    assert [row.service for row in store.list()] == ["a", "b", "a"]
    assert [row.id for row in store.list("a", limit=1)] == [order(2).id]


def test_a_directory_that_cannot_be_used_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot be used"):
        CaptureStore(tmp_path / "file", CapturesConfig())


MISTAKES: list[tuple[str, Callable[[], object]]] = [
    ("captures.bytes_max must be at least captures.file_bytes_max", lambda: CapturesConfig(bytes_max=1)),
    ("captures.lease_s_max must be at most 3600", lambda: CapturesConfig(lease_s_max=4000)),
    ("captures.retention_days must be at least 1", lambda: CapturesConfig(retention_days=0)),
]


@pytest.mark.parametrize(("sentence", "make"), MISTAKES)
def test_limits_that_make_no_sense_are_named(sentence: str, make: Callable[[], object]) -> None:
    with pytest.raises(Exception, match=sentence):
        make()
