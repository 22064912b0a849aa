"""Files of memray and py-spy as call paths: made by the real tools, read here and by a collector."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
from glassbottom.wire.v1 import recordings_pb2
from glassbottom_collector.api.recordings import Recordings
from glassbottom_collector.cli import main
from glassbottom_collector.errors import BadRequest
from glassbottom_collector.model.capture import STORED, CaptureRow
from glassbottom_collector.model.code import Frame
from glassbottom_collector.pprof.v1 import profile_pb2
from glassbottom_collector.recordings import memray_file, pyspy_files, read

from tests.support.golden import assert_reads_like
from tests.support.schemas import validate_strictly
from tests.support.terminal import become_terminal

pytestmark = pytest.mark.once

PROGRAM = """
import memray, sys
kept = []
def keeps():
    kept.append(bytearray(3_000_000))
def peaks():
    return len(bytearray(9_000_000))
with memray.Tracker(
    destination=memray.FileDestination(sys.argv[1], overwrite=True),
    file_format=memray.FileFormat.AGGREGATED_ALLOCATIONS,
):
    for _ in range(2):
        keeps()
    peaks()
"""
FOLDED = """\
thread (7): worker;<module> (/srv/app (old)/main.py:3);Cache.put (/srv/app/cache.py:7) 12
thread (7): worker;<module> (/srv/app (old)/main.py:3);read (libc.so.6) 5
thread (9): glassbottom-sender;step (/opt/sender.py:1) 100
thread (8);f (a.py:1) 1
"""
STACKS = [
    {
        "thread_name": "waiting",
        "active": False,
        "owns_gil": False,
        "frames": [{"name": "wait", "filename": "/usr/lib/threading.py", "line": 355}],
    },
    {"thread_name": "busy", "active": True, "owns_gil": True, "frames": [{"name": "f", "filename": "a.py", "line": 1}]},
    {"thread_name": "glassbottom-capture", "active": True, "owns_gil": False, "frames": []},
]


@pytest.fixture(scope="module")
def memray_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("memray") / "memray.bin"
    subprocess.run([sys.executable, "-c", PROGRAM, str(path)], check=True)
    return path


def test_memray_is_read_by_path_with_what_was_kept_and_what_the_peak_was(memray_path: Path) -> None:
    recording = read(memray_path)
    worst = recording.paths[0]
    assert (worst.frames[0].function, worst.frames[0].line) == ("keeps", 5)
    assert 6e6 <= worst.value < 6.1e6
    assert worst.count == 2
    assert worst.note in {"malloc", "calloc", "mmap", "realloc"}
    assert 15e6 <= recording.peak_bytes < 16e6
    peaking = next(path for path in recording.paths if path.frames and path.frames[0].function == "peaks")
    assert (peaking.value, peaking.peak_bytes >= 9e6) == (0, True)


def test_a_damaged_file_of_memrays_ends_its_reader_and_not_us(memray_path: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.bin"
    broken.write_bytes(b"memray\0" + b"\xff" * 400)
    with pytest.raises(BadRequest, match=r"memray cannot read broken\.bin"):
        read(broken)


def test_a_reader_that_takes_too_long_is_ended(memray_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"took more than 0\.01 s"):
        memray_file.read(memray_path, timeout_s=0.01)


def test_lines_of_counts_have_their_thread_apart_and_files_with_blanks_and_brackets() -> None:
    recording = pyspy_files.folded(FOLDED)
    assert recording.total == 118
    by_value = {path.value: path for path in recording.paths}
    assert by_value[12].thread == "worker"
    assert by_value[12].frames == (
        Frame("Cache.put", "/srv/app/cache.py", 7),
        Frame("<module>", "/srv/app (old)/main.py", 3),
    )
    assert by_value[5].frames[0] == Frame("read", "libc.so.6", 0)
    assert (by_value[1].thread, by_value[1].frames) == ("", (Frame("f", "a.py", 1),))


def test_stacks_come_with_whoever_holds_the_gil_first() -> None:
    recording = pyspy_files.stacks(json.dumps(STACKS))
    assert [(path.thread, path.note) for path in recording.paths] == [
        ("busy", "holds the GIL"),
        ("glassbottom-capture", "runs"),
        ("waiting", "waits"),
    ]


@pytest.mark.parametrize(
    "text", ["[", "[1]", "no count here", "path -3", "path " + "9" * 30, "[" * 100_000, "\x00\x01\x02"]
)
def test_what_is_neither_is_refused_with_a_sentence(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text(text)
    with pytest.raises(BadRequest):
        read(path)


def test_wrong_fields_of_a_thread_are_passed_over() -> None:
    odd = [{"thread_name": 5, "frames": [None, {"name": [], "filename": None, "line": -1}, {"name": "f"}]}, {}]
    recording = pyspy_files.stacks(json.dumps(odd))
    assert [len(path.frames) for path in recording.paths] == [3, 0]
    assert recording.paths[0].frames[1:] == (Frame("", "", 0), Frame("f", "", 0))


class Captures:
    """One capture, of a kind."""

    def __init__(self, kind: str, path: Path) -> None:
        self._row = CaptureRow("5a" * 16, kind, "checkout", "4f" * 16, STORED, 0, "me", 0, file_bytes=1)
        self._path = path

    def get(self, capture_id: str) -> CaptureRow:
        assert self._row.id.startswith(capture_id)
        return self._row

    def list(self, service: str = "", limit: int = 100) -> list[CaptureRow]:
        return [self._row]

    def path_of(self, capture_id: str) -> Path:
        return self._path


def ask(captures: Captures, **fields: object) -> recordings_pb2.ReadRecordingResponse:
    return Recordings(captures).answer(recordings_pb2.ReadRecordingRequest(capture_id="5a5a", **fields))


def test_a_collector_answers_by_capture_without_the_agents_own_threads(tmp_path: Path) -> None:
    path = tmp_path / "cpu.folded"
    path.write_text(FOLDED)
    captures = Captures("dump_cpu", path)
    answer = ask(captures, limit=2)
    assert (answer.capture_id, answer.kind, answer.unit) == ("5a" * 16, "dump_cpu", "samples")
    assert [found.value for found in answer.paths] == [12, 5]
    assert (answer.total, answer.more) == (18, 1)
    assert [found.value for found in ask(captures, own_threads=True).paths] == [100, 12, 5, 1]


def test_a_capture_of_another_kind_is_refused_with_who_reads_it(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="glassbottom heap"):
        ask(Captures("dump_heap", tmp_path))


def run(capsys: pytest.CaptureFixture[str], *line: str) -> tuple[int, str, str]:
    code = main(["read", *line])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_file_is_read_without_a_collector_in_every_form(
    tmp_path: Path, memray_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cpu.folded").write_text(FOLDED)
    (tmp_path / "stacks.json").write_text(json.dumps(STACKS))
    for name in (tmp_path / "cpu.folded", tmp_path / "stacks.json", memray_path):
        code, out, err = run(capsys, str(name), "-o", "json")
        assert (code, err) == (0, "")
        validate_strictly(json.loads(out), "read")

    assert "/srv/app/cache.py:7 Cache.put" in run(capsys, str(tmp_path / "cpu.folded"))[1]
    stacks = run(capsys, str(tmp_path / "stacks.json"))[1]
    assert stacks.index("busy: holds the GIL") < stacks.index("waiting: waits")
    assert "glassbottom-capture" not in stacks
    table = run(capsys, str(memray_path))[1]
    assert "allocated and not freed in the window" in table
    assert "keeps" in table
    folded = run(capsys, str(tmp_path / "cpu.folded"), "-o", "folded")[1]
    assert "worker;/srv/app (old)/main.py:3 <module>;/srv/app/cache.py:7 Cache.put 12\n" in folded


@pytest.mark.parametrize(("name", "text"), [("cpu.folded", FOLDED), ("stacks.json", json.dumps(STACKS))])
def test_a_reader_sees_what_was_recorded(
    name: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(text)
    golden = f"cli_read_{name.partition('.')[0]}"
    assert_reads_like(f"{golden}.txt", run(capsys, name)[1])
    out, _ = become_terminal(monkeypatch, columns=80)
    assert main(["read", name]) == 0
    assert max(map(len, out.text.splitlines())) <= 80
    assert_reads_like(f"{golden}_80.txt", out.text)


def test_other_tools_read_the_same_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cpu.folded"
    path.write_text(FOLDED)

    assert run(capsys, str(path), "-o", "pprof", "--output", str(tmp_path / "cpu.pb.gz"))[0] == 0
    message = profile_pb2.Profile.FromString(gzip.decompress((tmp_path / "cpu.pb.gz").read_bytes()))
    assert [message.string_table[kind.type] for kind in message.sample_type] == ["samples"]
    labels = [[message.string_table[label.str] for label in sample.label] for sample in message.sample]
    assert list(zip((sample.value[0] for sample in message.sample), labels, strict=True)) == [
        (12, ["worker"]),
        (5, ["worker"]),
        (1, []),
    ]
    innermost = message.location[message.sample[0].location_id[0] - 1].line[0]
    function = message.function[innermost.function_id - 1]
    assert (message.string_table[function.name], innermost.line) == ("Cache.put", 7)

    page = run(capsys, str(path), "-o", "html")[1]
    assert "<h1>cpu.folded: what py-spy recorded</h1>" in page
    (view,) = json.loads(run(capsys, str(path), "-o", "speedscope")[1])["profiles"]
    assert (view["unit"], view["endValue"]) == ("none", 18)


def test_memory_goes_to_other_tools_with_what_was_kept_and_what_the_peak_was(
    memray_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the limit leaves out is a path of its own, so that no byte is missing."""
    told = json.loads(run(capsys, str(memray_path), "-o", "json")[1])
    views = json.loads(run(capsys, str(memray_path), "-o", "speedscope", "--limit", "1")[1])["profiles"]
    assert [view["name"] for view in views] == [
        "bytes allocated in the window and not freed in it",
        "bytes at the peak of the window",
        "allocations in the window that were not freed in it",
    ]
    assert views[0]["endValue"] == round(told["total"])
    assert views[1]["endValue"] == pytest.approx(told["peak_bytes"], abs=2)
    assert views[1]["endValue"] > sum(views[1]["weights"][:1]) + 9e6


def test_binary_does_not_garble_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.folded").write_text(FOLDED)
    _, err = become_terminal(monkeypatch)
    assert main(["read", str(tmp_path / "cpu.folded"), "-o", "pprof"]) == 2
    assert "pprof is binary and this is a terminal" in " ".join(err.text.split())


def test_a_file_that_is_not_there_or_is_something_else_is_said_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, str(tmp_path / "gone"))
    assert (code, err) == (1, f"glassbottom read: {tmp_path}/gone cannot be read: No such file or directory.\n")
    (tmp_path / "odd").write_text("just words")
    assert "line 1 is no call path with a count" in run(capsys, str(tmp_path / "odd"))[2]
