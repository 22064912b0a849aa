"""From the command line to an archive and back: capture one, look into it, ask it as if it were live."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from glassbottom_collector.archive import opened
from glassbottom_collector.cli import main

from tests.support.cli import Cli
from tests.support.collector_thread import CollectorThread, collector_thread
from tests.support.schemas import validate_strictly
from tests.support.store_agent import HEAP, OPERATIONS, S, StoreAgent, operation
from tests.support.store_time import DEFINED, STACK, interval

pytestmark = pytest.mark.once

CANARY = "AKIA" + "QWERTY4XMPL7LKJH"


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CollectorThread]:
    """One that knows a service of the last minutes, whose routes hold a secret."""
    with collector_thread(tmp_path_factory.mktemp("data")) as running:
        now_ns = time.time_ns()
        agent = StoreAgent("checkout", started_at_ns=now_ns - 300 * S)
        agent.open(running.store.writer)
        for number in range(20):
            at_ns = now_ns - (210 - 10 * number) * S
            agent.heap(running.store.writer, at_ns, {STACK: 1e6 * number + 1e6}, complete=number == 0, defined=DEFINED)
            rows = [operation("GET /cart", 0.1, 0.2), operation(f"GET /key/{CANARY}", 0.1)]
            agent.append(running.store.writer, OPERATIONS, interval(at_ns, *rows))
        assert agent.seq[HEAP] == 20
        yield running


@pytest.fixture
def cli(collector: CollectorThread, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("COLUMNS", "160")
    return Cli(collector.address, capsys)


@pytest.fixture(scope="module")
def archive(collector: CollectorThread, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "debug.tar.gz"
    line = ["capture", "OPS-1", "--addr", collector.address, "--service", "checkout", "--output", str(path)]
    assert main([*line, "--only", "collector"]) == 0
    return path


def test_a_capture_writes_a_private_archive_here_and_says_what_became_of_every_part(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert cli("capture", "OPS-2", "--service", "checkout", "--only", "collector", "-o", "json") == 0

    told = json.loads(cli.out)
    validate_strictly(told, "capture")
    assert told["incident"]["issue"] == "OPS-2"
    assert told["incident"]["state"] == "stored"
    assert "collector.rows" in {one["name"] for one in told["collectors"] if one["state"] == "done"}
    written = tmp_path / told["written_to"]
    assert written.name == f"{told['incident']['id']}.tar.gz"
    assert written.stat().st_mode & 0o777 == 0o600
    assert written.stat().st_size == told["incident"]["file_bytes"]


def test_a_dry_run_shows_what_would_be_read_and_captures_nothing(cli: Cli, collector: CollectorThread) -> None:
    before = collector.statistics()["incidents_kept"]

    assert cli("capture", "OPS-3", "--service", "checkout", "--dry-run") == 0

    assert "Nothing was read" in cli.out
    assert "rows of checkout" in cli.out
    assert collector.statistics()["incidents_kept"] == before


def test_every_answer_is_what_its_schema_says(cli: Cli, archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for schema, line in {
        "capture-plan": ("capture", "OPS-3", "--service", "checkout", "--dry-run"),
        "incidents": ("capture", "--list"),
        "doctor": ("doctor",),
    }.items():
        assert cli(*line, "-o", "json") == 0
        validate_strictly(json.loads(cli.out), schema)
    for schema, word in (("archive", "inspect"), ("archive-verify", "verify")):
        _, out, _ = run(capsys, "archive", word, str(archive), "-o", "json")
        document = json.loads(out)
        assert document["schema"] == f"glassbottom.{schema}/1"
        if schema == "archive-verify":
            validate_strictly(document, schema)


def test_what_was_captured_is_listed_and_can_be_fetched_again(cli: Cli, archive: Path, tmp_path: Path) -> None:
    assert cli("capture", "--list") == 0
    assert "OPS-1" in cli.out

    again = tmp_path / "again.tar.gz"
    assert cli("capture", "OPS-1", "--fetch", "--output", str(again)) == 0
    assert again.read_bytes() == archive.read_bytes()


def test_an_issue_that_is_not_there_and_a_name_that_is_none_are_errors(cli: Cli) -> None:
    assert cli("capture", "OPS-404", "--fetch") == 1
    assert "No incident is called OPS-404" in cli.err
    assert cli("capture", "a\nb", "--service", "checkout") == 2
    assert "printable characters" in cli.err
    assert cli("capture") == 2
    assert "needs the name of the issue" in cli.err


def test_the_doctor_says_when_there_is_nothing_to_check(cli: Cli) -> None:
    assert cli("doctor") == 0
    assert "names no databases" in cli.out


def test_a_secret_in_a_route_is_in_no_byte_of_the_archive(archive: Path) -> None:
    assert CANARY.encode() not in gzip.decompress(archive.read_bytes())
    with tarfile.open(archive) as tar:
        names = [member.name.partition("/")[2] for member in tar.getmembers()]
    assert "state/rows/texts.json" in names


# Without a collector


def run(capsys: pytest.CaptureFixture[str], *line: str) -> tuple[int, str, str]:
    code = main(line)
    return code, *capsys.readouterr()


def test_an_archive_is_inspected_and_verified_without_a_collector(
    archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "archive", "inspect", str(archive))
    assert code == 0
    assert "OPS-1 of checkout" in out
    assert "state/rows/texts.json" in out

    code, out, _ = run(capsys, "archive", "verify", str(archive), "-o", "json")
    assert code == 0
    assert json.loads(out)["hits"] == []


def test_verbs_answer_from_an_archive_as_the_collector_did(
    archive: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "archive", "analyze", str(archive), "slow", "-o", "json")
    assert code == 0
    names = {row["name"]: row["count"] for row in json.loads(out)["operations"]}
    assert names["GET /cart"] == 40
    assert any("<redacted" in name for name in names)

    code, out, _ = run(capsys, "archive", "analyze", str(archive), "top", "-o", "json")
    assert code == 0
    assert cli("top", "-o", "json") == 0
    assert [site["live_bytes"] for site in json.loads(out)["sites"]] == [
        site["live_bytes"] for site in json.loads(cli.out)["sites"]
    ]


def test_a_verb_that_asks_nothing_of_rows_is_refused(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "archive", "analyze", str(archive), "dump")
    assert code == 2
    assert "archive analyze cannot dump; it can: leaks" in err


def repacked(archive: Path, change: object) -> bytes:
    """The archive with its members changed by change(name, data) -> (name, data, kind), or left out by None."""
    packed = io.BytesIO()
    with tarfile.open(archive) as old, tarfile.open(fileobj=packed, mode="w:gz") as new:
        for member in old.getmembers():
            data = old.extractfile(member).read()  # type: ignore[union-attr]
            changed = change(member.name, data)  # type: ignore[operator]
            if changed is not None:
                entry = tarfile.TarInfo(changed[0])
                entry.type = changed[2]
                entry.linkname = "/etc/passwd" if entry.type != tarfile.REGTYPE else ""
                entry.size = len(changed[1]) if entry.type == tarfile.REGTYPE else 0
                new.addfile(entry, io.BytesIO(changed[1]))
    return packed.getvalue()


def in_manifest(**fields: object) -> object:
    def change(name: str, data: bytes) -> tuple[str, bytes, bytes]:
        if name.endswith("/manifest.json"):
            data = json.dumps({**json.loads(data), **fields}).encode()
        return name, data, tarfile.REGTYPE

    return change


def texts(change: object) -> object:
    return lambda name, data: (
        change(name, data) if name.endswith("texts.json") else (name, data, tarfile.REGTYPE)  # type: ignore[operator]
    )


HOSTILE = {
    "changed": (texts(lambda n, d: (n, d + b" ", tarfile.REGTYPE)), "is not what the manifest says"),
    "left out": (texts(lambda n, d: None), "lacks state/rows/texts.json"),
    "put in": (lambda n, d: (n.replace("errors.json", "more.json"), d, tarfile.REGTYPE), "lacks errors.json"),
    "up and away": (texts(lambda n, d: ("../../etc/cron.d/x", d, tarfile.REGTYPE)), "leaves its directory"),
    "absolute": (texts(lambda n, d: ("/etc/cron.d/x", d, tarfile.REGTYPE)), "leaves its directory"),
    "symbolic link": (texts(lambda n, d: (n, d, tarfile.SYMTYPE)), "is no plain file"),
    "hard link": (texts(lambda n, d: (n, d, tarfile.LNKTYPE)), "is no plain file"),
    "device": (texts(lambda n, d: (n, d, tarfile.CHRTYPE)), "is no plain file"),
    "newer": (in_manifest(format_version=99), "install a newer glassbottom"),
    "no version": (in_manifest(format_version="1"), "does not say which format"),
    "manifest of nothing": (in_manifest(files=None), "files in manifest.json"),
    "manifest of no files": (in_manifest(files=[]), "which its manifest does not list"),
    "moment of words": (in_manifest(to_ns="yesterday"), "to_ns in manifest.json"),
    "moment beyond time": (in_manifest(to_ns=2**70), "to_ns in manifest.json"),
    "collectors of another kind": (in_manifest(collectors={"a": 1}), "collectors in manifest.json"),
    "a collector of numbers": (in_manifest(collectors=[{"name": 1}]), "name in manifest.json"),
    "bytes of words": (
        in_manifest(collectors=[{"name": "a", "state": "done", "files": 1, "bytes": "many", "ms": 1}]),
        "bytes in manifest.json",
    ),
    "no service": (in_manifest(service=None), "service in manifest.json"),
}


@pytest.mark.parametrize(("change", "sentence"), HOSTILE.values(), ids=HOSTILE)
def test_an_archive_that_is_not_what_it_was_is_refused_with_a_reason(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: object, sentence: str
) -> None:
    path = tmp_path / "hostile.tar.gz"
    path.write_bytes(repacked(archive, change))

    for word in ("inspect", "verify", "analyze"):
        code, _, err = run(capsys, "archive", word, str(path))
        assert code == 4
        assert sentence in err


def test_an_archive_that_is_cut_short_anywhere_is_refused(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = archive.read_bytes()
    path = tmp_path / "short.tar.gz"
    for length in (0, 1, 10, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        code, _, err = run(capsys, "archive", "inspect", str(path))
        assert code == 4, length
        assert "damaged" in err or "empty" in err


def test_a_bomb_is_refused_before_it_fills_the_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opened, "BYTES_MAX", 8 << 20)
    path = tmp_path / "bomb.tar.gz"
    path.write_bytes(gzip.compress(bytes(64 << 20), compresslevel=1))

    code, _, err = run(capsys, "archive", "inspect", str(path))

    assert code == 4
    assert "unpacks to more than 8 MiB" in err


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "archive", "inspect", str(tmp_path / "none.tar.gz"))
    assert code == 4
    assert "cannot be read: No such file" in err
