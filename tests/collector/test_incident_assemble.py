"""An archive is put together whatever becomes of its parts, holds nothing that looks like a secret, and is the same
bytes for the same finds."""

from __future__ import annotations

import hashlib
import io
import json
import resource
import signal
import tarfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from glassbottom_collector.errors import NotFound, StorageError
from glassbottom_collector.incident.assemble import Archive, LeakingError, Outcome, Subject, assemble, plan
from glassbottom_collector.incident.bundle import FILE_BYTES_MAX, segment
from glassbottom_collector.incident.parts import CollectingError, Planned, RefusedError, Sink
from glassbottom_collector.incident.store import IncidentStore, Limits

pytestmark = pytest.mark.once

HOUR_NS = 3600 * 10**9
NOW_NS = 1_790_000_000 * 10**9
SUBJECT = Subject(issue="OPS-1", service="checkout", from_ns=NOW_NS - HOUR_NS, to_ns=NOW_NS, asked_by="me")


class Harmless:
    """A redactor that knows one secret."""

    def text(self, text: str, place: str) -> str:
        return text.replace("hunter2", "<redacted>")

    def json(self, value: Any, place: str) -> Any:
        return json.loads(self.text(json.dumps(value), place))

    def sql(self, statement: str, place: str) -> str:
        return self.text(statement, place)

    def ledger(self) -> Sequence[dict[str, Any]]:
        return [{"rule": "password", "place": "a.txt", "line": 1, "characters": 7}]


@dataclass
class Looks:
    """A collector that does as it is told."""

    name: str
    does: Callable[[Sink], None]
    budget_s: float = 5.0
    lane: str = ""

    def __post_init__(self) -> None:
        self.lane = self.lane or self.name

    def plan(self) -> Sequence[Planned]:
        return [Planned(f"SELECT {self.name}", "db:5432/shop", "standby")]

    def collect(self, sink: Sink, deadline_s: float) -> None:
        self.does(sink)


@dataclass(frozen=True)
class Found:
    rule: str
    path: str
    line: int


def no_hits(path: str, data: bytes) -> list[Found]:
    return []


def writes(path: str, text: str) -> Callable[[Sink], None]:
    return lambda sink: sink.text(path, text, node="n", role="file")


def raises(error: Exception) -> Callable[[Sink], None]:
    def does(sink: Sink) -> None:
        raise error

    return does


def made(*collectors: Looks, budget_s: float = 10.0, scan: Any = no_hits) -> Archive:
    ticks = iter(range(10**6))
    return assemble(
        SUBJECT, collectors, Harmless(), scan, version="1", budget_s=budget_s, monotonic_s=lambda: next(ticks) * 1e-6
    )


def files_in(archive: Archive) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive.data), mode="r:gz") as tar:
        return {
            member.name.removeprefix(f"{archive.id}/"): tar.extractfile(member).read()  # type: ignore[union-attr]
            for member in tar.getmembers()
        }


def test_a_collector_that_fails_is_recorded_and_the_others_go_on() -> None:
    archive = made(
        Looks("a", raises(CollectingError("The server is away; start it."))),
        Looks("b", raises(RefusedError("The role can write; use one that cannot."))),
        Looks("c", raises(KeyError("ours"))),
        Looks("d", writes("d/found.txt", "all is well\n")),
    )

    files = files_in(archive)
    assert files["d/found.txt"] == b"all is well\n"
    told = {entry["collector"]: (entry["state"], entry["sentence"]) for entry in json.loads(files["errors.json"])}
    assert told["a"] == ("failed", "The server is away; start it.")
    assert told["b"] == ("refused", "The role can write; use one that cannot.")
    assert told["c"][0] == "broken"
    assert "d" not in told
    assert not archive.complete


def test_the_manifest_names_every_file_with_its_hash_and_where_it_came_from() -> None:
    archive = made(Looks("a", writes("a.txt", "text\n")))

    files = files_in(archive)
    manifest = json.loads(files.pop("manifest.json"))
    assert {entry["path"]: entry["sha256"] for entry in manifest["files"]} == {
        path: hashlib.sha256(data).hexdigest() for path, data in files.items()
    }
    (entry,) = [entry for entry in manifest["files"] if entry["path"] == "a.txt"]
    assert (entry["node"], entry["role"], entry["collector"]) == ("n", "file", "a")
    assert manifest["collectors"][0]["ms"] >= 0
    assert manifest["format_version"] == 1


def test_secrets_go_from_files_notes_sentences_and_names_before_anything_is_kept() -> None:
    def does(sink: Sink) -> None:
        sink.text("a.txt", "password hunter2", node="host/hunter2", role="file")
        sink.json("a.json", {"password": ["hunter2"]}, node="n", role="file")
        sink.note("hunter2 was seen")
        raise CollectingError("It said: hunter2")

    told: list[Outcome] = []
    archive = assemble(SUBJECT, [Looks("a", does)], Harmless(), no_hits, version="1", tell=told.append)

    assert not [path for path, data in files_in(archive).items() if b"hunter2" in data]
    assert "hunter2" not in repr(told)


def test_an_archive_that_still_looks_leaky_is_thrown_away_and_the_place_told_without_the_value() -> None:
    def scan(path: str, data: bytes) -> list[Found]:
        return [Found("aws-access-token", path, 3)] if b"AKIA" in data else []

    with pytest.raises(LeakingError, match=r"a\.txt line 3 \(aws-access-token\)") as caught:
        made(Looks("a", writes("a.txt", "AKIA1234")), scan=scan)
    assert "AKIA1234" not in str(caught.value)


def test_the_same_finds_make_the_same_bytes() -> None:
    collectors = [Looks("b", writes("b/2.txt", "2\n")), Looks("a", writes("a/1.txt", "1\n"))]

    assert made(*collectors).data == made(*collectors).data


def test_the_archive_is_dated_by_the_incident_owned_by_nobody_and_private() -> None:
    archive = made(Looks("a", writes("a.txt", "1")))

    assert archive.file_name == "debug_20260921_141320.tar.gz"
    with tarfile.open(fileobj=io.BytesIO(archive.data), mode="r:gz") as tar:
        members = tar.getmembers()
    assert {(member.mode, member.uid, member.uname, member.mtime) for member in members} == {
        (0o600, 0, "", NOW_NS // 10**9)
    }


def test_one_that_hangs_is_left_behind_and_what_it_says_later_is_not_taken() -> None:
    release, late = threading.Event(), threading.Event()
    errors: list[str] = []

    def hangs(sink: Sink) -> None:
        release.wait(60)
        try:
            sink.text("late.txt", "x", node="n", role="file")
        except CollectingError as error:
            errors.append(str(error))
        late.set()

    archive = assemble(
        SUBJECT, [Looks("a", hangs, budget_s=0.1), Looks("b", writes("b.txt", "1"))], Harmless(), no_hits, version="1"
    )
    release.set()

    assert [outcome.state for outcome in archive.outcomes] == ["late", "done"]
    assert late.wait(60)
    assert errors == ["a was too late; its time was over."]
    assert "late.txt" not in files_in(archive)


def test_collectors_of_one_lane_never_look_at_the_same_time() -> None:
    inside, most = 0, 0
    lock = threading.Lock()

    def looks(sink: Sink) -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        threading.Event().wait(0.01)
        with lock:
            inside -= 1

    made(*(Looks(f"a{number}", looks, lane="one") for number in range(5)), budget_s=60)

    assert most == 1


@pytest.mark.parametrize(
    "path", ["../etc/passwd", "/etc/passwd", "a//b", "a/../b", ".hidden", "a/\n", "ä.txt", "x" * 300]
)
def test_no_path_leaves_the_archive(path: str) -> None:
    archive = made(Looks("a", writes(path, "x")))

    assert archive.outcomes[0].state == "failed"
    assert set(files_in(archive)) == {"errors.json", "manifest.json", "redactions.json"}


def test_names_of_others_become_parts_of_paths_that_stay_apart() -> None:
    assert segment("orders") == "orders"
    assert segment("../../x") != segment("../..//x")
    assert "/" not in segment("../../x")
    assert made(Looks("a", writes(f"db/{segment('../Größe?')}/x.txt", "x"))).complete


def test_a_file_that_is_too_large_is_cut_at_a_line_and_that_is_told() -> None:
    line = "x" * 999 + "\n"
    archive = made(Looks("a", writes("a.txt", line * (FILE_BYTES_MAX // 1000 + 10))))

    data = files_in(archive)["a.txt"]
    assert FILE_BYTES_MAX - 1000 <= len(data) <= FILE_BYTES_MAX
    assert data.endswith(b"x\n")
    assert "was cut to" in archive.outcomes[0].notes[0]


def test_a_plan_reads_nothing() -> None:
    def never(sink: Sink) -> None:
        raise AssertionError("it was asked to collect")

    assert plan([Looks("a", never)]) == [("a", [Planned("SELECT a", "db:5432/shop", "standby")])]


# Where archives are kept


LIMITS = Limits(bytes_max=10**6, records_max=3, retention_days=7)


def test_an_archive_is_kept_privately_and_found_by_its_id_or_its_issue_after_a_restart(tmp_path: Path) -> None:
    archive = made(Looks("a", writes("a.txt", "1")))
    row = IncidentStore(tmp_path, LIMITS, lambda: NOW_NS).put(SUBJECT, archive)

    store = IncidentStore(tmp_path, LIMITS, lambda: NOW_NS)
    assert store.get(row.id) == store.get("OPS-1") == row
    assert store.path_of("OPS-1").read_bytes() == archive.data
    assert store.path_of("OPS-1").stat().st_mode & 0o777 == 0o600
    assert row.sha256 == hashlib.sha256(archive.data).hexdigest()


def test_two_incidents_of_one_second_are_two(tmp_path: Path) -> None:
    archive = made(Looks("a", writes("a.txt", "1")))
    store = IncidentStore(tmp_path, LIMITS, lambda: NOW_NS)

    assert [store.put(SUBJECT, archive).id for _ in range(2)] == [archive.id, f"{archive.id}_2"]


def test_a_failed_one_is_remembered_with_its_reason(tmp_path: Path) -> None:
    store = IncidentStore(tmp_path, LIMITS, lambda: NOW_NS)
    row = store.put_failed(SUBJECT, "debug_20260921_141320", "It leaked.")

    assert store.list("checkout", 10) == [row]
    with pytest.raises(NotFound, match=r"has no archive: It leaked\."):
        store.path_of(row.id)


def test_old_archives_go_first_and_their_records_say_so(tmp_path: Path) -> None:
    archive = made(Looks("a", writes("a.txt", "1")))
    now_ns = NOW_NS
    store = IncidentStore(tmp_path, replace(LIMITS, bytes_max=len(archive.data)), lambda: now_ns)
    first = store.put(SUBJECT, archive)
    second = store.put(replace(SUBJECT, to_ns=NOW_NS + 1), archive)

    assert store.get(first.id).deleted_at_ns == NOW_NS
    assert store.path_of(second.id).exists()
    with pytest.raises(NotFound, match="was deleted for its age, or to make room"):
        store.path_of(first.id)
    now_ns += 8 * 24 * HOUR_NS
    store.retire()
    assert store.get(second.id).deleted_at_ns == now_ns
    assert store.statistics()["incidents_deleted_total"] == 2


def test_what_a_crash_left_behind_is_swept_and_an_unreadable_record_is_counted(tmp_path: Path) -> None:
    (tmp_path / "debug_20200101_000000.tar.gz").write_bytes(b"half")
    (tmp_path / "debug_20200101_000001.tar.gz.part").write_bytes(b"half")
    (tmp_path / "debug_20200101_000002.json").write_bytes(b"{")

    store = IncidentStore(tmp_path, LIMITS, lambda: NOW_NS)

    assert [path.name for path in tmp_path.iterdir()] == ["debug_20200101_000002.json"]
    assert store.statistics()["incidents_unreadable"] == 1


def test_where_there_is_no_room_nothing_is_left_of_it_and_the_next_one_is_kept(tmp_path: Path) -> None:
    archive = made(Looks("a", writes("a.txt", "1")))
    store = IncidentStore(tmp_path, LIMITS, lambda: NOW_NS)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(
        signal.SIGXFSZ, signal.SIG_IGN
    )  # then a write beyond the limit is an error, as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
    try:
        with pytest.raises(StorageError, match=r"cannot be kept in .*: File too large"):
            store.put(SUBJECT, archive)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)

    assert list(tmp_path.iterdir()) == []
    assert store.list("", 10) == []
    assert store.path_of(store.put(SUBJECT, archive).id).exists()
