"""Giving free memory back on demand tells slack from what is held."""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
from pathlib import Path

import pytest
from glassbottom import _native
from glassbottom.captures import trim
from glassbottom.captures.trim import TrimCapture

from tests.support.captured import captured, order


def test_what_nobody_uses_comes_back(tmp_path: Path):
    """Blocks of 100 kB below the size that malloc maps by itself, freed but for a last one that pins the heap's end."""
    blocks = [bytearray(b"x") * 100_000 for _ in range(600)]
    pin = bytearray(b"x") * 100_000
    del blocks
    facts = captured(order("malloc_trim", 0.0), tmp_path).facts
    assert len(pin) == 100_000
    assert facts["resident_after_bytes"] <= facts["resident_before_bytes"]
    assert facts["malloc_free_after_bytes"] >= 0
    assert facts["trim_ms"] >= 0
    assert "reading" in facts


def test_slack_after_a_peak_is_called_slack_and_memory_that_is_held_is_not(tmp_path: Path):
    """In a process of its own: nothing else allocates or frees between."""
    program = """
import json, sys
from pathlib import Path
from tests.support.captured import captured, order
if sys.argv[1] == "slack":
    blocks = [bytearray(b"x") * 100_000 for _ in range(1500)]
    pin = bytearray(b"x") * 100_000
    del blocks
else:
    held = [bytearray(b"x") * 100_000 for _ in range(1500)]
print(json.dumps(dict(captured(order("malloc_trim", 0.0), Path(sys.argv[2])).facts)))
"""
    told = {}
    for what in ("slack", "held"):
        done = subprocess.run(
            [sys.executable, "-c", program, what, str(tmp_path / "d")],
            capture_output=True,
            text=True,
            check=False,
            env={"MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_MMAP_THRESHOLD_": str(1 << 30), **paths()},
        )
        assert done.returncode == 0, done.stderr
        told[what] = json.loads(done.stdout)
    assert told["slack"]["returned_bytes"] > 100e6
    assert told["slack"]["reading"].startswith("malloc kept this memory although nobody used it")
    assert told["held"]["returned_bytes"] < 20e6
    assert told["held"]["reading"].startswith("Next to nothing was free")


def paths() -> dict[str, str]:
    return {"PYTHONPATH": ":".join(path for path in sys.path if path)}


@pytest.mark.parametrize(
    ("returned", "again", "begins"),
    [
        (1e6, 0.0, "Next to nothing was free"),
        (500e6, 400e6, "What came back was taken again"),
        (500e6, 10e6, "malloc kept this memory"),
    ],
)
def test_the_sentence_follows_from_the_numbers(returned: float, again: float, begins: str):
    assert trim._reading(1000e6, returned, again).startswith(begins)


def test_another_allocator_in_its_place_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A library of that name is mapped, as LD_PRELOAD would."""
    library = tmp_path / "libjemalloc.so.2"
    library.write_bytes(b"0" * mmap.PAGESIZE)
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
        refusal = TrimCapture().refusal(order("malloc_trim"))
    assert refusal is not None
    assert refusal.startswith("jemalloc has taken malloc's place")
    assert TrimCapture().refusal(order("malloc_trim")) is None


def test_where_malloc_cannot_be_asked_nothing_is_done():
    assert _native.memory_can_trim(), "these tests run with glibc"
    assert _native.memory_trim() in (True, False)
