"""Runs the C core for a while, and reads it back as plain numbers."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from glassbottom import _native


@contextlib.contextmanager
def sampler(
    *, share: float = 1.0, interval_bytes: float = 16384.0, window_ms: float = 4.0, seed: int = 1
) -> Iterator[None]:
    """The core, started with this seed and its schedule running in a thread of its own, as in the agent."""
    _native.start(interval_bytes=interval_bytes, window_share=share, window_ms=window_ms, seed=seed)

    def schedule() -> None:
        _native.exclude_thread()
        _native.run_windows(3600.0)

    thread = threading.Thread(target=schedule, name="glassbottom-sampler")
    thread.start()
    try:
        yield
    finally:
        _native.interrupt()
        thread.join()
        _native.stop()


@dataclass(frozen=True)
class Row:
    """One call path; `functions` innermost first."""

    functions: tuple[str, ...]
    lines: tuple[int | None, ...]
    live_bytes: float
    live_bytes_variance: float
    live_objects: float
    live_objects_variance: float
    alloc_bytes: float
    alloc_objects: float
    samples: int
    birth_oldest_ms: int
    birth_minutes: int
    truncated: bool


def line_of(code: object, offset: int) -> int | None:
    """Line of the instruction at a byte offset."""
    for start, end, line in code.co_lines():  # type: ignore[attr-defined]
        if start <= offset < end:
            return line
    return None


def rows(snapshot: dict) -> list[Row]:
    """The snapshot's call paths, with names."""

    def column(name: str, code: str) -> memoryview:
        return memoryview(snapshot[name]).cast(code)

    columns = zip(
        column("node", "I"),
        column("live_bytes_by_node", "d"),
        column("live_bytes_variance_by_node", "d"),
        column("live_objects_by_node", "d"),
        column("live_objects_variance_by_node", "d"),
        column("alloc_bytes_by_node", "d"),
        column("alloc_objects_by_node", "d"),
        column("samples_by_node", "I"),
        column("birth_oldest_ms", "q"),
        column("birth_minutes", "I"),
        strict=True,
    )
    result = []
    for node, *values in columns:
        frames, truncated, _ = _native.stack(node)
        result.append(
            Row(
                tuple(code.co_qualname for code, _ in frames),
                tuple(line_of(code, offset) for code, offset in frames),
                *values,
                truncated,
            )
        )
    return result


def within(snapshot: dict, function: str) -> list[Row]:
    """The call paths that pass through a function of this name."""
    return [row for row in rows(snapshot) if any(name.rpartition(".")[2] == function for name in row.functions)]


def types(snapshot: dict, function: str | None = None) -> dict[str, float]:
    """Live bytes by type label, over the whole heap, or where the call path passes through a function of this name."""
    totals: dict[str, float] = {}
    columns = zip(
        memoryview(snapshot["type_node"]).cast("I"),
        memoryview(snapshot["type_index"]).cast("I"),
        memoryview(snapshot["type_live_bytes"]).cast("d"),
        strict=True,
    )
    for node, index, live_bytes in columns:
        if function is not None and not any(code.co_name == function for code, _ in _native.stack(node)[0]):
            continue
        name = snapshot["type_names"][index]
        totals[name] = totals.get(name, 0.0) + live_bytes
    return totals
