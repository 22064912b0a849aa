"""What a capture reads of a SQLite file, and that the file and its neighbours stay as they are."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest
from glassbottom_collector.database.sqlite import Sqlite
from glassbottom_collector.incident.parts import CollectingError

from tests.support.collecting import collected

pytestmark = pytest.mark.once


@pytest.fixture(params=["delete", "wal"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "app.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode = {request.param}")
        connection.execute("CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT)")
        connection.execute("CREATE INDEX by_name ON people (name)")
        connection.executemany("INSERT INTO people (name) VALUES (?)", [("canary" * 20,)] * 500)
        connection.commit()
    return path


def test_settings_sizes_and_schema_come_without_a_row_and_leave_no_trace(file: Path) -> None:
    before = {path.name: path.read_bytes() for path in file.parent.iterdir()}
    kept = collected(Sqlite("app", file))

    assert kept.read("db/app/settings.json")["page_count"] > 10
    sizes = {row["name"]: row["bytes"] for row in kept.read("db/app/sizes.json")["tables"]}
    assert sizes["people"] > 50_000
    assert "CREATE TABLE people" in kept.files["db/app/schema.sql"]
    assert "CREATE INDEX by_name" in kept.files["db/app/schema.sql"]
    assert "canary" not in "".join(kept.files.values())
    assert {path.name: path.read_bytes() for path in file.parent.iterdir()} == before


def test_what_an_application_has_just_written_is_seen_and_it_can_go_on_writing(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as application:
        application.execute("CREATE TABLE added (i)")
        application.commit()
        kept = collected(Sqlite("app", file))
        application.execute("INSERT INTO added VALUES (1)")
        application.commit()
    assert "CREATE TABLE added" in kept.files["db/app/schema.sql"]


def test_a_file_that_is_no_database_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("something else, and long enough to be read" * 50)
    for name in ("x.db", "absent.db"):
        with pytest.raises(CollectingError, match=f"{name} cannot be read as SQLite"):
            collected(Sqlite("app", tmp_path / name))
