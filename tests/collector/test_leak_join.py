"""A verdict and what else is known of its site: who holds it, by real dumps, and since when."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from glassbottom_collector.api import leak_join
from glassbottom_collector.api.heapdump_cache import StoredDumps
from glassbottom_collector.api.leak_join import LeakJoin
from glassbottom_collector.captures import CaptureStore
from glassbottom_collector.model.code import type_id
from glassbottom_collector.model.heap import Definitions
from glassbottom_collector.model.leak import LeakFinding, LeakKind, LeakReport, Rate, Verdict
from glassbottom_collector.model.process import Process

from tests.support.heap_dump_file import DumpFile
from tests.support.memory_reader import MemoryReader
from tests.support.query_store import HANDLER, STACKS, START, A, B, at, snapshot
from tests.support.stored_dumps import captures, chat, put

pytestmark = pytest.mark.once

MESSAGE = STACKS["message"].id
SESSION = "app.ws.Session"


@pytest.fixture
def reader() -> MemoryReader:
    """A line that allocates sessions: it begins in process A at 50 s, and by 90 s 400 of them are alive there."""
    reader = MemoryReader()
    reader.add_process(Process("shop", A, 7, START, {"service.version": "1.4.2"}))
    reader.add_process(Process("shop", B, 8, START))
    reader.define(Definitions({}, {}, {type_id(SESSION): SESSION}))
    for at_s, live in ((10.0, 0.0), (50.0, 100_000.0), (90.0, 400_000.0)):
        taken = snapshot(A, at_s, {"message": live, "cache": 1e6})
        # A thousand bytes each, as in the store, but all of them sessions.
        of_message = taken.types.stack == np.uint64(MESSAGE)
        kinds = np.where(of_message, np.uint64(type_id(SESSION)), taken.types.type)
        objects = np.where(of_message, live / 2000, taken.types.live_objects)
        reader.add_snapshot(replace(taken, types=replace(taken.types, type=kinds, live_objects=objects)))
    reader.add_snapshot(snapshot(B, 60.0, {"message": 100_000.0}))
    return reader


@pytest.fixture
def store(tmp_path: Path) -> CaptureStore:
    return captures(tmp_path / "captures", lambda: at(100))


def finding(**more: object) -> LeakFinding:
    """As the detector would say it: sessions grow by ten a second."""
    leak = LeakFinding(
        verdict=Verdict.LEAK,
        frame=HANDLER,
        stacks=(MESSAGE,),
        bytes_rate=Rate(10_000.0, 9_000.0, 11_000.0),
        objects_rate=Rate(10.0, 9.0, 11.0),
        live_bytes=400_000.0,
        live_bytes_stderr=1_000.0,
        live_objects=400.0,
        samples=50,
        p_value=1e-6,
        evidence=(),
        would_change="",
        instance_ids=(A,),
        application_frame=None,
    )
    return replace(leak, **more)  # type: ignore[arg-type]


def report(*findings: LeakFinding) -> LeakReport:
    return LeakReport(findings, 1, 3, None, 0.0, (), ())


def joined(reader: MemoryReader, store: CaptureStore | None, one: LeakFinding) -> LeakFinding:
    dumps = None if store is None else StoredDumps(store)
    (found,) = LeakJoin(reader, dumps).joined(report(one), "shop").findings
    return found


def test_a_leak_says_when_its_line_first_held_memory_and_in_which_version(reader: MemoryReader) -> None:
    found = joined(reader, None, finding())

    assert (found.first_seen_ns, found.first_seen_version) == (at(50), "1.4.2")
    assert found.holder == ""
    assert found.evidence == ()


def test_a_line_that_never_held_anything_has_no_beginning(reader: MemoryReader) -> None:
    assert joined(reader, None, finding(stacks=(STACKS["connect"].id,))).first_seen_ns == 0


def test_a_leak_names_its_holder_from_the_newest_dump_of_a_process_in_which_it_grows(
    reader: MemoryReader, store: CaptureStore
) -> None:
    """The dump of the other process is newer, and there the pool would fit as well as anything."""
    put(store, "c1", chat(400, at_ns=at(90), instance_id=A), at_ns=at(90), instance_id=A)
    put(store, "d1", chat(2, at_ns=at(95), instance_id=B, noise=400), at_ns=at(95), instance_id=B)

    found = joined(reader, store, finding())

    assert found.holder == "app.ws.HANDLERS list[400] -> Session"
    (evidence,) = found.evidence
    assert evidence.name == "holder"
    assert evidence.supports_leak
    assert evidence.sentence.startswith(
        "app.ws.HANDLERS list[400] -> Session keeps 400 app.ws.Session, and the sampler"
    )
    assert "heap dump c1000000 of 2023-11-14T22:14:50Z" in evidence.sentence


def test_with_two_dumps_what_grew_is_the_holder_however_large_the_rest(
    reader: MemoryReader, store: CaptureStore
) -> None:
    """A pool of 390 fits the number of live sessions better than the 600 that grew by ten a second for 40 seconds."""
    put(store, "c1", chat(200, at_ns=at(50), instance_id=A, noise=390), at_ns=at(50), instance_id=A)
    put(store, "c2", chat(600, at_ns=at(90), instance_id=A, noise=390), at_ns=at(90), instance_id=A)

    found = joined(reader, store, finding())

    assert found.holder.startswith("app.ws.HANDLERS list")


def test_nobody_is_accused_when_no_holder_keeps_as_many(reader: MemoryReader, store: CaptureStore) -> None:
    put(store, "c1", chat(9_000, at_ns=at(90), instance_id=A, noise=5), at_ns=at(90), instance_id=A)

    found = joined(reader, store, finding())

    assert found.holder == ""
    assert found.evidence == ()


@pytest.mark.parametrize(
    "of",
    [
        finding(kind=LeakKind.NATIVE),
        finding(kind=LeakKind.GARBAGE),
        finding(verdict=Verdict.STABLE),
        finding(instance_ids=(B,)),
    ],
    ids=["native", "garbage", "stable", "elsewhere"],
)
def test_what_a_dump_cannot_show_has_no_holder(of: LeakFinding, reader: MemoryReader, store: CaptureStore) -> None:
    put(store, "c1", chat(400, at_ns=at(90), instance_id=A), at_ns=at(90), instance_id=A)

    assert joined(reader, store, of).holder == ""


def test_a_dump_that_cannot_be_read_spoils_no_verdict_and_is_told(reader: MemoryReader, store: CaptureStore) -> None:
    put(store, "c1", b"nonsense", at_ns=at(90), instance_id=A)

    answer = LeakJoin(reader, StoredDumps(store)).joined(report(finding()), "shop")

    assert answer.findings[0].verdict is Verdict.LEAK
    assert answer.findings[0].first_seen_ns == at(50)
    assert answer.notes[0].startswith("Who holds it could not be read from the newest heap dump: ")


def test_a_dump_too_large_to_wait_for_is_named_instead_unless_it_is_loaded_already(
    reader: MemoryReader, store: CaptureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leak_join, "FILE_BYTES_MAX", 10)
    name = put(store, "c1", chat(400, at_ns=at(90), instance_id=A), at_ns=at(90), instance_id=A)
    dumps = StoredDumps(store)
    join = LeakJoin(reader, dumps)

    answer = join.joined(report(finding()), "shop")
    assert answer.findings[0].holder == ""
    assert answer.notes == (
        "The newest heap dump of shop is too large to be read along the way; ask `glassbottom heap suspects c1000000`.",
    )

    dumps.find_by_id(name)
    assert join.joined(report(finding()), "shop").findings[0].holder != ""


def test_the_table_of_a_container_that_grows_is_found_by_its_size(reader: MemoryReader, store: CaptureStore) -> None:
    """A hundred thousand numbers that everybody shares: all that grows is the list."""
    dump = DumpFile(service="shop", instance_id=A, at_ns=at(90))
    dump.module("app.log", SEEN=dump.list(size=420_000), OTHER=dump.list(size=900))
    put(store, "c1", dump.bytes(), at_ns=at(90), instance_id=A)
    taken = snapshot(A, 90.0, {"message": 400_000.0})
    kinds = np.full(2, type_id("<buffer>"), dtype=np.uint64)
    one_block = replace(taken.types, type=kinds, live_objects=np.array([0.7, 0.3]))
    reader.define(Definitions({}, {}, {type_id("<buffer>"): "<buffer>"}))
    reader.add_snapshot(replace(taken, types=one_block))

    found = joined(reader, store, finding())

    assert found.holder == "app.log.SEEN list[0]"
    assert found.evidence[0].sentence.startswith("The table of app.log.SEEN list[0] is as large as the block")
