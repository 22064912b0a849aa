"""The queue would rather lose data than delay the application, loses the least useful first, and says so."""

from __future__ import annotations

import threading

from glassbottom.transport.encode import CODEC_NONE, Encoded, encode, without_codec
from glassbottom.transport.queue import OVERHEAD_BYTES, Batch, BatchQueue

HEAP, METRICS = 1, 2


def content(size_bytes: int) -> Encoded:
    return Encoded(CODEC_NONE, b"x" * (size_bytes - OVERHEAD_BYTES), size_bytes, 0)


def seqs(queue: BatchQueue, stream: int = HEAP) -> list[int]:
    return [batch.seq for batch in queue._held if batch.stream == stream]


def sent(queue: BatchQueue, credit_bytes: int = 1 << 30) -> list[Batch]:
    found = []
    while (batch := queue.next_unsent(credit_bytes)) is not None:
        found.append(batch)
    return found


def test_batches_are_numbered_within_their_stream_and_sent_in_order():
    queue = BatchQueue(100_000)
    for stream in (HEAP, METRICS, HEAP):
        queue.put(stream, content(1000), rows=1)
    assert [(batch.stream, batch.seq) for batch in sent(queue)] == [(HEAP, 1), (METRICS, 1), (HEAP, 2)]


def test_a_full_queue_drops_the_oldest_reading_and_counts_it():
    queue = BatchQueue(3000)
    for _ in range(4):
        queue.put(HEAP, content(1000), rows=1)
    assert seqs(queue) == [2, 3, 4]
    assert queue.dropped(HEAP) == 1
    assert queue.statistics().bytes_held == 3000


def test_what_builds_on_a_dropped_reading_goes_with_it():
    """A list of changes says nothing without the complete reading before it."""
    queue = BatchQueue(4000)
    for is_key in (True, False, False, True):
        queue.put(HEAP, content(1000), rows=1, is_key=is_key)
    queue.put(HEAP, content(1000), rows=1, is_key=False)
    assert seqs(queue) == [4, 5]
    assert queue.dropped(HEAP) == 3
    assert not queue.needs_key(HEAP)


def test_when_the_newest_group_is_broken_the_next_reading_must_be_complete():
    queue = BatchQueue(2000)
    queue.put(HEAP, content(1000), rows=1, is_key=True)
    queue.put(HEAP, content(1000), rows=1, is_key=False)
    queue.put(HEAP, content(1000), rows=1, is_key=False)
    assert seqs(queue) == []
    assert queue.needs_key(HEAP)
    queue.put(HEAP, content(1000), rows=1, is_key=False)
    assert seqs(queue) == []
    queue.put(HEAP, content(1000), rows=1, is_key=True)
    assert not queue.needs_key(HEAP)
    assert seqs(queue) == [5]
    assert queue.dropped(HEAP) == 4


def test_a_small_stream_is_not_starved_by_a_large_one():
    queue = BatchQueue(10_000)
    queue.put(METRICS, content(1000), rows=1)
    for _ in range(20):
        queue.put(HEAP, content(2000), rows=1)
    assert seqs(queue, METRICS) == [1]
    assert queue.dropped(METRICS) == 0


def test_a_reading_larger_than_the_queue_is_dropped_and_harms_no_other():
    queue = BatchQueue(2000)
    lost: list[str] = []
    queue.put(METRICS, content(500), rows=1)
    queue.put(HEAP, content(5000), rows=1, on_lost=lost.append)
    queue.report_lost()
    assert lost == ["the queue is full"]
    assert seqs(queue, METRICS) == [1]


def test_a_batch_is_kept_until_acknowledged_and_sent_again_after_a_lost_connection():
    queue = BatchQueue(100_000)
    stored: list[int] = []
    for number in range(3):
        queue.put(HEAP, content(1000), rows=1, on_stored=lambda number=number: stored.append(number))
    assert len(sent(queue)) == 3
    assert queue.acknowledge(HEAP, 1, "store") == 1
    assert stored == [0]
    queue.rewind()
    assert [batch.seq for batch in sent(queue)] == [2, 3]


def test_credit_limits_what_is_in_flight_but_one_batch_may_always_go():
    queue = BatchQueue(100_000)
    for _ in range(3):
        queue.put(HEAP, content(1000 + OVERHEAD_BYTES), rows=1)
    assert [batch.seq for batch in sent(queue, credit_bytes=2000)] == [1, 2]
    queue.acknowledge(HEAP, 2, "store")
    assert [batch.seq for batch in sent(queue, credit_bytes=10)] == [3]


def test_a_rejected_batch_takes_those_along_that_build_on_it():
    queue = BatchQueue(100_000)
    for is_key in (True, False):
        queue.put(HEAP, content(1000), rows=1, is_key=is_key)
    lost: list[str] = []
    queue.put(HEAP, content(1000), rows=1, is_key=False, on_lost=lost.append)
    assert queue.reject(HEAP, 1, "malformed")
    assert not queue.reject(HEAP, 1, "malformed")
    assert queue.is_empty()
    assert queue.needs_key(HEAP)
    assert queue.dropped(HEAP) == 2
    assert lost == ["malformed"]


def test_a_new_store_does_not_get_what_builds_on_the_old_one():
    queue = BatchQueue(100_000)
    queue.put(HEAP, content(1000), rows=1, is_key=True)
    queue.put(HEAP, content(1000), rows=1, is_key=False)
    queue.acknowledge(HEAP, 1, "old")
    queue.put(METRICS, content(1000), rows=1)
    queue.forget_other_stores("new")
    assert seqs(queue) == []
    assert seqs(queue, METRICS) == [1]
    assert queue.needs_key(HEAP)


def test_put_from_a_callback_that_interrupts_the_queue_itself_does_not_deadlock():
    """A garbage collection may run any code at any moment, also while this thread holds the queue's lock."""
    queue = BatchQueue(100_000)
    with queue._lock:
        queue.put(HEAP, content(1000), rows=1)
    assert not queue.is_empty()
    assert [batch.seq for batch in sent(queue)] == [1]


def test_batches_put_by_many_threads_at_once_are_all_there_and_numbered_once():
    queue = BatchQueue(100_000_000)

    def put_many() -> None:
        for _ in range(200):
            queue.put(HEAP, content(300), rows=1)

    threads = [threading.Thread(target=put_many) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(batch.seq for batch in sent(queue)) == list(range(1, 1601))


def test_a_body_survives_packing():
    body = b"a body that repeats itself " * 100
    packed = encode(body)
    assert len(packed.body) < len(body)
    plain = without_codec(packed)
    assert (plain.body, plain.codec, plain.crc32) == (body, CODEC_NONE, packed.crc32)
