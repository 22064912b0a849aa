"""For tests of applications: does an operation leak? And for tests of what uses glassbottom: a clock, a collector.

`@pytest.mark.no_leak` is in plugin.py, which pytest loads by itself, in every run of everybody who has glassbottom
installed; so this module imports nothing until it is asked for something. See docs/testing.md.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing's, without importing typing
if TYPE_CHECKING:
    from typing import Any

    from ..transport.memory import MemoryTransport as MemoryTransport
    from .clock import FakeClock as FakeClock
    from .run import measure as measure
    from .run import measure_async as measure_async
    from .verdict import Outcome as Outcome
    from .verdict import Undecided as Undecided
    from .verdict import Verdict as Verdict

__all__ = ["measure", "measure_async", "Verdict", "Outcome", "Undecided", "FakeClock", "MemoryTransport"]

_HOMES = {
    "measure": "run",
    "measure_async": "run",
    "Verdict": "verdict",
    "Outcome": "verdict",
    "Undecided": "verdict",
    "FakeClock": "clock",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    if name == "MemoryTransport":
        from ..transport.memory import MemoryTransport

        return MemoryTransport
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
