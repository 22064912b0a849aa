"""A sink that remembers, for tests of one collector."""

from __future__ import annotations

import json
import re
import time
from typing import Any

from glassbottom_collector.incident.parts import Collector, Role, as_json


class Kept:
    """Implements Sink. files: text by path; origin: (node, role) by path; notes: sentences."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}
        self.origin: dict[str, tuple[str, Role]] = {}
        self.notes: list[str] = []

    def text(self, path: str, text: str, *, node: str, role: Role) -> None:
        assert path not in self.files
        self.files[path] = text
        self.origin[path] = (node, role)

    def json(self, path: str, value: Any, *, node: str, role: Role) -> None:
        self.text(path, as_json(value), node=node, role=role)

    def anonymised(self, path: str, text: str, *, node: str, role: Role) -> None:
        self.text(path, text, node=node, role=role)

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)

    def read(self, path: str) -> Any:
        """A JSON file."""
        return json.loads(self.files[path])


def collected(collector: Collector, within_s: float = 30.0) -> Kept:
    """What one collector leaves."""
    kept = Kept()
    collector.collect(kept, time.monotonic() + within_s)
    return kept


def without_literals(statement: str, place: str) -> str:
    """Stands for the redaction of statements, which is tested elsewhere."""
    return re.sub(r"'[^']*'|\b\d+\b", "?", statement)
