"""The embedded store's directory: what is deleted, what is set aside, who may use it, and what a full disk does."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from glassbottom_collector.errors import StorageError, StorageFull
from glassbottom_collector.model.code import Frame
from glassbottom_collector.model.process import Span

from tests.storage.conftest import Bench
from tests.support.collector_process import python_environment
from tests.support.store_agent import DAY, HEAP, NOON, S, StoreAgent, definitions, live_bytes

pytestmark = pytest.mark.once  # real servers, files and curves; nothing in it differs between versions

EVER = Span(NOON - 30 * DAY, NOON + 30 * DAY)


def days(bench: Bench) -> list[str]:
    """Day files there are."""
    return sorted(path.name for path in bench.path.glob("day=*.duckdb"))


def fill(bench: Bench, at_ns: int, rows: int = 1, snapshots: int = 1) -> StoreAgent:
    """Data of one day, taken in on that day."""
    bench.clock.now_ns = at_ns
    agent = StoreAgent()
    agent.open(bench.writer)
    for place in range(snapshots):
        agent.heap(bench.writer, at_ns + place * S, noise(rows, seed=place))
    return agent


def noise(rows: int, seed: int) -> dict[int, float]:
    """{stack: live bytes} that do not compress, about 40 bytes on disk for each row."""
    chance = random.Random(seed)
    return {chance.getrandbits(63): chance.random() for _ in range(rows)}


def test_a_day_has_a_file_of_its_own(bench: Bench) -> None:
    fill(bench, NOON)
    fill(bench, NOON + DAY)
    assert days(bench) == ["day=2024-10-04.duckdb", "day=2024-10-05.duckdb"]


def test_days_beyond_the_retention_are_deleted(bench: Bench) -> None:
    bench.reopen(retention_days=2)
    for day in range(5):
        fill(bench, NOON + day * DAY)
    bench.reopen()
    assert days(bench) == ["day=2024-10-06.duckdb", "day=2024-10-07.duckdb", "day=2024-10-08.duckdb"]
    statistics = bench.store.statistics().values
    assert statistics["store_retired_days_total"] == 2
    assert statistics["store_retired_bytes_total"] > 0
    assert len(bench.reader.headers("checkout", EVER)) == 3


def test_above_the_byte_cap_the_oldest_day_goes_first(bench: Bench) -> None:
    for day in range(3):
        fill(bench, NOON + day * DAY, rows=20_000, snapshots=8)
    bench.reopen(bytes_max=16 * 2**20)
    assert days(bench)[-1] == "day=2024-10-06.duckdb"
    assert "day=2024-10-04.duckdb" not in days(bench)
    statistics = bench.store.statistics().values
    assert statistics["store_bytes"] <= statistics["store_bytes_max"] == 16 * 2**20


def test_today_is_never_deleted_and_when_it_alone_is_too_large_nothing_more_is_taken(bench: Bench) -> None:
    bench.reopen(bytes_max=16 * 2**20)
    agent = StoreAgent()
    with pytest.raises(StorageFull, match="bytes_max"):
        for place in range(60):
            agent.heap(bench.writer, NOON + place * S, noise(20_000, place))
    assert days(bench) == ["day=2024-10-04.duckdb"]
    # Tomorrow there is something to delete.
    bench.clock.now_ns = NOON + DAY
    agent.open(bench.writer)
    agent.heap(bench.writer, NOON + DAY, {1: 1.0})
    assert days(bench) == ["day=2024-10-05.duckdb"]
    assert bench.store.full() == ""


def test_data_of_a_deleted_day_that_come_late_are_whole(bench: Bench) -> None:
    """The new file of that name knows no process yet."""
    bench.reopen(retention_days=1)
    agent = fill(bench, NOON)
    bench.clock.now_ns = NOON + 2 * DAY
    bench.store.retire()  # type: ignore[attr-defined]
    assert days(bench) == []
    agent.heap(bench.writer, NOON + 20 * S, {1: 2.0}, complete=True)
    assert [live_bytes(state) for state in bench.reader.heap_at("checkout", NOON + 20 * S)] == [{1: 2.0}]


def test_only_so_many_day_files_are_open_at_once(bench: Bench) -> None:
    bench.reopen(attached_files_max=2, retention_days=30)
    for day in range(6):
        fill(bench, NOON + day * DAY)
    assert len(bench.reader.headers("checkout", EVER)) == 6
    assert bench.store.statistics().values["store_days"] == 6
    assert bench.store.statistics().values["store_days_attached"] <= 2


@pytest.mark.parametrize("damage", ["garbage", "truncated", "empty_header"])
def test_an_unreadable_day_is_set_aside_and_the_others_go_on(bench: Bench, damage: str) -> None:
    fill(bench, NOON, rows=500)
    today = fill(bench, NOON + DAY)
    bench.close()
    path = bench.path / "day=2024-10-04.duckdb"
    match damage:
        case "garbage":
            path.write_bytes(b"this was a database once" * 400)
        case "truncated":
            os.truncate(path, 5_000)
        case "empty_header":
            path.write_bytes(bytes(12_288))
    bench.reopen()
    assert [header.instance_id for header in bench.reader.headers("checkout", EVER)] == [today.instance_id]
    assert days(bench) == ["day=2024-10-05.duckdb"]
    (aside,) = bench.path.glob("day=2024-10-04.duckdb.corrupt-*")
    (problem,) = bench.store.statistics().problems
    assert aside.name in problem
    # It stays reported until somebody has looked after it.
    bench.reopen()
    assert aside.name in bench.store.statistics().problems[0]
    aside.unlink()
    bench.reopen()
    assert bench.store.statistics().problems == ()


def test_when_today_is_unreadable_a_new_file_takes_its_place(bench: Bench) -> None:
    agent = fill(bench, NOON)
    bench.close()
    (bench.path / "day=2024-10-04.duckdb").write_bytes(b"garbage" * 3_000)
    bench.reopen()
    assert agent.open(bench.writer) == {}
    agent.heap(bench.writer, NOON + S, {5: 5.0}, seq=2)
    assert len(bench.reader.headers("checkout", EVER)) == 1
    assert len(bench.store.statistics().problems) == 1


def test_damage_inside_a_file_is_found_when_it_is_read(bench: Bench) -> None:
    """Blocks carry checksums; the file opens, and a block in the middle does not."""
    fill(bench, NOON, rows=50_000)
    today = fill(bench, NOON + DAY)
    bench.close()
    path = bench.path / "day=2024-10-04.duckdb"
    raw = bytearray(path.read_bytes())
    for offset in range(12_288 + 4_000, len(raw), 262_144):
        raw[offset : offset + 64] = bytes(64)
    path.write_bytes(raw)
    bench.reopen()
    list(bench.reader.heap_series("checkout", EVER))
    fill(bench, NOON + DAY + 10 * S)  # the writer sets aside what a reader has found
    assert days(bench) == ["day=2024-10-05.duckdb"]
    assert today.instance_id in {header.instance_id for header in bench.reader.headers("checkout", EVER)}
    assert len(bench.store.statistics().problems) == 1


CRASH = """
import os, sys
from pathlib import Path
from glassbottom_collector.config import CommitConfig, StorageConfig
from glassbottom_collector.storage.embedded import EmbeddedStore
from tests.support.store_agent import NOON, S, StoreAgent, TestClock

store = EmbeddedStore(StorageConfig(path=Path(sys.argv[1]), commit=CommitConfig(wait_ms_max=1)), TestClock())
agent = StoreAgent()
agent.session_id = "5" * 32
for place in range(20):
    agent.heap(store.writer, NOON + place * S, {row: 1.0 for row in range(100)}, complete=True)
os._exit(0)
"""


def in_another_process(script: str, bench: Bench) -> str:
    """Runs it with the directory as its argument; its output."""
    done = subprocess.run(
        [sys.executable, "-c", script, str(bench.path)],
        env=python_environment(),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_was_acknowledged_before_a_crash_is_there(bench: Bench) -> None:
    in_another_process(CRASH, bench)
    assert (bench.path / "day=2024-10-04.duckdb.wal").stat().st_size > 0
    assert len(bench.reader.headers("checkout", EVER)) == 20
    assert bench.store.statistics().problems == ()


def test_of_a_damaged_log_everything_before_the_damage_is_kept(bench: Bench) -> None:
    in_another_process(CRASH, bench)
    log = bench.path / "day=2024-10-04.duckdb.wal"
    raw = bytearray(log.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    log.write_bytes(raw)
    kept = len(bench.reader.headers("checkout", EVER))
    assert 5 <= kept <= 15
    (aside,) = bench.path.glob("*.wal.corrupt-*")
    assert aside.read_bytes() == bytes(raw)
    assert aside.name in bench.store.statistics().problems[0]
    agent = StoreAgent()
    agent.session_id = "5" * 32
    assert agent.open(bench.writer) == {HEAP: kept}
    agent.heap(bench.writer, NOON + 30 * S, {1: 1.0}, seq=kept + 1)
    bench.reopen()
    assert len(bench.reader.headers("checkout", EVER)) == kept + 1


def test_without_its_definitions_a_store_has_a_new_identity_and_keeps_its_rows(bench: Bench) -> None:
    """Agents see that the identity has changed and define everything again."""
    frame = Frame("f", "a.py", 1)
    agent = StoreAgent()
    agent.heap(bench.writer, NOON, {1: 1.0}, complete=True, defined=definitions([frame]))
    store_id = bench.writer.store_id
    bench.close()
    (bench.path / "meta.duckdb").write_bytes(b"garbage" * 3_000)
    bench.reopen()
    assert bench.writer.store_id != store_id
    assert bench.reader.frames([frame.id]) == {}
    assert len(bench.reader.heap_at("checkout", NOON)) == 1
    agent.heap(bench.writer, NOON + S, {1: 1.0}, defined=definitions([frame]))
    assert bench.reader.frames([frame.id]) == {frame.id: frame}


def test_a_store_of_a_newer_version_is_left_alone(bench: Bench) -> None:
    fill(bench, NOON)
    bench.close()
    with duckdb.connect(str(bench.path / "meta.duckdb")) as engine:
        engine.execute("UPDATE store SET schema_version = 99")
    with pytest.raises(StorageError, match="install a newer glassbottom"):
        bench.reopen()
    with duckdb.connect(str(bench.path / "meta.duckdb")) as engine:
        engine.execute("UPDATE store SET schema_version = 1")
    bench.reopen()
    assert len(bench.reader.headers("checkout", EVER)) == 1


def test_files_of_others_are_neither_read_nor_deleted(bench: Bench) -> None:
    bench.reopen(retention_days=1)
    for name in ("notes.txt", "day=yesterday.duckdb", "day=2020-13-45.duckdb"):
        (bench.path / name).write_text("mine")
    fill(bench, NOON + 9 * DAY)
    bench.reopen()
    assert (bench.path / "notes.txt").read_text() == "mine"
    assert (bench.path / "day=yesterday.duckdb").read_text() == "mine"
    assert (bench.path / "day=2020-13-45.duckdb").read_text() == "mine"


def test_a_directory_in_use_is_refused_and_the_holder_named(bench: Bench) -> None:
    assert bench.store
    second = Bench(bench.path)
    with pytest.raises(StorageError, match=rf"in use by another collector \(pid {os.getpid()}\)"):
        second.reopen()
    bench.close()
    second.reopen()
    second.close()


FULL_DISK = """
import os, resource, signal, sys
from pathlib import Path
from glassbottom_collector.config import CommitConfig, StorageConfig
from glassbottom_collector.errors import StorageFull
from glassbottom_collector.storage.embedded import EmbeddedStore
from tests.support.store_agent import NOON, S, StoreAgent, TestClock

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = EmbeddedStore(StorageConfig(path=Path(sys.argv[1]), commit=CommitConfig(wait_ms_max=1)), TestClock())
agent = StoreAgent()
agent.session_id = "5" * 32
agent.open(store.writer)
resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, resource.RLIM_INFINITY))
refused = 0
while refused < 3:
    try:
        live = {hash((agent.seq[1], row)) % 2**63: row * 1.7 for row in range(1_000)}
        agent.heap(store.writer, NOON + agent.seq[1] * S, live)
    except StorageFull as error:
        refused += 1
        assert store.full(), error
        marks = agent.open(store.writer)
        agent.seq[1] = marks[1]
acknowledged = agent.seq[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
for _ in range(5):
    agent.heap(store.writer, NOON + agent.seq[1] * S, {1: 1.0})
assert not store.full()
print(acknowledged, agent.seq[1], flush=True)
os._exit(0)  # a crash: nothing is closed, nothing written back
"""


def test_a_full_disk_loses_nothing_that_was_acknowledged(bench: Bench) -> None:
    """A limit on file size fails a write as a full disk does, in the middle of a commit. Then there is room again,
    more is acknowledged, and the process dies: all of it must be there, once."""
    before, after = map(int, in_another_process(FULL_DISK, bench).split())
    assert before > 3
    assert after == before + 5
    agent = StoreAgent()
    agent.session_id = "5" * 32
    assert agent.open(bench.writer) == {HEAP: after}
    assert len(bench.reader.headers("checkout", EVER)) == after
    assert bench.store.statistics().problems == ()
