"""Texts as they should read, kept in tests/golden.

UPDATE_GOLDEN=1 python -m pytest tests/collector     writes them anew; read the difference before you commit it
"""

from __future__ import annotations

import os
from pathlib import Path

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def assert_reads_like(name: str, text: str) -> None:
    """The text equals tests/golden/NAME."""
    path = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), f"differs from {path}; UPDATE_GOLDEN=1 writes it anew"
