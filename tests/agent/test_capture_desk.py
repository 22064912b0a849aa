"""Orders for captures, from acceptance to the last word, with time in the test's hands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from glassbottom import _threads, captures
from glassbottom._config import CapturesConfig
from glassbottom._errors import CaptureError
from glassbottom._guard import FAILURES_MAX, Guard
from glassbottom.captures import desk as module
from glassbottom.captures import find
from glassbottom.captures.desk import DONE, FAILED, REFUSED, STARTED, Desk
from glassbottom.captures.upload import BYTES_PER_S, CHUNK_BYTES, WINDOW_BYTES
from glassbottom.testing import FakeClock
from glassbottom.wire.v1 import ingest_pb2

from tests.support.capturing import GivenCapture

pytestmark = pytest.mark.once

MINUTE_NS = 60 * 10**9


class Table:
    """A desk whose sender is the test. `results` are its answers; `take()` lets a collector take what it sends."""

    def __init__(self, place: Path, capture: GivenCapture, **limits: object) -> None:
        self.place = place
        self.capture = capture
        self.clock = FakeClock()
        self.guard = Guard()
        self.results: list[ingest_pb2.CommandResult] = []
        self.woken = _threads.Event()
        config = CapturesConfig(directory=place, **limits)  # type: ignore[arg-type]
        self.desk = Desk(config, self.clock, self.guard, self.results.append, self.woken.set, lambda _: self.capture)

    def order(self, capture_id: str = "a" * 32, lease_ns: int = 5 * MINUTE_NS, **order: object) -> None:
        wanted = ingest_pb2.CaptureOrder(lease_until_ns=self.clock.time_ns() + lease_ns, **order)  # type: ignore[arg-type]
        self.desk.order(ingest_pb2.Command(id=capture_id, capture=wanted), "dump_heap")

    def work(self) -> float:
        return self.desk.work(self.clock.monotonic_s())

    def thread_ends(self) -> None:
        """Waits for the capture's thread, then lets the desk look."""
        job = self.desk._job
        assert job is not None
        assert job.thread is not None
        assert job.thread.wait(20.0)
        self.work()

    def ack(self, offset: int = 0, *, settled: bool = False, reason: str = "", capture_id: str = "a" * 32) -> None:
        self.desk.acknowledge(ingest_pb2.CaptureAck(id=capture_id, offset=offset, settled=settled, reason=reason))

    def pieces(self) -> list[ingest_pb2.CaptureChunk]:
        return [request.capture_chunk for request in self.desk.pieces(self.clock.monotonic_s())[0]]

    def last(self) -> tuple[int, str]:
        return self.results[-1].outcome, self.results[-1].reason

    def files(self) -> list[Path]:
        return sorted(self.place.rglob("*"))


Tables = Callable[..., Table]


@pytest.fixture
def tables(tmp_path: Path) -> Iterator[Tables]:
    made: list[Table] = []

    def table(capture: GivenCapture, **limits: object) -> Table:
        made.append(Table(tmp_path, capture, **limits))
        return made[-1]

    yield table
    for each in made:
        each.capture.goes_on.set()
        each.desk.stop(5.0)


def test_a_capture_is_started_made_sent_and_then_nothing_of_it_is_left(tables: Tables) -> None:
    content = bytes(range(256)) * 1500
    table = tables(GivenCapture(content, {"objects": 7.0, "how": "well"}))
    table.order(seconds=3.0, options={"native": "1"})
    assert table.last() == (STARTED, "")
    table.thread_ends()
    assert table.last() == (DONE, "")
    made = table.results[-1].made
    assert (made.file_bytes, dict(made.numbers), dict(made.texts)) == (len(content), {"objects": 7.0}, {"how": "well"})
    (order,) = table.capture.orders
    assert (order.kind, order.seconds, dict(order.options)) == ("dump_heap", 3.0, {"native": "1"})

    assert table.pieces() == [], "not before the collector has said where to begin"
    table.ack(0)
    pieces = table.pieces()
    assert [piece.offset for piece in pieces] == [0, CHUNK_BYTES]
    assert b"".join(piece.data for piece in pieces) == content
    table.ack(len(content), settled=True)
    assert table.work() == float("inf")
    assert table.files() == []
    assert table.desk.statistics()["captures_done_total"] == 1
    assert table.desk.statistics()["captures_running"] == 0


def test_facts_alone_need_no_file(tables: Tables) -> None:
    table = tables(GivenCapture(None, {"freed_bytes": 5.0, "nonsense": float("nan")}))
    table.order()
    table.thread_ends()
    assert table.results[-1].outcome == DONE
    assert dict(table.results[-1].made.numbers) == {"freed_bytes": 5.0}
    assert table.desk.statistics()["captures_running"] == 0


def test_only_one_is_done_at_a_time_until_its_file_is_stored(tables: Tables) -> None:
    table = tables(GivenCapture(b"x", waits=True))
    table.order()
    table.clock.advance(4.0)
    table.order("b" * 32)
    assert table.results[-1].id == "b" * 32
    assert table.last() == (
        REFUSED,
        'Another capture, "dump_heap", runs in this process since 4 s; only one is done at a time.',
    )
    table.capture.goes_on.set()
    table.thread_ends()
    table.order("c" * 32)
    assert table.last()[0] == REFUSED
    assert "is being sent" in table.last()[1]


def test_a_refusal_is_passed_on_and_leaves_nothing_behind(tables: Tables) -> None:
    table = tables(GivenCapture(b"x", refuses="A debugger is active; end it first."))
    table.order()
    assert table.last() == (REFUSED, "A debugger is active; end it first.")
    assert table.files() == []
    assert table.desk.statistics()["captures_refused_total"] == 1


def test_what_the_order_wants_is_lowered_to_what_the_configuration_allows(tables: Tables) -> None:
    table = tables(GivenCapture(b"x"), bytes_max=5000, seconds_max=20.0)
    table.order(seconds=4000.0, bytes_max=1 << 40)
    assert (table.capture.orders[0].seconds, table.capture.orders[0].bytes_max) == (20.0, 5000)


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        ({"lease_ns": -1}, "after the end of its lease"),
        ({"seconds": float("nan")}, "how many seconds"),
        ({"options": {"x" * 300: ""}}, "At most 16 options"),
        ({"options": {str(number): "" for number in range(20)}}, "At most 16 options"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused(order: dict[str, object], reason: str, tables: Tables) -> None:
    table = tables(GivenCapture(b"x"))
    table.order(**order)  # type: ignore[arg-type]
    assert table.last()[0] == REFUSED
    assert reason in table.last()[1]


def test_between_two_captures_is_as_much_rest_as_the_last_one_took(tables: Tables) -> None:
    table = tables(GivenCapture(None, waits=True))
    table.order()
    assert table.capture.begins.wait(20.0)
    table.clock.advance(8.0)
    table.capture.goes_on.set()
    table.thread_ends()
    table.clock.advance(5.5)
    table.order("b" * 32)
    assert table.last() == (
        REFUSED,
        "The last capture ran for 8.0 s, and as long there is none; try again in 3 s.",
    )
    table.clock.advance(2.5)
    table.order("c" * 32)
    assert STARTED in [result.outcome for result in table.results if result.id == "c" * 32]


def test_when_the_lease_ends_the_capture_is_told_to_and_its_file_is_deleted(tables: Tables) -> None:
    table = tables(GivenCapture(b"late", waits=True))
    table.order(seconds=300.0, lease_ns=MINUTE_NS)
    assert table.capture.begins.wait(20.0)
    assert table.work() == pytest.approx(table.clock.monotonic_s() + 60.0)
    table.clock.advance(61.0)
    table.work()
    assert table.last() == (FAILED, "Its lease ended before everything was stored.")
    table.thread_ends()
    assert table.capture.told_to_end
    assert table.files() == []


def test_a_file_that_is_still_on_its_way_when_the_lease_ends_goes(tables: Tables) -> None:
    table = tables(GivenCapture(b"x" * 100))
    table.order(lease_ns=MINUTE_NS)
    table.thread_ends()
    assert table.files() != []
    table.clock.advance(61.0)
    table.work()
    assert table.last() == (FAILED, "Its lease ended before everything was stored.")
    assert table.files() == []


def test_a_capture_that_takes_longer_than_ordered_is_told_to_end_and_may_still_hand_in(tables: Tables) -> None:
    table = tables(GivenCapture(b"what there was", waits=True))
    table.order(seconds=5.0)
    assert table.capture.begins.wait(20.0)
    table.clock.advance(5.0 + module.END_AFTER_S)
    table.work()
    table.thread_ends()
    assert table.capture.told_to_end
    assert table.last() == (DONE, "")


def test_one_that_does_not_end_when_told_is_reported_and_keeps_the_desk(tables: Tables) -> None:
    table = tables(GivenCapture(b"x", waits=True, deaf=True))
    table.order(seconds=5.0)
    assert table.capture.begins.wait(20.0)
    table.clock.advance(5.0 + module.END_AFTER_S + module.GIVE_UP_AFTER_S)
    table.work()
    assert table.last()[0] == FAILED
    assert "did not end" in table.last()[1]
    table.order("b" * 32)
    assert table.last()[0] == REFUSED
    table.capture.goes_on.set()
    table.thread_ends()
    assert [result.outcome for result in table.results] == [STARTED, FAILED, REFUSED], "what it made is not told"
    assert table.files() == []
    assert table.desk.statistics()["captures_running"] == 0


def test_a_collector_that_wants_no_more_ends_it(tables: Tables) -> None:
    table = tables(GivenCapture(b"x", waits=True))
    table.order()
    assert table.capture.begins.wait(20.0)
    table.ack(settled=True, reason="It was called off.")
    table.thread_ends()
    assert table.capture.told_to_end
    assert table.files() == []
    assert [result.outcome for result in table.results] == [STARTED], "whoever has settled it need not be told"
    assert table.desk.statistics()["captures_failed_total"] == 1


def test_after_a_reconnect_it_says_again_what_is_open_and_goes_on_where_the_collector_is(tables: Tables) -> None:
    content = bytes(300) * 3000
    table = tables(GivenCapture(content))
    table.order()
    table.thread_ends()
    table.ack(0)
    assert [piece.offset for piece in table.pieces()] == [0, CHUNK_BYTES, 2 * CHUNK_BYTES, 3 * CHUNK_BYTES]
    before = len(table.results)
    table.desk.welcomed()
    assert [result.outcome for result in table.results[before:]] == [DONE]
    assert table.pieces() == []
    table.ack(CHUNK_BYTES)
    again = table.pieces()
    assert again[0].offset == CHUNK_BYTES
    assert b"".join(piece.data for piece in again) == content[CHUNK_BYTES:]


def test_the_last_word_on_a_refused_one_is_repeated_until_it_is_settled(tables: Tables) -> None:
    table = tables(GivenCapture(b"x", refuses="No."))
    table.order()
    table.desk.welcomed()
    assert [result.reason for result in table.results] == ["No.", "No."]
    table.ack(settled=True)
    table.desk.welcomed()
    assert len(table.results) == 2


def test_last_words_that_nobody_hears_are_bounded_and_counted(tables: Tables) -> None:
    table = tables(GivenCapture(b"x", refuses="No."))
    for number in range(module.UNSETTLED_MAX + 3):
        table.order(f"{number:032x}")
    assert table.desk.statistics()["captures_untold_total"] == 3
    assert len(table.desk._unsettled) == module.UNSETTLED_MAX


def test_no_more_is_under_way_than_the_window_and_no_more_a_second_than_the_rate(tables: Tables) -> None:
    table = tables(GivenCapture(bytes(2 * BYTES_PER_S)))
    table.order()
    table.thread_ends()
    table.ack(0)
    sent = sum(len(piece.data) for piece in table.pieces())
    assert sent == WINDOW_BYTES
    assert table.desk.pieces(table.clock.monotonic_s()) == ([], float("inf")), "it is the collector's turn"
    table.ack(sent)
    pieces, again_at_s = table.desk.pieces(table.clock.monotonic_s())
    assert not pieces, "what the rate allows at once is used up"
    assert again_at_s > table.clock.monotonic_s()
    for _ in range(100):
        table.clock.advance(0.01)
        sent += sum(len(piece.data) for piece in table.pieces())
        table.ack(sent)
    assert sent == pytest.approx(BYTES_PER_S + WINDOW_BYTES, abs=CHUNK_BYTES)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda _: b"", "is empty"),
        (lambda _: b"x" * 2000, "2000 bytes long, and 1024 were allowed"),
        (lambda capture: setattr(capture, "place", lambda directory: directory.parent / "outside") or b"x", "belongs"),
    ],
)
def test_a_file_that_is_not_what_was_promised_is_not_sent(
    spoil: Callable[[GivenCapture], bytes], reason: str, tables: Tables
) -> None:
    capture = GivenCapture()
    capture.content = spoil(capture)
    table = tables(capture, bytes_max=1024)
    table.order()
    table.thread_ends()
    assert table.last()[0] == FAILED
    assert reason in table.last()[1]


def test_a_file_that_vanishes_on_its_way_is_reported(tables: Tables) -> None:
    table = tables(GivenCapture(b"x" * 10))
    table.order()
    table.thread_ends()
    for path in table.files():
        if path.is_file():
            path.unlink()
    table.ack(0)
    assert table.pieces() == []
    assert table.last()[0] == FAILED
    assert "cannot be read any more" in table.last()[1]


def test_what_the_kind_says_goes_to_whoever_asked_and_a_mistake_of_ours_into_the_log_as_well(
    tables: Tables, caplog: pytest.LogCaptureFixture
) -> None:
    table = tables(GivenCapture(error=CaptureError("memray cannot trace beside a debugger.")))
    table.order()
    table.thread_ends()
    assert table.last() == (FAILED, "memray cannot trace beside a debugger.")
    assert table.guard.errors == 0

    table.capture = GivenCapture(error=ZeroDivisionError("x"))
    table.clock.advance(100.0)
    table.order("b" * 32)
    table.thread_ends()
    assert table.last()[0] == FAILED
    assert "ZeroDivisionError" in table.last()[1]
    assert table.guard.errors == 1
    assert "captures.dump_heap" in caplog.text


def test_a_kind_that_keeps_failing_is_turned_off(tables: Tables) -> None:
    table = tables(GivenCapture(error=ZeroDivisionError("x")))
    for number in range(FAILURES_MAX):
        table.order(f"{number:032x}")
        table.thread_ends()
        table.clock.advance(100.0)
    table.order("f" * 32)
    assert table.last()[0] == REFUSED
    assert "turned off after errors" in table.last()[1]


def test_stopping_ends_what_runs_tells_the_collector_and_takes_no_more(tables: Tables) -> None:
    table = tables(GivenCapture(b"x", waits=True))
    table.order()
    assert table.capture.begins.wait(20.0)
    table.desk.stop(5.0)
    assert table.last() == (FAILED, "The process ended before everything was stored.")
    assert table.capture.told_to_end
    assert table.files() == []
    table.order("b" * 32)
    assert table.last() == (REFUSED, "The process is ending.")


def test_one_that_gets_no_thread_fails_with_the_reason_and_the_next_may_begin(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_thread: _threads.Thread) -> None:
        raise RuntimeError("can't start new thread")  # as where a control group allows no more

    table = tables(GivenCapture(b"x"))
    with monkeypatch.context() as patched:
        patched.setattr(_threads.Thread, "start", refuse)
        table.order()
    table.work()
    assert table.last() == (FAILED, "There is no thread for it: can't start new thread.")
    assert table.files() == []
    table.clock.advance(100.0)
    table.order("b" * 32)
    assert table.last()[0] == STARTED


def test_a_kind_that_is_unknown_or_not_installed_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CaptureError, match="may be older than the collector"):
        find("dump_universe")
    monkeypatch.setitem(captures.KINDS, "dump_heap", ("nowhere", "Nothing"))
    with pytest.raises(CaptureError, match="cannot make captures of kind 'dump_heap'"):
        find("dump_heap")
