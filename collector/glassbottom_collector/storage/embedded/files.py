"""The database files of a data directory: which there are, which are open, and what became of the others.

    meta.duckdb             identity of the store, frames, stacks, types
    day=2026-11-23.duckdb   everything else, one file per UTC day of the data

Files are attached to one in-memory DuckDB instance when somebody needs them and detached when too many are open.
Nobody writes here but the writer's thread; nobody deletes a day that is being read. A file that cannot be read is
renamed, reported and never touched again: one bad day must not take the others with it, nor stop a start.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import duckdb

from ...config import StorageConfig
from ...errors import StorageError

SCHEMA_VERSION = 3
"""1: heap and metrics. 2: labels of stacks, operations, tasks, threads, observations. Older files are brought up to
date where they are opened; their data stay as they are."""
META = "meta"

_DAY_PREFIX = "day="
_SUFFIX = ".duckdb"
_CORRUPT = ".corrupt-"
# Written back by an explicit CHECKPOINT when idle; the engine's own, in the middle of a commit, is the emergency.
_WAL_BYTES_EMERGENCY = "256MB"
# The file is as it was; the machine around it is not.
_FULL = ("no space left", "disk quota", "file too large")
_PASSING = (
    *_FULL,
    "permission denied",
    "too many open files",
    "set lock",
    "conflicting lock",
    "out of memory",
    "failed to allocate",
    "input/output error",
    "invalidated",
)

_RESTART_WAIT_S = 10.0

_log = logging.getLogger(__name__)


@dataclass
class _Day:
    """One day file. leases: users right now. used: when it was last leased, for choosing what to detach."""

    path: Path
    attached: bool = False
    leases: int = 0
    used: float = 0.0


class Files:
    """Raises StorageError when the directory's meta file was written by a newer version, or nothing can be opened.

    Methods may be called from any thread.
    """

    def __init__(self, config: StorageConfig, clock_ns: Callable[[], int]) -> None:
        self._config = config
        self._clock_ns = clock_ns
        self._changed = threading.Condition(threading.RLock())
        self._days: dict[str, _Day] = {}
        self._problems: dict[str, str] = {}
        self._suspects: dict[str, str] = {}
        self._cursors = 0
        self._broken = False
        self.counters = {
            "set_aside_total": 0.0,
            "retired_days_total": 0.0,
            "retired_bytes_total": 0.0,
            "engine_restarts_total": 0.0,
        }
        self._root = self._connect()
        for path in sorted(config.path.glob(f"{_DAY_PREFIX}*{_SUFFIX}")):
            day = path.name[len(_DAY_PREFIX) : -len(_SUFFIX)]
            if _is_day(day):
                self._days[day] = _Day(path)
        for path in sorted(config.path.glob(f"*{_CORRUPT}*")):
            self._problems[path.name] = f"{path.name} was set aside earlier as unreadable; look into it, or delete it."
        self.store_id = self._open_meta()

    # Using files

    @contextlib.contextmanager
    def cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection of one's own while the block runs. Take one at a time. Raises StorageError."""
        with self._changed:
            if self._broken:
                self._restart()
            cursor = self._root.cursor()
            self._cursors += 1
        try:
            yield cursor
        finally:
            cursor.close()
            with self._changed:
                self._cursors -= 1
                self._changed.notify_all()

    def days(self) -> list[str]:
        """Days there are files for, oldest first."""
        with self._changed:
            return sorted(self._days)

    @contextlib.contextmanager
    def day(self, day: str, *, create: bool = False) -> Iterator[str | None]:
        """The schema name of a day for use in SQL, open while the block runs; None when there is no such day.

        Raises StorageError when it exists and cannot be opened now.
        """
        with self._changed:
            held = self._lease(day, create)
        try:
            yield None if held is None else alias_of(day)
        finally:
            if held is not None:
                with self._changed:
                    held.leases -= 1

    def examine(self) -> None:
        """After an error: finds out whether the engine still answers. If not, the next cursor() starts it afresh."""
        with self._changed:
            attached = [alias_of(day) for day, held in self._days.items() if held.attached]
            try:
                self._root.execute(f"SELECT id FROM {META}.store").fetchall()
                for alias in attached:
                    self._root.execute(f"SELECT version FROM {alias}.schema").fetchall()
            except duckdb.Error:
                self._broken = True

    def close(self) -> None:
        """Writes everything back and closes."""
        with self._changed:
            for day, held in self._days.items():
                if held.attached:
                    self._detach(day, held)
            with contextlib.suppress(duckdb.Error):
                self._root.execute(f"DETACH {META}")
            self._root.close()

    def checkpoint(self, wal_bytes_min: int) -> None:
        """Writes back logs longer than that. Readers are not disturbed; a failure only postpones it."""
        with self._changed:
            attached = [(alias_of(day), held.path) for day, held in self._days.items() if held.attached]
            attached.append((META, self._meta_path))
        for alias, path in attached:
            if _bytes_of(_wal(path)) > wal_bytes_min:
                with contextlib.suppress(duckdb.Error), self.cursor() as cursor:
                    cursor.execute(f"CHECKPOINT {alias}")

    # Keeping them in bounds

    def bytes_held(self) -> int:
        """Size of everything in the directory that is ours."""
        return sum(_bytes_of(path) for path in self._config.path.iterdir())

    def bytes_free(self) -> int:
        """Room left on the file system for an ordinary user."""
        room = os.statvfs(self._config.path)
        return room.f_bavail * room.f_frsize

    def retire(self) -> None:
        """Deletes days older than retention_days, then the oldest until bytes_max is kept; never today."""
        today = day_of(self._clock_ns())
        kept_since = shift(today, -self._config.retention_days)
        for day in self._stored_days():
            over = self.bytes_held() > self._config.bytes_max
            if day < kept_since or (over and day < today):
                self._remove(day)

    def set_aside(self, day: str, reason: str) -> None:
        """Renames a day that cannot be read, and reports it. For the writer's thread."""
        with self._changed:
            held = self._days.pop(day, None)
            if held is not None:
                self._detach(day, held)
                self._rename(held.path, reason)

    def suspect(self, day: str, reason: str) -> None:
        """A reader has met damage. The writer, who may be in the middle of a commit there, sets it aside."""
        with self._changed:
            self._suspects[day] = reason

    def set_aside_suspects(self) -> None:
        """Sets aside what readers have reported. For the writer's thread."""
        with self._changed:
            while self._suspects:
                self.set_aside(*self._suspects.popitem())

    @property
    def removals(self) -> float:
        """Grows when a file is gone from its place."""
        return self.counters["set_aside_total"] + self.counters["retired_days_total"]

    def problems(self) -> tuple[str, ...]:
        """One sentence each."""
        with self._changed:
            return tuple(self._problems.values())

    def attached(self) -> int:
        """Day files open now."""
        with self._changed:
            return sum(held.attached for held in self._days.values())

    # Below: with the lock held

    def _connect(self) -> duckdb.DuckDBPyConnection:
        config: dict[str, str | bool | int | float | list[str]] = {
            "threads": 2,
            "memory_limit": f"{self._config.memory_bytes_max // 2**20}MiB",
            "temp_directory": str(self._config.path / "tmp"),
            "checkpoint_threshold": _WAL_BYTES_EMERGENCY,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        return duckdb.connect(":memory:", config=config)

    def _restart(self) -> None:
        # Two engines must never have one file open: the old one is gone only when its last cursor is.
        if not self._changed.wait_for(lambda: not self._cursors or not self._broken, _RESTART_WAIT_S):
            raise StorageError("The store is starting again after an error; try again.")
        if not self._broken:
            return
        with contextlib.suppress(duckdb.Error):
            self._root.close()
        for held in self._days.values():
            held.attached = False
        try:
            self._root = self._connect()
            self._attach_meta()
        except duckdb.Error as error:
            raise StorageError(f"The store cannot be opened again: {_first_line(error)}") from None
        self._broken = False
        self.counters["engine_restarts_total"] += 1
        _log.warning("the database engine was started afresh after an error")

    @property
    def _meta_path(self) -> Path:
        return self._config.path / f"{META}{_SUFFIX}"

    def _open_meta(self) -> str:
        try:
            return self._attach_meta()
        except duckdb.Error as error:
            if _is_passing(error):
                raise StorageError(
                    f"The store in {self._config.path} cannot be opened now: {_first_line(error)}"
                ) from None
            reason = _first_line(error)
        for mend in (self._mend_log, self._rename):
            self._root.close()
            self._root = self._connect()
            mend(self._meta_path, reason)
            with contextlib.suppress(duckdb.Error):
                return self._attach_meta()
        raise StorageError(f"The store in {self._config.path} cannot be created: {reason}")

    def _attach_meta(self) -> str:
        self._root.execute(f"ATTACH {_quoted(self._meta_path)} AS {META}")
        found = self._version(META, "store", "schema_version")
        if found is None:
            row = f"'{uuid.uuid4().hex}', {SCHEMA_VERSION}, {self._clock_ns()}"
            self._run_script(META, "meta.sql", f"INSERT INTO store VALUES ({row})")
        elif found < SCHEMA_VERSION:
            self._run_script(META, "meta.sql", f"UPDATE store SET schema_version = {SCHEMA_VERSION}")
        store_id, version = self._root.execute(f"SELECT id, schema_version FROM {META}.store").fetchall()[0]
        if version > SCHEMA_VERSION:
            raise StorageError(
                f"The store in {self._config.path} has schema {version}, and this collector knows {SCHEMA_VERSION}: "
                "install a newer glassbottom, or choose another directory with --data."
            )
        return str(store_id)

    def _lease(self, day: str, create: bool) -> _Day | None:
        held = self._days.get(day)
        if held is None:
            if not create:
                return None
            held = self._days[day] = _Day(self._config.path / f"{_DAY_PREFIX}{day}{_SUFFIX}")
        if not held.attached and not self._attach(day, held):
            if not create:
                return None
            held = self._days[day] = _Day(held.path)
            if not self._attach(day, held):
                raise StorageError(f"A new file for {day} cannot be created in {self._config.path}.")
        held.leases += 1
        held.used = time.monotonic()
        self._detach_surplus()
        return held

    def _attach(self, day: str, held: _Day) -> bool:
        """True when it is open now, False when it has been set aside."""
        error = self._try_attach(day, held)
        if error is None:
            return True
        if _is_passing(error):
            raise StorageError(f"The data of {day} cannot be opened now: {_first_line(error)}")
        if self._mend_log(held.path, _first_line(error)) and self._try_attach(day, held) is None:
            return True
        del self._days[day]
        self._rename(held.path, _first_line(error))
        return False

    def _try_attach(self, day: str, held: _Day) -> duckdb.Error | None:
        alias = alias_of(day)
        try:
            self._root.execute(f"ATTACH {_quoted(held.path)} AS {alias}")
            held.attached = True
            version = self._version(alias, "schema", "version")
            if version is None:
                self._run_script(alias, "day.sql", f"INSERT INTO schema VALUES ({SCHEMA_VERSION})")
            elif version < SCHEMA_VERSION:
                self._run_script(alias, "day.sql", f"UPDATE schema SET version = {SCHEMA_VERSION}")
        except duckdb.Error as error:
            self._detach(day, held)
            self.examine()
            return error
        if version is not None and version > SCHEMA_VERSION:
            self._detach(day, held)
            raise StorageError(f"The data of {day} was written by a newer glassbottom; install that to read it.")
        return None

    def _run_script(self, alias: str, script: str, then: str) -> None:
        """Creates what the file lacks and says so in it, in one transaction: after a crash it is done or not begun."""
        text = resources.files(__package__).joinpath(script).read_text(encoding="utf-8")
        with self._root.cursor() as cursor:
            cursor.execute(f"USE {alias}")
            cursor.execute("BEGIN")
            try:
                cursor.execute(text)
                cursor.execute(then)
                cursor.execute("COMMIT")
            except duckdb.Error:
                with contextlib.suppress(duckdb.Error):
                    cursor.execute("ROLLBACK")
                raise

    def _version(self, alias: str, table: str, column: str) -> int | None:
        """The version a file says it has; None when it is new."""
        query = "SELECT count(*) FROM duckdb_tables() WHERE database_name = ? AND table_name = ?"
        if not self._root.execute(query, [alias, table]).fetchall()[0][0]:
            return None
        rows = self._root.execute(f"SELECT {column} FROM {alias}.{table}").fetchall()
        return int(rows[0][0]) if rows else None

    def _detach_surplus(self) -> None:
        attached = [(held.used, day, held) for day, held in self._days.items() if held.attached]
        idle = sorted((used, day) for used, day, held in attached if held.leases == 0)
        for _, day in idle[: max(0, len(attached) - self._config.attached_files_max)]:
            self._detach(day, self._days[day])

    def _detach(self, day: str, held: _Day) -> None:
        with contextlib.suppress(duckdb.Error):
            self._root.execute(f"DETACH {alias_of(day)}")
        held.attached = False

    def _stored_days(self) -> list[str]:
        """Days with any file, also one set aside, oldest first."""
        names = {path.name[len(_DAY_PREFIX) :][:10] for path in self._config.path.glob(f"{_DAY_PREFIX}*")}
        return sorted(name for name in names if _is_day(name))

    def _remove(self, day: str) -> None:
        with self._changed:
            held = self._days.get(day)
            if held is not None and held.leases:
                return  # being read; the next pass gets it
            if held is not None:
                self._detach(day, held)
                del self._days[day]
            # The log first: a file without its log is merely older, a log without its file is refused.
            for path in sorted(self._config.path.glob(f"{_DAY_PREFIX}{day}{_SUFFIX}*"), reverse=True):
                self.counters["retired_bytes_total"] += _bytes_of(path)
                self._problems.pop(path.name, None)
                path.unlink(missing_ok=True)
            self.counters["retired_days_total"] += 1
            _log.info("deleted the data of %s to stay within the limits of storage", day)

    def _mend_log(self, path: Path, reason: str) -> bool:
        """Cuts a log off where it is damaged, keeping a copy; False when there is none. What it held before stays."""
        log = _wal(path)
        if not _bytes_of(log):
            return False
        aside = self._aside(log)
        shutil.copyfile(log, aside)
        damaged = re.search(r"at byte position (\d+)", reason)
        os.truncate(log, int(damaged[1]) if damaged else 0)
        self._report(aside, f"A part of {log.name} could not be read; what was committed last is missing.", reason)
        return True

    def _rename(self, path: Path, reason: str) -> bool:
        for part in (path, _wal(path)):
            if part.exists():
                aside = self._aside(part)
                part.rename(aside)
                self._report(aside, f"{part.name} could not be read; its data are missing.", reason)
        return True

    def _aside(self, path: Path) -> Path:
        moment = datetime.datetime.fromtimestamp(self._clock_ns() / 1e9, datetime.UTC).strftime("%Y%m%dT%H%M%S")
        return path.with_name(f"{path.name}{_CORRUPT}{moment}-{uuid.uuid4().hex[:4]}")

    def _report(self, aside: Path, what: str, reason: str) -> None:
        self._problems[aside.name] = f"{what} It was set aside as {aside.name} ({reason})."
        self.counters["set_aside_total"] += 1
        _log.error("%s It was set aside as %s: %s", what, aside.name, reason)


def is_damage(error: duckdb.Error) -> bool:
    """True when an error met while reading says that the file itself is broken."""
    text = str(error).lower()
    return not _is_passing(error) and any(
        sign in text for sign in ("corrupt", "checksum", "not a valid duckdb database", "serialization", "deserializ")
    )


def is_full(error: duckdb.Error) -> bool:
    """True when there was no room to write."""
    text = str(error).lower()
    return any(sign in text for sign in _FULL)


def day_of(at_ns: int) -> str:
    """UTC day of a moment, as files are named."""
    return datetime.datetime.fromtimestamp(at_ns // 1_000_000_000, datetime.UTC).strftime("%Y-%m-%d")


def days_between(from_ns: int, to_ns: int) -> tuple[str, str]:
    """First and last day of a half-open range. Names of days sort as the days do."""
    return day_of(max(from_ns, 0)), day_of(max(to_ns - 1, 0))


def shift(day: str, days: int) -> str:
    """The day so many days later."""
    return (datetime.date.fromisoformat(day) + datetime.timedelta(days=days)).isoformat()


def alias_of(day: str) -> str:
    """Name of a day's file inside SQL."""
    return f"day_{day.replace('-', '')}"


def _is_day(text: str) -> bool:
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _is_passing(error: duckdb.Error) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in text for sign in _PASSING)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _wal(path: Path) -> Path:
    return path.with_name(path.name + ".wal")


def _bytes_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
