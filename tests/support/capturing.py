"""A kind of capture whose file, facts and time are the test's, in the place of a real one."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from glassbottom import _threads, captures
from glassbottom.captures import Made, Order

MODULE = "given_by_a_test"


class GivenCapture:
    """Writes `content` to a file, or none when it is None; `refuses` is its refusal, `begins` is set when it runs.

    goes_on: run() returns only when this is set, or, unless it is deaf, when it is told to end.
    """

    kind = "dump_heap"

    def __init__(
        self,
        content: bytes | None = b"",
        facts: Mapping[str, float | str] | None = None,
        *,
        refuses: str | None = None,
        error: Exception | None = None,
        waits: bool = False,
        deaf: bool = False,
    ) -> None:
        self.content = content
        self.facts = dict(facts or {})
        self.refuses = refuses
        self.error = error
        self.waits = waits
        self.deaf = deaf
        self.begins = _threads.Event()
        self.goes_on = _threads.Event()
        self.told_to_end = False
        self.orders: list[Order] = []
        self.directories: list[Path] = []
        self.place: Callable[[Path], Path] = lambda directory: directory / "made"

    def refusal(self, order: Order) -> str | None:
        self.orders.append(order)
        return self.refuses

    def run(self, order: Order, directory: Path, ending: _threads.Event) -> Made:
        assert order is self.orders[-1]
        self.directories.append(directory)
        self.begins.set()
        if self.waits:
            watched = self.goes_on if self.deaf else ending
            while not (self.goes_on.is_set() or watched.wait(0.01)):
                pass
        self.told_to_end = ending.is_set()
        if self.error is not None:
            raise self.error
        if self.content is None:
            return Made(None, self.facts)
        path = self.place(directory)
        path.write_bytes(self.content)
        return Made(path, self.facts)


def give(monkeypatch: pytest.MonkeyPatch, capture: GivenCapture, kind: str = "dump_heap") -> None:
    """Until the test ends, agents of this process find it when that kind is ordered."""
    module = types.ModuleType(f"glassbottom.captures.{MODULE}")
    module.Given = lambda: capture  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(captures.KINDS, kind, (MODULE, "Given"))
