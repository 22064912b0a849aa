"""Drives the native sampler: opens its windows, reads it, keeps it within its budget, and queues what it saw.

Two threads meet here. "glassbottom-sampler" runs the sampler's windows, so that they keep their own schedule whatever
else happens, and between them keeps the cost within its budget; everything else happens in the agent's thread. The
sampler itself is C and belongs to the process: there is at most one HeapProbe.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from .. import _threads
from .._clock import Clock
from .._config import HeapConfig
from .._guard import Guard
from ..transport.encode import encode
from ..transport.queue import BatchQueue
from ..wire.v1 import heap_pb2, ingest_pb2
from . import ProbeState
from .heap_budget import Costs, Counts, IntervalControl, ShareControl, costs
from .heap_rows import select
from .heap_symbols import Symbols
from .native import Core, label_name, load

if TYPE_CHECKING:
    from .._native import Statistics

STREAM = int(ingest_pb2.STREAM_HEAP)
SHARE_AT_START = 0.1
"""Until the first reading has told how much this application allocates."""
SAMPLER = "heap.sampler"
BUDGET_EVERY_S = 2.0
"""Load that sets in must not be paid for longer than this."""
RELEASE_PAUSE_S = 600.0
RELEASE_PAUSE_FULL_S = 60.0
"""Between two clean-ups of the tables. Each begins a new epoch, which cuts every series at the collector, so they are
rare unless the tables are nearly full."""
LABELS_MAX = 20
"""Names of one reading: what a collector takes."""

Outcome = tuple[Callable[[], None], Callable[[str], None]]


class HeapProbe:
    """The heap, every snapshot_interval_s."""

    name = "heap"

    def __init__(
        self,
        config: HeapConfig,
        queue: BatchQueue,
        clock: Clock,
        guard: Guard,
        core: Core | None = None,
        refusal: str = "",
    ) -> None:
        """core: None loads the real one."""
        self.interval_s = config.snapshot_interval_s
        self._config = config
        self._queue = queue
        self._clock = clock
        self._guard = guard
        self._core, self._refusal = (core, refusal) if core is not None or refusal else load()
        self._symbols = Symbols(breathe=_offer_gil, label_name=label_name)
        self._share = ShareControl(SHARE_AT_START if config.window_share == "auto" else float(config.window_share))
        self._interval = IntervalControl(config.interval_bytes)
        self._thread: _threads.Thread | None = None
        self._ending = _threads.Event()
        self._started = False
        self._store_id = ""
        self._epoch = -1
        self._readings = 0
        self._outcomes: list[Outcome] = []
        self._labels: list[str] = []
        self._counts: Counts | None = None
        self._costs = Costs(None, None)
        self._released_at_s = float("-inf")
        self._pause_ms_max = 0.0

    # Life

    def start(self) -> None:
        core = self._core
        if core is None:
            return
        try:
            core.start(interval_bytes=float(self._config.interval_bytes), window_share=self._share.share)
        except RuntimeError as error:
            self._core, self._refusal = None, str(error)
            return
        _threads.exclude_with(core.exclude_thread)
        self._started = True
        self._thread = _threads.Thread(self._run_windows, "glassbottom-sampler", (core,))
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        core, thread = self._core, self._thread
        self._ending.set()
        if core is not None and self._started:
            self._started = False
            core.interrupt()
            if thread is not None:
                thread.wait(timeout_s)
            core.stop()

    # The rate, in the sampler's thread

    def _run_windows(self, core: Core) -> None:
        _threads.enter()
        while not self._ending.is_set() and not self._guard.is_disabled(SAMPLER):
            with self._guard.guarded(SAMPLER):
                core.run_windows(BUDGET_EVERY_S)
                self._keep_within_budget(core.statistics(), core)

    def _keep_within_budget(self, statistics: Statistics, core: Core) -> None:
        counts = Counts(
            window_bytes=statistics["window_bytes"],
            window_open_ns=statistics["window_open_ns"],
            sample_ns=statistics["sample_ns"],
            elapsed_ns=statistics["elapsed_ns"],
        )
        before, self._counts = self._counts, counts
        if before is None or counts.elapsed_ns <= before.elapsed_ns:
            return
        self._costs = costs(before, counts)
        interval_bytes, share = statistics["interval_bytes"], statistics["window_share"]
        filled = statistics["samples_live"] / statistics["samples_live_max"]
        wanted_bytes = self._interval.observe(interval_bytes, self._costs.samples, filled)
        wanted_share = share
        if self._config.window_share == "auto":
            wanted_share = self._share.observe(self._costs.hooks_at_full_share)
        if wanted_bytes != interval_bytes or wanted_share != share:
            core.set_rate(interval_bytes=wanted_bytes, window_share=wanted_share)

    # Reading, in the agent's thread

    def welcomed(self, store_id: str, store_changed: bool) -> None:
        """There is a connection: the next reading is complete, and tells everything to a store that is new."""
        self._store_id = store_id
        if store_changed:
            self._symbols.forget_known()
        self._queue.require_key(STREAM)

    def request(
        self, stored: Callable[[], None], lost: Callable[[str], None], labels: Sequence[str] = ()
    ) -> str | None:
        """Makes the next read() complete, under these names too, and reports its fate; a sentence when there is nothing
        to read."""
        if not self._started:
            return f"This process is not sampled: {self._refusal or 'the sampler is stopped.'}"
        self._outcomes.append((stored, lost))
        self._labels.extend(label for label in labels if label not in self._labels)
        return None

    def read(self) -> None:
        core = self._core
        if core is None or not self._started:
            return
        outcomes, self._outcomes = self._outcomes, []
        labels, self._labels = self._labels[:LABELS_MAX], []
        try:
            self._release_unused(core)
            self._read(core, outcomes, labels)
        except BaseException:
            # What changed has been read and is lost; the next reading must not build on it.
            self._queue.require_key(STREAM)
            for _, tell_lost in outcomes:
                tell_lost("the heap could not be read")
            raise

    def _read(self, core: Core, outcomes: list[Outcome], labels: list[str]) -> None:
        began_s = time.perf_counter()
        snapshot = core.snapshot()
        self._pause_ms_max = max(self._pause_ms_max, (time.perf_counter() - began_s) * 1000)
        if snapshot is None:
            for _, tell_lost in outcomes:
                tell_lost("the sampler is stopped")
            return
        if self._symbols.is_overfull():
            self._symbols.forget_known()
            self._queue.require_key(STREAM)
        if snapshot["epoch"] != self._epoch:
            self._epoch = snapshot["epoch"]
            self._symbols.forget_epoch()
            self._queue.require_key(STREAM)
        complete = bool(outcomes) or self._readings % self._config.complete_every == 0 or self._queue.needs_key(STREAM)
        symbols = self._symbols
        rows = select(
            snapshot,
            symbols.stacks(memoryview(snapshot["node"]).cast("I"), core.stack),
            symbols.types(snapshot["type_names"]),
            symbols.stacks(memoryview(snapshot["type_node"]).cast("I"), core.stack),
            complete=complete,
        )
        definitions, ids = symbols.define(rows.stacks, rows.type_ids, is_key=complete)
        message = heap_pb2.HeapSnapshot(
            at_ns=snapshot["at_ns"],
            epoch=snapshot["epoch"],
            complete=complete,
            interval_bytes=snapshot["interval_bytes"],
            window_share=snapshot["window_share"],
            live_bytes=snapshot["live_bytes"],
            live_bytes_variance=snapshot["live_bytes_variance"],
            sites=rows.sites,
            types=rows.types,
            definitions=definitions,
            labels=labels,
        )

        def stored() -> None:
            symbols.acknowledged(ids)
            for told, _ in outcomes:
                told()

        def lost(reason: str) -> None:
            for _, told in outcomes:
                told(reason)

        self._queue.put(
            STREAM,
            encode(message.SerializeToString()),
            rows=rows.rows,
            is_key=complete,
            store_id=self._store_id,
            on_stored=stored,
            on_lost=lost,
        )
        self._readings += 1

    def _release_unused(self, core: Core) -> None:
        statistics = core.statistics()
        filled = max(statistics["stacks"] / statistics["stacks_max"], statistics["codes"] / statistics["codes_max"])
        pause_s = RELEASE_PAUSE_FULL_S if filled > 0.9 else RELEASE_PAUSE_S
        now_s = self._clock.monotonic_s()
        if filled > 0.5 and now_s - self._released_at_s >= pause_s:
            self._released_at_s = now_s
            core.release_unused()
        if core.release_dead() > 0:
            self._symbols.forget_places()

    # What it costs and how it is

    def state(self) -> ProbeState:
        if self._core is None:
            return ProbeState("refused", self._refusal)
        if not self._started:
            return ProbeState("stopped", "The agent is stopped.")
        statistics = self._core.statistics()
        return ProbeState(statistics["state"], statistics["reason"])

    def hook_cost_ratio(self) -> float:
        """Estimated cost of the hooks on small blocks between the last two readings, as a share of time."""
        return (self._costs.hooks_at_full_share or 0.0) * self._share.share

    def statistics(self) -> Mapping[str, float]:
        if self._core is None or not self._started:
            return {}
        native = self._core.statistics()
        return {
            "sampler_interval_bytes": native["interval_bytes"],
            "sampler_window_share": native["window_share"],
            "sampler_window_open_ratio": native["window_open_ns"] / max(1, native["elapsed_ns"]),
            "sampler_hook_cost_ratio": self.hook_cost_ratio(),
            "sampler_samples_total": native["samples"],
            "sampler_samples_live": native["samples_live"],
            "sampler_samples_live_max": native["samples_live_max"],
            "sampler_samples_dropped_total": native["samples_dropped"],
            "sampler_thinnings_total": native["thinnings"],
            "sampler_stacks": native["stacks"],
            "sampler_stacks_max": native["stacks_max"],
            "sampler_stacks_truncated_total": native["stacks_truncated"],
            "sampler_stacks_overflowed_total": native["stacks_overflowed"],
            "sampler_codes": native["codes"],
            "sampler_codes_max": native["codes_max"],
            "sampler_types": native["types"],
            "sampler_types_max": native["types_max"],
            "sampler_hook_losses_total": native["hook_losses"],
            "sampler_tables_bytes": native["tables_bytes"],
            "sampler_sample_seconds_total": native["sample_ns"] / 1e9,
            "snapshot_pause_ms_max": self._pause_ms_max,
        }


def _offer_gil() -> None:
    """A reading may resolve thousands of names; the application must not wait for all of them at a time."""
    _threads.sleep(0)
