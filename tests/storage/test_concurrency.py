"""Reading while there is writing, over more days than may be open at once."""

from __future__ import annotations

import threading

from glassbottom_collector.model.process import Span

from tests.storage.conftest import Bench
from tests.support.store_agent import DAY, NOON, S, StoreAgent, live_bytes

DAYS = 4
SNAPSHOTS = 8


def test_readers_and_the_writer_do_not_disturb_each_other(bench: Bench) -> None:
    """Every answer is one that was true at some moment: what was acknowledged before the question is in it, and of a
    snapshot all or nothing."""
    bench.reopen(attached_files_max=2, retention_days=30)
    acknowledged = [0]
    done = threading.Event()
    errors: list[BaseException] = []

    def read() -> None:
        try:
            while not done.is_set():
                before = acknowledged[0]
                headers = bench.reader.headers("checkout", Span(NOON, NOON + (DAYS + 1) * DAY))
                assert len(headers) >= before
                series = list(bench.reader.heap_series("checkout", Span(NOON, NOON + (DAYS + 1) * DAY)))
                for one in series:
                    assert one.live_bytes.shape == (len(one.headers), len(one.stacks))
                    # Each snapshot lists a hundred stacks, all with the same value.
                    assert {len(set(row.tolist())) for row in one.live_bytes} == {1}
                for state in bench.reader.heap_at("checkout", NOON + SNAPSHOTS * S):
                    assert len(live_bytes(state)) == 100
        except BaseException as error:
            errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    agent = StoreAgent()
    agent.open(bench.writer)
    for place in range(SNAPSHOTS):
        for day in range(DAYS):
            live = {stack: float(1 + place) for stack in range(100)}
            agent.heap(bench.writer, NOON + day * DAY + place * S, live, complete=True)
            acknowledged[0] += 1
        bench.store.retire()  # type: ignore[attr-defined]
    done.set()
    for reader in readers:
        reader.join(20)
    assert errors == []
    assert len(bench.reader.headers("checkout", Span(NOON, NOON + (DAYS + 1) * DAY))) == DAYS * SNAPSHOTS
