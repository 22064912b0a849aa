"""The door to the C core: what the heap probe needs of it, and why it may be closed."""

from __future__ import annotations

import sys
from types import CodeType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .._native import OperationTable, Snapshot, Statistics
    from .threads import ThreadCore


class Core(Protocol):
    """The functions of glassbottom._native; see _native.pyi."""

    def start(
        self, *, interval_bytes: float = ..., window_share: float = ..., window_ms: float = ..., seed: int | None = ...
    ) -> None: ...

    def stop(self) -> None: ...

    def run_windows(self, seconds: float, /) -> None: ...

    def interrupt(self) -> None: ...

    def set_rate(self, *, interval_bytes: float | None = ..., window_share: float | None = ...) -> None: ...

    def exclude_thread(self) -> None: ...

    def snapshot(self) -> Snapshot | None: ...

    def stack(self, node: int, /) -> tuple[list[tuple[CodeType, int]], bool, int]: ...

    def release_dead(self) -> int: ...

    def release_unused(self) -> int: ...

    def statistics(self) -> Statistics: ...


def load() -> tuple[Core | None, str]:
    """The core, or None and one sentence why this process cannot be sampled."""
    if sys.implementation.name != "cpython":
        return None, f"The heap sampler needs CPython; this is {sys.implementation.name}."
    if sys.byteorder != "little":
        return None, "The heap sampler needs a little-endian machine."
    try:
        from .. import _native
    except ImportError as error:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        return None, f"The native part of glassbottom cannot be imported by this Python {version}: {error}."
    reason = _native.refusal()
    return (None, reason) if reason else (_native, "")


def load_threads() -> tuple[ThreadCore | None, str]:
    """The same for samples of threads, which need what the heap sampler needs."""
    core, reason = load()
    if core is None:
        return None, reason
    from .. import _native

    return _native, ""


def operation_table(slots_max: int) -> OperationTable | None:
    """A table of histograms, or None where there is no native part."""
    try:
        from .. import _native
    except ImportError:
        return None
    return _native.OperationTable(slots_max)


def label_name(label: int) -> str:
    """The name of a label of the core's."""
    from .. import _native

    return _native.label_name(label)
