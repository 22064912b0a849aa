"""The committed generated code is what the pinned generator makes of proto/ today."""

from __future__ import annotations

import subprocess
from pathlib import Path

REMEDY = "run deploy/generate_wire.sh and commit what it changes"


def test_generated_code_equals_a_fresh_generation(root: Path, tmp_path: Path) -> None:
    subprocess.run([root / "deploy/generate_wire.sh", tmp_path], check=True, stdin=subprocess.DEVNULL)

    fresh = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*_pb2*.py*")}
    committed = {
        path.relative_to(source_root): path.read_text()
        for source_root in (root / "agent", root / "collector")
        for path in source_root.rglob("*_pb2*.py*")
        if "__pycache__" not in path.parts
    }

    assert sorted(fresh) == sorted(committed), REMEDY
    assert [name for name in fresh if fresh[name] != committed[name]] == [], REMEDY
    assert len(fresh) >= 14
