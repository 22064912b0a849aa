"""A native core whose heap is what the test says, for tests of the heap probe alone; all others use the real one."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import CodeType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from glassbottom._native import Snapshot, Statistics


NUMBERS = """
    windows window_open_ns elapsed_ns window_bytes watched_ns samples samples_live samples_dropped thinnings stacks
    stacks_truncated stacks_overflowed codes types hook_losses sample_ns snapshot_ns tables_bytes
"""


@dataclass
class FakeSite:
    """One node: where, and how much of what is alive."""

    places: Sequence[tuple[CodeType, int]]
    live_bytes: float = 0.0
    live_objects: float = 0.0
    alloc_bytes: float = 0.0
    samples: int = 0
    birth_ms: int = 1000
    minutes: int = 1
    truncated: bool = False
    types: dict[str, float] = field(default_factory=dict)
    _told: tuple[float, ...] = ()


class FakeCore:
    """Implements probes.native.Core over a dictionary of sites."""

    def __init__(self) -> None:
        self.sites: dict[int, FakeSite] = {}
        self.epoch = 1
        self.names: list[str] = []
        self.rates: list[tuple[float, float]] = []
        self.counts: dict[str, float] = {}
        self.resolved = 0
        self.released = 0
        self.fails = False
        self.running = False
        self._interrupted = threading.Event()

    def start(
        self, *, interval_bytes: float = 0, window_share: float = 0, window_ms: float = 20, seed: int | None = None
    ) -> None:
        self.running = True
        self.rates.append((interval_bytes, window_share))

    def stop(self) -> None:
        self.running = False

    def run_windows(self, seconds: float, /) -> None:
        self._interrupted.wait(seconds)
        self._interrupted.clear()

    def interrupt(self) -> None:
        self._interrupted.set()

    def set_rate(self, *, interval_bytes: float | None = None, window_share: float | None = None) -> None:
        old = self.rates[-1]
        self.rates.append(
            (
                old[0] if interval_bytes is None else interval_bytes,
                old[1] if window_share is None else window_share,
            )
        )

    def exclude_thread(self) -> None:
        pass

    def stack(self, node: int, /) -> tuple[list[tuple[CodeType, int]], bool, int]:
        self.resolved += 1
        site = self.sites[node]
        return list(site.places), site.truncated, 0

    def release_dead(self) -> int:
        return 0

    def release_unused(self) -> int:
        self.released += 1
        self.epoch += 1
        return 1

    def snapshot(self) -> Snapshot | None:
        if self.fails:
            raise RuntimeError("the fake was told to fail")
        if not self.running:
            return None
        rows = []
        for node, site in self.sites.items():
            values = (site.live_bytes, site.alloc_bytes, *site.types.values())
            rows.append((node, site, values != site._told))
            site._told = values
        types = []
        for node, site in self.sites.items():
            for name, live_bytes in site.types.items():
                if name not in self.names:
                    self.names.append(name)
                types.append((node, self.names.index(name), live_bytes))

        def floats(values: Sequence[float]) -> bytes:
            return array("d", values).tobytes()

        sites = [site for _, site, _ in rows]
        return {
            "epoch": self.epoch,
            "at_ns": 1_700_000_000_000_000_000,
            "interval_bytes": self.rates[-1][0],
            "window_share": self.rates[-1][1],
            "live_bytes": sum(site.live_bytes for site in sites),
            "live_bytes_variance": 1.0,
            "node": array("I", (node for node, _, _ in rows)).tobytes(),
            "changed": bytes(changed for _, _, changed in rows),
            "live_bytes_by_node": floats([site.live_bytes for site in sites]),
            "live_bytes_variance_by_node": floats([site.live_bytes for site in sites]),
            "live_objects_by_node": floats([site.live_objects for site in sites]),
            "live_objects_variance_by_node": floats([site.live_objects for site in sites]),
            "alloc_bytes_by_node": floats([site.alloc_bytes for site in sites]),
            "alloc_objects_by_node": floats([site.alloc_bytes for site in sites]),
            "samples_by_node": array("I", (site.samples for site in sites)).tobytes(),
            "birth_oldest_ms": array("q", (site.birth_ms for site in sites)).tobytes(),
            "birth_mean_ms": array("q", (site.birth_ms for site in sites)).tobytes(),
            "birth_minutes": array("I", (site.minutes for site in sites)).tobytes(),
            "type_node": array("I", (node for node, _, _ in types)).tobytes(),
            "type_index": array("I", (index for _, index, _ in types)).tobytes(),
            "type_live_bytes": floats([live_bytes for _, _, live_bytes in types]),
            "type_live_objects": floats([1.0 for _ in types]),
            "type_samples": array("I", (1 for _ in types)).tobytes(),
            "type_names": list(self.names),
        }

    def statistics(self) -> Statistics:
        numbers: dict[str, object] = dict.fromkeys(NUMBERS.split(), 0)
        numbers.update(
            state="running",
            reason="",
            interval_bytes=self.rates[-1][0],
            window_share=self.rates[-1][1],
            samples_live_max=100,
            stacks_max=100,
            codes_max=100,
            types_max=100,
        )
        numbers.update(self.counts)
        return numbers  # type: ignore[return-value]
