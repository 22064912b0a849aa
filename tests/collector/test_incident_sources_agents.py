"""What processes tell when a capture asks them, the ends of log files, and what all of them say; and the readings of
databases that are kept from before."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from glassbottom_collector.incident.assemble import Outcome, Subject, assemble
from glassbottom_collector.incident.bundle import Bundle, BundleSink
from glassbottom_collector.incident.from_agents import (
    INSTANCES_MAX,
    LINES_MAX,
    AgentsCollector,
    Gathered,
    LogFilesCollector,
    collectors,
    last_lines,
)
from glassbottom_collector.incident.history import READINGS_MAX, SOURCES_MAX, History
from glassbottom_collector.incident.parts import CollectingError
from glassbottom_collector.logs import Record, records
from glassbottom_collector.model.live import InstanceLive
from glassbottom_collector.model.process import Process
from glassbottom_collector.redaction import Redactor
from glassbottom_collector.redaction.scan import scan

pytestmark = pytest.mark.once  # what is told does not depend on the version

S = 10**9
NOW = 1_790_000_000 * S
A, B = "aa1" + "0" * 29, "bb2" + "0" * 29
TRACEBACK = (
    "Traceback (most recent call last):\n"
    '  File "/srv/app/cart.py", line 42, in add\n    raise KeyError(item)\nKeyError: 7'
)


def connected(*instance_ids: str, service: str = "checkout", is_connected: bool = True) -> list[InstanceLive]:
    return [
        InstanceLive(
            Process(service, instance_id, 7, NOW - place * S), "1.2.3", is_connected, NOW, "running", "", {}, 0.0
        )
        for place, instance_id in enumerate(instance_ids)
    ]


def record(message: str, at_s: int = 0, **more: str) -> dict[str, Any]:
    return {"at_ns": NOW + at_s * S + 250_000_000, "level": "INFO", "logger": "app", "message": message, **more}


def answer(*logs: Mapping[str, Any], **state: Any) -> bytes:
    return json.dumps({"state": {"threads": 3, **state}, "logs": list(logs)}).encode()


def sink() -> tuple[Bundle, BundleSink]:
    bundle = Bundle(Redactor(b"k" * 32))
    return bundle, bundle.sink("tested")


def text(bundle: Bundle, path: str) -> str:
    return bundle.files()[path].data.decode()


def asking(order: Callable[[str, float], bytes], live: Sequence[InstanceLive]) -> AgentsCollector:
    return AgentsCollector("checkout", lambda: live, order, Gathered())


def soon(seconds: float = 10.0) -> float:
    return time.monotonic() + seconds


# --- Processes ---


def test_every_connected_process_tells_its_state_and_its_log() -> None:
    bundle, mine = sink()
    live = [*connected(A, B), *connected("cc3", service="billing"), *connected("dd4", is_connected=False)]
    asked: list[str] = []

    def order(instance_id: str, _deadline_s: float) -> bytes:
        asked.append(instance_id)
        return answer(record("started"), record("failed", 1, level="ERROR", exception=TRACEBACK), rss=instance_id[0])

    asking(order, live).collect(mine, soon())

    assert sorted(asked) == [A, B]
    assert sorted(bundle.files()) == [f"logs/{A}.log", f"logs/{B}.log", f"state/{A}.json", f"state/{B}.json"]
    assert json.loads(text(bundle, f"state/{B}.json")) == {"rss": "b", "threads": 3}
    assert text(bundle, f"logs/{A}.log").splitlines()[:3] == [
        "2026-09-21T14:13:20.250000Z INFO app: started",
        "2026-09-21T14:13:21.250000Z ERROR app: failed",
        "Traceback (most recent call last):",
    ]
    assert (bundle.files()[f"state/{A}.json"].node, bundle.files()[f"state/{A}.json"].role) == (A, "agent")


def test_processes_are_asked_side_by_side() -> None:
    everyone = threading.Barrier(4, timeout=10)

    def order(_instance_id: str, _deadline_s: float) -> bytes:
        everyone.wait()  # nobody gets past before all have been asked
        return answer()

    bundle, mine = sink()
    asking(order, connected(A, B, "cc3", "dd4")).collect(mine, soon())
    assert len(bundle.files()) == 4


def test_one_that_fails_or_hangs_costs_the_others_nothing() -> None:
    bundle, mine = sink()
    over = threading.Event()

    def order(instance_id: str, _deadline_s: float) -> bytes:
        if instance_id == B:
            raise CollectingError("It was refused: captures are off.")
        if instance_id == "cc3":
            over.wait(30)
        return answer()

    with pytest.raises(CollectingError) as caught:
        asking(order, connected(A, B, "cc3")).collect(mine, soon(1.0))
    over.set()
    assert str(caught.value) == (
        "2 of 3 processes did not tell their state. bb200000: It was refused: captures are off.; "
        "cc3: It did not answer in time."
    )
    assert f"state/{A}.json" in bundle.files()


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"[]", b'{"logs": []}', b"[" * 100_000])
def test_an_answer_that_is_none_is_a_sentence(data: bytes) -> None:
    _, mine = sink()
    with pytest.raises(CollectingError, match="is its agent of another version"):
        asking(lambda _id, _deadline_s: data, connected(A)).collect(mine, soon())


def test_of_many_processes_those_that_began_last_are_asked() -> None:
    bundle, mine = sink()
    names = [f"{place:032x}" for place in range(INSTANCES_MAX + 3)]  # the later, the longer ago
    asking(lambda _id, _deadline_s: answer(), connected(*names)).collect(mine, soon())
    assert sorted(bundle.files()) == [f"state/{name}.json" for name in names[:INSTANCES_MAX]]
    assert mine.notes[0] == "3 more processes are connected; the 16 that began last were asked."


def test_a_long_log_keeps_its_end() -> None:
    bundle, mine = sink()
    logs = [record(f"line {at}") for at in range(LINES_MAX + 5)]
    asking(lambda _id, _deadline_s: answer(*logs), connected(A)).collect(mine, soon())
    lines = text(bundle, f"logs/{A}.log").splitlines()
    assert (len(lines), lines[0].split(": ")[1]) == (LINES_MAX, "line 5")
    assert mine.notes == ["Of the log of aa100000 the last 1000 of 1005 lines were kept."]


def test_odd_records_and_numbers_do_not_spoil_the_rest() -> None:
    bundle, mine = sink()
    odd = b'{"state": {"ratio": NaN}, "logs": [1, {"at_ns": -5, "message": null}, {"at_ns": 0, "message": "kept"}]}'
    asking(lambda _id, _deadline_s: odd, connected(A)).collect(mine, soon())
    assert json.loads(text(bundle, f"state/{A}.json")) == {"ratio": None}
    assert text(bundle, f"logs/{A}.log").splitlines()[-1] == "1970-01-01T00:00:00.000000Z - -: kept"


def test_the_log_of_a_process_can_be_read_back_as_records() -> None:
    bundle, mine = sink()
    logs = [record("came"), record("failed", 1, level="ERROR", logger="app.db", exception=TRACEBACK)]
    asking(lambda _id, _deadline_s: answer(*logs), connected(A)).collect(mine, soon())
    assert list(records(text(bundle, f"logs/{A}.log").splitlines())) == [
        Record("came", NOW + 250_000_000, "INFO", "app"),
        Record("failed", NOW + S + 250_000_000, "ERROR", "app.db", TRACEBACK),
    ]


def test_nobody_connected_is_a_note_and_no_failure() -> None:
    bundle, mine = sink()
    asking(lambda _id, _deadline_s: b"", ()).collect(mine, soon())
    assert (bundle.files(), mine.notes) == (
        {},
        ["No process of checkout is connected now, so none could be asked for its state."],
    )


# --- Files ---


def test_a_log_file_is_read_from_its_end_and_no_further_than_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    path.write_text("".join(f"line {at}\n" for at in range(5_000)))
    assert last_lines(path, 3) == (["line 4997", "line 4998", "line 4999"], False)
    # Thirteen bytes reach into the middle of a line, which is left out.
    assert last_lines(path, 3, 13) == (["line 4999"], False)
    assert last_lines(path, 9_999) == ([f"line {at}" for at in range(5_000)], True)


def test_a_line_longer_than_the_bound_leaves_nothing_rather_than_a_piece(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    path.write_text("x" * 1_000)
    assert last_lines(path, 3, 100) == ([], False)


def test_only_listed_files_are_read_and_the_missing_are_named(tmp_path: Path) -> None:
    (tmp_path / "app.log").write_text("one\ntwo\n")
    (tmp_path / "secret.log").write_text("three\n")
    os.mkfifo(tmp_path / "pipe")
    bundle, mine = sink()
    listed = [tmp_path / name for name in ("app.log", "gone.log", "pipe")]
    with pytest.raises(CollectingError) as caught:
        LogFilesCollector(listed, Gathered()).collect(mine, soon())
    assert "2 of 3 log files could not be read" in str(caught.value)
    assert "gone.log: No such file or directory" in str(caught.value)
    assert "pipe: It is no regular file." in str(caught.value)
    ((path, file),) = bundle.files().items()
    assert path.startswith("logs/files/")
    assert (file.data, file.role) == (b"one\ntwo\n", "file")


# --- All of it ---


def captured(mine: Sequence[Any]) -> tuple[dict[str, Outcome], Any]:
    """Through the assembler, with the real redaction and the real scan."""
    subject = Subject("OPS-1", "checkout", NOW - 3600 * S, NOW)
    archive = assemble(subject, mine, Redactor(b"k" * 32), scan, version="1")
    return {one.name: one for one in archive.outcomes}, archive


def test_what_all_logs_say_becomes_patterns(tmp_path: Path) -> None:
    path = tmp_path / "nginx.log"
    path.write_text("".join(f"2026-09-21T14:00:0{at}Z INFO upstream answered in {at} ms\n" for at in range(5)))
    logs = [record(f"user {at} came", at) for at in range(4)]
    logs += [record("failed", 9, level="ERROR", exception=TRACEBACK)] * 2
    chosen = collectors("checkout", lambda: connected(A), lambda _id, _at: answer(*logs), log_files=[path])
    bundle = Bundle(Redactor(b"k" * 32))
    for one in chosen:
        one.collect(bundle.sink(one.name), soon())
    found = json.loads(text(bundle, "logs/patterns.json"))
    assert found["said"] == 11
    told = {(one["kind"], one["template"]): one for one in found["patterns"]}
    assert told["message", "user <num> came"]["count"] == 4
    assert told["message", "upstream answered in <num> ms"]["count"] == 5
    (failure,) = (one for one in found["patterns"] if one["kind"] == "exception")
    assert (failure["count"], failure["level"]) == (2, "ERROR")


def test_a_capture_keeps_what_some_told_and_is_partial(tmp_path: Path) -> None:
    def order(instance_id: str, _deadline_s: float) -> bytes:
        if instance_id == B:
            raise CollectingError("It did not answer.")
        return answer(record("Authorization: Bearer abcdefghijklmnopqrstuvwxyz012345"))

    outcomes, archive = captured(collectors("checkout", lambda: connected(A, B), order))
    assert {name: one.state for name, one in outcomes.items()} == {"agents": "failed", "logs.patterns": "done"}
    assert (outcomes["agents"].files, archive.complete) == (2, False)


def test_the_plan_names_processes_and_files(tmp_path: Path) -> None:
    chosen = collectors("checkout", lambda: connected(A, B), lambda _id, _at: b"", log_files=[tmp_path / "a.log"])
    planned = [(one.name, read.node, read.role) for one in chosen for read in one.plan()]
    assert planned == [
        ("agents", A, "agent"),
        ("agents", B, "agent"),
        ("logs.files", str(tmp_path / "a.log"), "file"),
        ("logs.patterns", "the collector", "collector"),
    ]


# --- The history of databases ---


def test_readings_are_kept_for_an_hour_and_no_longer() -> None:
    clock = iter(range(1000))
    history = History({"orders": lambda: {"connections": 5.0}}, clock_ns=lambda: next(clock))
    for _ in range(READINGS_MAX + 10):
        history.poll()
    kept = history.readings("orders")
    assert (len(kept), kept[0].at_ns, kept[-1].at_ns) == (READINGS_MAX, 10, READINGS_MAX + 9)
    assert history.readings("unknown") == ()


def test_a_source_that_fails_is_counted_and_leaves_a_gap_of_its_own() -> None:
    answers = iter([{"connections": 5.0}, None, {"connections": 6.0}])

    def failing() -> Mapping[str, float]:
        found = next(answers)
        if found is None:
            raise OSError("connection refused")
        return found

    history = History({"orders": failing, "cache": lambda: {"hits": 1.0}})
    history.poll()
    history.poll()
    assert history.problems() == {"orders": "OSError: connection refused"}
    history.poll()
    assert [reading.values for reading in history.readings("orders")] == [{"connections": 5.0}, {"connections": 6.0}]
    assert len(history.readings("cache")) == 3
    assert history.problems() == {}
    counts = history.statistics()
    assert (counts["history_errors_total"], counts["history_polls_total"], counts["history_readings"]) == (1, 6, 5)


def test_what_is_no_number_and_what_is_too_much_is_not_kept() -> None:
    many = {f"name_{at:03}": float(at) for at in range(40)}
    history = History({"a": lambda: {"ok": 1.0, "bad": float("nan")}, "b": lambda: many})
    history.poll()
    assert history.readings("a")[0].values == {"ok": 1.0}
    assert len(history.readings("b")[0].values) == 32
    assert history.statistics()["history_names_dropped_total"] == 8
    assert History({str(at): dict for at in range(SOURCES_MAX + 2)}).statistics()["history_sources_left_out"] == 2


def test_the_thread_asks_at_once_and_again_until_it_is_stopped() -> None:
    twice = threading.Event()
    asked: list[int] = []

    def probe() -> Mapping[str, float]:
        asked.append(1)
        if len(asked) == 2:
            twice.set()
        return {"connections": 1.0}

    history = History({"orders": probe}, every_s=0.01)
    history.start()
    assert twice.wait(10)
    history.stop()
    after = len(asked)
    history.poll()
    assert len(asked) == after, "what was stopped asks nobody"


def test_a_minute_that_passed_while_a_source_was_slow_is_counted_and_not_made_up_for() -> None:
    now_s = [0.0]
    done = threading.Event()

    def slow() -> Mapping[str, float]:
        now_s[0] += 150.0  # two minutes and a half, by its clock
        done.set()
        return {}

    history = History({"orders": slow}, every_s=60.0, monotonic_s=lambda: now_s[0])
    history.start()
    assert done.wait(10)
    history.stop()
    assert history.statistics()["history_minutes_missed_total"] == 2
