"""Lines of log files become records. The formats are written by the libraries themselves where they can be."""

from __future__ import annotations

import io
import logging
from datetime import UTC, datetime, timedelta, timezone

import pytest
from glassbottom_collector.logs import Miner, Record, mine, records

pytestmark = pytest.mark.once

NOON_NS = int(datetime(2026, 11, 25, 12, 0, 0, tzinfo=UTC).timestamp()) * 1_000_000_000
MS = 1_000_000
TRACEBACK = """Traceback (most recent call last):
  File "/app/shop/orders.py", line 12, in pay
    raise ValueError("cannot pay")
ValueError: cannot pay"""


def written(form: str | None, *, with_error: bool = False) -> list[str]:
    """Lines that logging itself writes in a format, at noon and 123 ms."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    formatter = logging.Formatter(form or logging.BASIC_FORMAT)
    formatter.converter = lambda seconds: datetime.fromtimestamp(seconds or 0, UTC).timetuple()
    handler.setFormatter(formatter)
    record = logging.LogRecord("shop.orders", logging.ERROR, "f.py", 1, "payment of %d failed: no card", (12,), None)
    record.created, record.msecs = NOON_NS / 1e9 + 0.123, 123
    if with_error:
        record.exc_text = TRACEBACK
    handler.emit(record)
    return out.getvalue().splitlines()


@pytest.mark.parametrize(
    ("form", "with_time", "with_logger"),
    [
        (None, False, True),
        ("%(asctime)s - %(name)s - %(levelname)s - %(message)s", True, True),
        ("%(asctime)s [%(levelname)s] %(name)s: %(message)s", True, True),
        ("%(asctime)s %(levelname)-8s [%(name)s] %(message)s", True, False),
        ("%(asctime)s %(name)s %(levelname)s %(message)s", True, True),
        ("%(asctime)s | %(levelname)s | %(name)s | %(message)s", True, True),
        ("%(levelname)s %(asctime)s %(name)s %(process)d %(thread)d %(message)s", True, True),
        ("[%(asctime)s] [4711] [%(levelname)s] %(message)s", True, False),
        ("[%(levelname)s] %(message)s", False, False),
    ],
)
def test_what_logging_writes_is_read_again(form: str | None, with_time: bool, with_logger: bool) -> None:
    """With the traceback below it, which is the record's and no record."""
    (record,) = records(written(form, with_error=True))
    assert record.message.endswith("payment of 12 failed: no card")
    assert record.level == "ERROR"
    assert record.time_ns == (NOON_NS + 123 * MS if with_time else 0)
    if with_logger:
        assert (record.logger, record.message) == ("shop.orders", "payment of 12 failed: no card")
    assert record.exception == TRACEBACK


@pytest.mark.parametrize(
    ("line", "record"),
    [
        (
            'INFO:     127.0.0.1:54321 - "GET /orders/1 HTTP/1.1" 500 Internal Server Error',
            Record('127.0.0.1:54321 - "GET /orders/1 HTTP/1.1" 500 Internal Server Error', 0, "INFO", "uvicorn.access"),
        ),
        ("INFO:     Application startup complete.", Record("Application startup complete.", 0, "INFO")),
        (
            "[2026-11-25 12:00:00 +0000] [7] [INFO] Booting worker with pid: 7",
            Record("Booting worker with pid: 7", NOON_NS, "INFO"),
        ),
        (
            '[25/Nov/2026 12:00:00] "GET /orders/ HTTP/1.1" 200 12',
            Record('"GET /orders/ HTTP/1.1" 200 12', NOON_NS),
        ),
        (
            '10.0.0.7 - - [25/Nov/2026:13:00:00 +0100] "GET / HTTP/1.1" 200 12 "-" "curl/8"',
            Record('10.0.0.7 - - "GET / HTTP/1.1" 200 12 "-" "curl/8"', NOON_NS),
        ),
        ("2026-11-25T12:00:00.5Z all is well", Record("all is well", NOON_NS + 500 * MS)),
        ("2026-11-25T14:00:00+02:00 WARN disk is full", Record("disk is full", NOON_NS, "WARNING")),
        (
            '{"timestamp": "2026-11-25T12:00:00Z", "level": "error", "logger": "shop", "message": "no card", "n": 1}',
            Record("no card", NOON_NS, "ERROR", "shop"),
        ),
        ('{"time": 1795608000123, "severity": 40, "event": "no card"}', Record("no card", NOON_NS + 123 * MS, "ERROR")),
        ('{"unfinished": ', Record('{"unfinished": ')),
        ("2026-99-99 12:00:00 nonsense", Record("nonsense")),
        ("just words", Record("just words")),
    ],
)
def test_a_line_by_itself(line: str, record: Record) -> None:
    assert list(records([line + "\n"])) == [record]


def test_a_time_that_names_no_zone_is_in_the_given_one() -> None:
    (record,) = records(["2026-11-25 14:00:00 x"], zone=timezone(timedelta(hours=2)))
    assert record.time_ns == NOON_NS


def test_everything_below_a_record_is_its_own_until_the_next_begins() -> None:
    """A chain has blank lines and sentences at the left edge, and a message may go over several lines."""
    chain = f"{TRACEBACK}\n\nThe above exception was the direct cause of the following exception:\n\n{TRACEBACK}"
    lines = [
        "2026-11-25 12:00:00,000 ERROR shop: the query",
        "  SELECT 1",
        *chain.splitlines(),
        "",
        "2026-11-25 12:00:01,000 INFO shop: next",
    ]
    first, second = records(lines)
    assert first.message == "the query\n  SELECT 1"
    assert first.exception == chain
    assert second.message == "next"


def test_a_traceback_without_a_record_is_a_record() -> None:
    (record,) = records(TRACEBACK.splitlines())
    assert (record.message, record.exception) == ("", TRACEBACK)


def test_a_record_that_does_not_end_keeps_its_end() -> None:
    (record,) = records(["ERROR:shop:x", "Traceback (most recent call last):", *["  more"] * 5000, "  the end"])
    assert len(record.message + record.exception) < 20_000
    assert (record.message + record.exception).endswith("the end")


def test_records_become_patterns_with_what_is_new_since_the_deployment() -> None:
    lines = [f"2026-11-25 12:00:{n:02} INFO shop.orders: order {n} paid" for n in range(10)] + [
        "2026-11-25 12:00:20 ERROR shop.orders: order 77 failed",
        *TRACEBACK.splitlines(),
        "2026-11-25 12:00:21 CRITICAL shop.cart: cart 5 failed as well",
        *TRACEBACK.replace("12", "14").splitlines(),
    ]
    paid, failure = mine(lines, new_since_ns=NOON_NS + 15_000 * MS)
    assert (paid.kind, paid.template, paid.count, paid.level) == ("message", "order <num> paid", 10, "INFO")
    assert (paid.first_ns, paid.last_ns, paid.is_new) == (NOON_NS, NOON_NS + 9000 * MS, False)
    assert paid.example == "order 0 paid"
    assert (failure.kind, failure.template) == ("exception", "ValueError in shop/orders.py:pay")
    assert (failure.count, failure.level, failure.loggers) == (2, "CRITICAL", ("shop.orders", "shop.cart"))
    assert failure.is_new
    assert failure.exception == TRACEBACK
    assert failure.as_json()["loggers"] == ["shop.orders", "shop.cart"]


def test_a_log_that_does_not_reach_back_to_the_deployment_cannot_say_what_is_new() -> None:
    lines = ["2026-11-25 12:00:00 INFO shop: hello"]
    assert [one.is_new for one in mine(lines, new_since_ns=NOON_NS)] == [None]
    assert [one.is_new for one in mine(["no time"], new_since_ns=NOON_NS)] == [None]
    assert [one.is_new for one in mine(lines)] == [None]


def test_records_and_lines_may_be_mixed() -> None:
    mixed: list[Record | str] = ["ERROR:shop:order 1 lost", Record("order 2 lost", level="WARNING"), "order 3 lost"]
    (pattern,) = mine(mixed)
    assert (pattern.count, pattern.level, pattern.loggers) == (3, "ERROR", ("shop",))


def test_what_the_miner_forgets_is_not_held_by_others_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for a few only: what is left is right, and the levels are those of its own records."""
    monkeypatch.setattr("glassbottom_collector.logs.patterns.SEEN_MAX", 20)
    monkeypatch.setattr("glassbottom_collector.logs.patterns.Miner", lambda: Miner(patterns_max=16))
    letters = "abcdefghijklmnopqrstuvwxyz"
    lines = ["ERROR:shop:the frequent one"] * 3
    lines += [f"INFO:shop:{' '.join(a + b for b in letters[: 3 + n])}" for n, a in enumerate(letters[:20])] * 2
    found = mine(lines)
    assert len(found) <= 16
    assert (found[0].template, found[0].count, found[0].level) == ("the frequent one", 3, "ERROR")
    assert {one.level for one in found[1:]} == {"INFO"}
