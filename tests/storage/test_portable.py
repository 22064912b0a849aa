"""Rows of one service travel into another store, and everything asked there is answered as here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from glassbottom_collector.config import StorageConfig
from glassbottom_collector.errors import ArchiveError
from glassbottom_collector.model.process import Span
from glassbottom_collector.storage import Reader
from glassbottom_collector.storage.embedded import EmbeddedStore, Rows

from tests.storage.conftest import Bench
from tests.support.store_agent import (
    MIDNIGHT,
    NOON,
    OBSERVATIONS,
    OPERATIONS,
    PROFILE,
    TASKS,
    S,
    StoreAgent,
    live_bytes,
    operation,
    profile,
)
from tests.support.store_time import DEFINED, EVER, FRAME, LOOK, SEEN, STACK, interval, noticed, plain

pytestmark = pytest.mark.once

WITHIN = Span(NOON - 60 * S, NOON + 60 * S)


def filled(bench: Bench, service: str = "checkout", at_ns: int = NOON) -> StoreAgent:
    agent = StoreAgent(service, started_at_ns=at_ns)
    agent.open(bench.writer)
    agent.heap(bench.writer, at_ns, {STACK: 1000.0}, complete=True, defined=DEFINED, labels=("before",))
    agent.append(bench.writer, TASKS, replace(LOOK, at_ns=at_ns))
    agent.append(bench.writer, OPERATIONS, interval(at_ns + 10 * S, operation("GET /cart", 0.1, 0.2)))
    agent.append(
        bench.writer, PROFILE, profile(at_ns, at_ns + 10 * S, [(STACK, "MainThread", "", 3, 0.5, 0.25)], DEFINED)
    )
    agent.append(bench.writer, OBSERVATIONS, noticed(at_ns, replace(SEEN, at_ns=at_ns), defined=DEFINED))
    return agent


def moved(rows: Rows, path: Path) -> EmbeddedStore:
    store = EmbeddedStore(StorageConfig(path=path, retention_days=36_500), lambda: NOON + 60 * S)
    store.bring_in(rows)
    return store


def everything(reader: Reader, at_ns: int = NOON) -> list[object]:
    return [
        reader.services(EVER),
        reader.processes("checkout", EVER),
        reader.headers("checkout", EVER),
        [label.label for label in reader.labelled("checkout", EVER)],
        [live_bytes(state) for state in reader.heap_at("checkout", at_ns + S)],
        {name: [plain(look) for look in looks] for name, looks in reader.tasks("checkout", EVER).items()},
        {name: [plain(one) for one in each] for name, each in reader.operations("checkout", EVER).items()},
        reader.observations("checkout", EVER, ()),
        plain(reader.thread_time("checkout", EVER)),
        reader.stacks([STACK]),
        reader.frames([FRAME.id]),
    ]


def test_all_that_is_asked_of_the_rows_is_answered_as_by_the_store_they_came_from(bench: Bench, tmp_path: Path) -> None:
    filled(bench)

    store = moved(bench.store.take_out("checkout", WITHIN), tmp_path / "other")

    try:
        assert everything(store.reader) == everything(bench.reader)
        assert store.reader.frames([FRAME.id]) == {FRAME.id: FRAME}
    finally:
        store.close()


def test_a_window_over_midnight_is_whole(bench: Bench, tmp_path: Path) -> None:
    filled(bench, at_ns=MIDNIGHT - 5 * S)

    store = moved(bench.store.take_out("checkout", Span(MIDNIGHT - 60 * S, MIDNIGHT + 60 * S)), tmp_path / "other")

    try:
        assert everything(store.reader, MIDNIGHT) == everything(bench.reader, MIDNIGHT)
    finally:
        store.close()


def test_other_services_and_other_hours_stay_behind(bench: Bench, tmp_path: Path) -> None:
    filled(bench)
    filled(bench, "billing")
    filled(bench, at_ns=NOON - 7200 * S)

    rows = bench.store.take_out("checkout", WITHIN)
    store = moved(rows, tmp_path / "other")

    try:
        assert store.reader.services(EVER) == ["checkout"]
        assert [header.at_ns for header in store.reader.headers("checkout", EVER)] == [NOON]
    finally:
        store.close()
    assert "billing" not in rows.texts


def test_every_text_is_in_the_list_and_none_is_in_the_tables(bench: Bench) -> None:
    agent = filled(bench)

    rows = bench.store.take_out("checkout", WITHIN)

    for text in ("GET /cart", FRAME.function, FRAME.file, agent.instance_id, "MainThread", "before"):
        assert text in rows.texts
        assert not [path for path, data in rows.tables.items() if text.encode() in data]


def test_the_same_rows_are_the_same_bytes(bench: Bench) -> None:
    filled(bench)

    assert bench.store.take_out("checkout", WITHIN) == bench.store.take_out("checkout", WITHIN)


def test_a_text_that_was_made_harmless_is_what_the_other_store_tells(bench: Bench, tmp_path: Path) -> None:
    filled(bench)
    rows = bench.store.take_out("checkout", WITHIN)

    store = moved(
        replace(rows, texts=tuple(text.replace("GET /cart", "<redacted>") for text in rows.texts)), tmp_path / "other"
    )

    try:
        (each,) = store.reader.operations("checkout", EVER).values()
        assert each[0].rows[0].name == "<redacted>"
    finally:
        store.close()


def test_a_service_that_is_not_there_has_no_rows(bench: Bench, tmp_path: Path) -> None:
    filled(bench)

    store = moved(bench.store.take_out("nobody", WITHIN), tmp_path / "other")

    try:
        assert store.reader.services(EVER) == []
    finally:
        store.close()


@pytest.mark.parametrize("path", ["2026-11-23/secret.parquet", "../../etc.parquet", "store.parquet", "x/frame.parquet"])
def test_a_table_that_is_none_of_ours_is_refused(bench: Bench, tmp_path: Path, path: str) -> None:
    filled(bench)
    rows = bench.store.take_out("checkout", WITHIN)

    store = EmbeddedStore(StorageConfig(path=tmp_path / "other", retention_days=36_500), lambda: NOON)
    try:
        with pytest.raises(ArchiveError, match="does not know"):
            store.bring_in(replace(rows, tables={path: next(iter(rows.tables.values()))}))
    finally:
        store.close()


def test_a_damaged_table_is_refused_with_a_sentence(bench: Bench, tmp_path: Path) -> None:
    filled(bench)
    rows = bench.store.take_out("checkout", WITHIN)

    store = EmbeddedStore(StorageConfig(path=tmp_path / "other", retention_days=36_500), lambda: NOON)
    try:
        with pytest.raises(ArchiveError, match="The rows of the archive cannot be read"):
            store.bring_in(replace(rows, tables={path: data[:50] for path, data in rows.tables.items()}))
    finally:
        store.close()
