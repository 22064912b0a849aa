"""How much at once, and how much was too much.

Nothing here refuses data: whoever is over a limit is read more slowly, and the network's own flow control carries
that back to the agent, whose queue is bounded and counts. What is refused elsewhere is counted here too.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable


class ByteBudget:
    """Bytes that may be on their way to the store, over all agents. First come, first served."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.bytes_held = 0
        self.bytes_high = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> None:
        """Waits until there is room. A size above the whole budget counts as the whole."""
        size = min(size, self.bytes_max)
        if self._waiting or self.bytes_held + size > self.bytes_max:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append((size, turn))
            try:
                await turn  # give() has counted the bytes by then
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self.give(size)
                raise
            return
        self._hold(size)

    def give(self, size: int) -> None:
        """Returns what take() took."""
        self.bytes_held -= min(size, self.bytes_max)
        while self._waiting:
            wanted, turn = self._waiting[0]
            if turn.cancelled():
                self._waiting.popleft()
                continue
            if self.bytes_held + wanted > self.bytes_max:
                break
            self._waiting.popleft()
            self._hold(wanted)
            turn.set_result(None)

    def exchange(self, size: int, other: int) -> None:
        """Gives back what take() took for something that has turned out to be of another size, and holds that.

        Does not wait, since whoever waits with something in his hands may wait for ever; it may exceed the bound by
        the batches being decoded, and take() waits until that is over.
        """
        self.bytes_held -= min(size, self.bytes_max)
        self._hold(min(other, self.bytes_max))
        self.give(0)

    def waiting(self) -> int:
        """Batches that wait for room."""
        return len(self._waiting)

    def _hold(self, size: int) -> None:
        self.bytes_held += size
        self.bytes_high = max(self.bytes_high, self.bytes_held)


class KnownIds:
    """Ids whose definitions are durable; forgets all of them when they become too many."""

    def __init__(self, count_max: int = 100_000) -> None:
        self._count_max = count_max
        self._ids: set[int] = set()

    def __contains__(self, identity: object) -> bool:
        return identity in self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, ids: Iterable[int]) -> None:
        """Remembers them."""
        self._ids.update(ids)
        if len(self._ids) > self._count_max:
            self._ids.clear()


class RowRate:
    """Rows per second of one agent, averaged over BURST_S: a first complete snapshot may be large."""

    BURST_S = 10.0

    def __init__(self, rows_per_second_max: int, clock_s: Callable[[], float]) -> None:
        self._rate = float(rows_per_second_max)
        self._clock_s = clock_s
        self._rows = self._rate * self.BURST_S
        self._filled_s = clock_s()

    def delay_s(self, rows: int) -> float:
        """How long to wait before these rows; they are counted now."""
        now_s = self._clock_s()
        self._rows = min(self._rate * self.BURST_S, self._rows + (now_s - self._filled_s) * self._rate)
        self._filled_s = now_s
        self._rows -= rows
        return max(0.0, -self._rows / self._rate)


class IngestCounters(Counter[str]):
    """What became of what arrived, by name; every refusal is here. docs/collector.md explains each."""

    NAMES = (
        "batches_received_total",
        "batches_acked_total",
        "batches_repeated_total",
        "batches_rejected_total",
        "batches_throttled_total",
        "bytes_received_total",
        "agent_batches_dropped_total",
        "hellos_refused_total",
        "heartbeats_malformed_total",
        "sessions_opened_total",
        "sessions_replaced_total",
        "sessions_silent_total",
        "rate_delays_total",
        "commands_sent_total",
        "capture_pieces_total",
        "capture_pieces_refused_total",
        "incident_calls_total",
    )

    def __init__(self) -> None:
        super().__init__(dict.fromkeys(self.NAMES, 0))
