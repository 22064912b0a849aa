"""`glassbottom heap` on files: the same answers without a collector."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from glassbottom_collector.cli import main

from tests.support.collector_process import python_environment
from tests.support.heap_dump_file import DumpFile
from tests.support.schemas import validate_strictly

pytestmark = pytest.mark.once

FINDING = 3
LINES = (
    ("suspects",),
    ("largest", "--type", "app.ws.Session"),
    ("types",),
    ("modules",),
    ("paths", "--type", "Session"),
    ("retained", "--depth", "3"),
)


def dump(path: Path, sessions: int) -> Path:
    """A module whose list keeps sessions with a message each."""
    file = DumpFile(at_ns=1_700_000_000 * 10**9 + sessions)
    kept = [file.instance("app.ws.Session", message=file.add("bytes", size=500, flags=0)) for _ in range(sessions)]
    file.module("app.ws", HANDLERS=file.list(kept))
    return file.write(path)


@pytest.fixture
def heap(tmp_path: Path) -> str:
    return str(dump(tmp_path / "shop.heap", 300))


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[0])
def test_a_file_answers_every_question_in_the_published_shape(
    line: tuple[str, ...], heap: str, capsys: pytest.CaptureFixture[str]
) -> None:
    what, *options = line
    assert main(["heap", what, heap, *options, "-o", "json"]) == (FINDING if what == "suspects" else 0)

    document = json.loads(capsys.readouterr().out)
    validate_strictly(document, f"heap-{'types' if what == 'modules' else what}")
    assert document["dump"]["capture"] == heap


def test_who_holds_a_type_reads_from_the_name_to_the_object(heap: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["heap", "paths", heap, "--type", "Session"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("1. 300 of Session, ")
    assert lines[3] == "   module app.ws"
    assert [line.strip().split("  ")[0] for line in lines[4:]] == ["-> app.ws.HANDLERS list[300]", "-> Session"]


def test_two_files_are_compared(heap: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = str(dump(tmp_path / "before.heap", 100))

    assert main(["heap", "diff", before, heap, "-o", "json"]) == 0

    document = json.loads(capsys.readouterr().out)
    validate_strictly(document, "heap-diff")
    grown = {row["type"]: row["objects_after"] - row["objects_before"] for row in document["growth"]}
    assert grown["app.ws.Session"] == 200


def test_a_drawn_heap_is_as_wide_as_the_heap(heap: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["heap", "types", heap, "-o", "json"])
    size = json.loads(capsys.readouterr().out)["dump"]["size"]

    assert main(["heap", "retained", heap, "-o", "folded"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert sum(int(line.rpartition(" ")[2]) for line in lines) == size
    assert any(";Session (app.ws.Session);" in line for line in lines)


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "No such file or directory"), (b"", "it is empty"), (b"not one\n" * 9, "is not a heap dump")],
    ids=["absent", "empty", "other"],
)
def test_a_file_that_cannot_be_read_is_one_sentence(
    content: bytes | None, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.heap"
    if content is not None:
        path.write_bytes(content)

    assert main(["heap", "suspects", str(path)]) == 1

    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("glassbottom heap: ")
    assert says in err
    assert err.count("\n") == 1


def test_an_object_that_is_not_there_and_a_question_beyond_bounds_end_as_they_do_with_a_collector(
    heap: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["heap", "retained", heap, "--object", "0x10"]) == 1
    assert "has no object at 0x10" in capsys.readouterr().err
    assert main(["heap", "largest", heap, "--limit", "1001"]) == 2
    assert "use at most 1000" in capsys.readouterr().err


def test_a_file_is_read_without_grpc(heap: str) -> None:
    """It is for a laptop, or a container, that reaches no collector."""
    code = f"""
import sys
from glassbottom_collector.cli import main
main(["heap", "types", {heap!r}])
print([name for name in ("grpc", "duckdb", "rich") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=python_environment(), capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
