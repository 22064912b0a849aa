"""One thread that makes batches durable, many at a time.

Batches are gathered until a limit of `storage.commit` is reached and committed together; their awaitables complete
after COMMIT, which has synced the log. Definitions go first, in a transaction of their own: one transaction may
write to only one attached file, and a definition nothing refers to is harmless.

Exactly once. A batch goes to the file of the day of its own time, with its row in `batch` in the same transaction;
the greatest seq of a session and stream is its high-water mark. So a repeated batch meets the mark its first copy
left, in whichever file that is, and a session that crosses midnight leaves marks in both. A group that spans days
is committed in several transactions, and a batch never before an earlier one of its session and stream: a crash
between them leaves a mark below what is missing, never above.

After a failure every later batch of that session and stream is refused until the session is opened again, because
storing one would lift the mark above the batch that failed.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import duckdb

from ...config import StorageConfig
from ...errors import BadRequest, CollectorError, StorageError, StorageFull
from ...model.process import Process
from .. import EARLY_S_MAX, LATE_S_MAX, BatchKey, Content
from .arrays import Columns, text
from .columns import SELECTED, Arrival, day_tables, definitions_of, meta_tables, process_columns
from .files import META, Files, day_of, is_damage, is_full
from .queue import Request, RequestQueue

SESSIONS_REMEMBERED_MAX = 20_000
DEFINITIONS_REMEMBERED_MAX = 100_000
PROCESSES_REMEMBERED_MAX = 20_000

_IDLE_S = 1.0
_RETIRE_EVERY_S = 30.0
_WAL_BYTES_IDLE = 4 * 2**20
_WAL_BYTES_BUSY = 64 * 2**20

_POISON = (
    duckdb.DataError,
    duckdb.IntegrityError,
    duckdb.InvalidInputException,
    duckdb.InvalidTypeException,
    duckdb.NotSupportedError,
)

_log = logging.getLogger(__name__)


@dataclass
class _Session:
    """What is known of a session: its agent, and its high-water marks by stream."""

    agent_version: str
    marks: dict[int, int]


_Outcome = tuple[Request, "CollectorError | Mapping[int, int] | None"]


class EmbeddedWriter:
    """The `Writer` of the embedded store. Its methods are called inside an event loop, which is answered in itself."""

    def __init__(self, files: Files, config: StorageConfig, clock_ns: Callable[[], int]) -> None:
        self._files = files
        self._config = config
        self._clock_ns = clock_ns
        self.counters = {
            "batches_total": 0.0,
            "batches_duplicate_total": 0.0,
            "rows_total": 0.0,
            "commits_total": 0.0,
            "commits_failed_total": 0.0,
            "commit_seconds_total": 0.0,
            "commit_ms_max": 0.0,
        }
        self.full = ""  # why nothing is accepted now, in one sentence
        self._queue = RequestQueue(config.commit, config.queue_bytes_max)
        # Used by the writer's thread alone.
        self._sessions: OrderedDict[str, _Session] = OrderedDict()
        self._defined: set[int] = set()
        self._introduced: set[tuple[str, str, str, str]] = set()
        self._batch_next: dict[str, int] = {}
        self._removals = files.removals
        self._tended_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="glassbottom-writer")
        self._thread.start()

    @property
    def store_id(self) -> str:
        """Identity of the data; changes when the store is emptied."""
        return self._files.store_id

    def open_session(self, session_id: str, process: Process, agent_version: str) -> Awaitable[Mapping[int, int]]:
        """Highest durable seq per stream, after everything given before. Raises StorageError."""
        request = Request.now(session_id, process, agent_version, None)
        self._queue.put(request)
        return cast("Awaitable[Mapping[int, int]]", request.future)

    def append(self, key: BatchKey, process: Process, content: Content) -> Awaitable[None]:
        """Raises StorageFull, StorageError, and BadRequest for a batch that no attempt will store."""
        request = Request.now(key.session_id, process, "", Arrival.of(key, process, content, self._clock_ns()))
        self._queue.put(request)
        return cast("Awaitable[None]", request.future)

    def hurry(self) -> None:
        """From now on everything is committed as soon as it comes: the end is near."""
        self._queue.hurry()

    def close(self) -> None:
        """Commits what is queued, then ends the thread. What comes later is refused."""
        self._queue.close()
        self._thread.join()

    def statistics(self) -> dict[str, float]:
        """Counters and gauges by name."""
        waiting, size = self._queue.waiting()
        return self.counters | self._queue.counters | {"queue_batches": waiting, "queue_bytes": size}

    # The writer's thread

    def _run(self) -> None:
        while (group := self._queue.take(_IDLE_S)) is not None:
            try:
                opens = bool(group) and group[0].content is None
                outcomes = self._open(group) if opens else self._store(group)
            except Exception as error:  # noqa: BLE001 - the thread must outlive what nobody foresaw, and say so
                _log.exception("the writer met an error it does not know")
                outcomes = self._failed(group, StorageError(f"The store failed: {error}"))
            _answer(outcomes)
            self._tend(idle=not group)

    def _open(self, group: Sequence[Request]) -> list[_Outcome]:
        for request in group:
            self._sessions.pop(request.session_id, None)
        try:
            marks = self._marks({request.session_id for request in group}, set())
        except (StorageError, duckdb.Error) as error:
            return [(request, self._trouble(error)) for request in group]
        outcomes: list[_Outcome] = []
        for request in group:
            found = marks[request.session_id]
            self._remember(request.session_id, _Session(request.agent_version, found))
            outcomes.append((request, dict(found)))
        self._queue.reopen({request.session_id for request in group})
        return outcomes

    def _store(self, group: Sequence[Request]) -> list[_Outcome]:
        if not group:
            return []
        outcomes: list[_Outcome] = []
        accepted: list[Request] = []
        repeated: list[Request] = []
        try:
            self._recall(group)
        except (StorageError, duckdb.Error) as error:
            return self._failed(group, self._trouble(error))
        planned: dict[tuple[str, int], int] = {}
        for request in group:
            refusal = self._queue.refusal(request)
            mark = planned.get(request.lane, self._sessions[request.session_id].marks.get(request.lane[1], 0))
            if refusal is not None:
                outcomes.append((request, refusal))
                self._queue.counters["batches_refused_total"] += 1
            elif request.data.key.seq <= mark:
                repeated.append(request)
            else:
                planned[request.lane] = request.data.key.seq
                accepted.append(request)
        outcomes += self._commit_all(accepted)
        # A repeated batch is durable if its first copy is, which may have been in this very group.
        outcomes += [(request, self._queue.refusal(request)) for request in repeated]
        self.counters["batches_duplicate_total"] += len(repeated)
        return outcomes

    def _commit_all(self, accepted: list[Request]) -> list[_Outcome]:
        outcomes: list[_Outcome] = []
        if not accepted:
            return outcomes
        self.full = self._lack_of_room()
        if self.full:
            return self._failed(accepted, StorageFull(self.full))
        remaining = accepted
        try:
            self._define(accepted)
            while remaining:
                chosen, rest = _first_day(remaining)
                outcomes += self._commit(day_of(chosen[0].data.at_ns), chosen)
                remaining = rest
        except (StorageError, duckdb.Error) as error:
            self.counters["commits_failed_total"] += 1
            trouble = self._trouble(error)
            if isinstance(trouble, StorageFull):
                self.full = str(trouble)
            self._batch_next.clear()
            self._files.examine()
            outcomes += self._failed(remaining, trouble)
        return outcomes

    def _commit(self, day: str, chosen: Sequence[Request]) -> list[_Outcome]:
        """All of them in one transaction. Raises what the engine raises when it may pass."""
        started_s = time.monotonic()
        try:
            self._transact(day, chosen)
        except _POISON as error:
            # One batch holds what no table takes. Alone it is refused for good; the others must not wait for it.
            if len(chosen) == 1:
                return [(chosen[0], BadRequest(f"The store cannot hold this batch: {error}"))]
            return [outcome for request in chosen for outcome in self._commit(day, [request])]
        except duckdb.Error as error:
            if not is_damage(error):
                raise
            self._files.set_aside(day, str(error))
            self._transact(day, chosen)
        seconds = time.monotonic() - started_s
        self.counters["commits_total"] += 1
        self.counters["commit_seconds_total"] += seconds
        self.counters["commit_ms_max"] = max(self.counters["commit_ms_max"], seconds * 1e3)
        self.counters["batches_total"] += len(chosen)
        self.counters["rows_total"] += sum(request.rows for request in chosen)
        for request in chosen:
            self._sessions[request.session_id].marks[request.lane[1]] = request.data.key.seq
        return [(request, None) for request in chosen]

    def _transact(self, day: str, chosen: Sequence[Request]) -> None:
        with self._files.day(day, create=True) as alias:
            if self._files.removals != self._removals:
                # A file of that name may be a new one, which knows nobody.
                self._removals = self._files.removals
                self._batch_next.clear()
                self._introduced.clear()
            if day not in self._batch_next:
                query = f"SELECT coalesce(max(batch), 0) + 1 FROM {alias}.batch"
                with self._files.cursor() as cursor:
                    self._batch_next[day] = cursor.execute(query).fetchall()[0][0]
            first = self._batch_next[day]
            arrivals = [request.data for request in chosen]
            tables = day_tables(arrivals, range(first, first + len(arrivals)))
            newcomers = {
                (day, request.process.instance_id, request.process.service, version): (request.process, version)
                for request in chosen
                for version in [self._sessions[request.session_id].agent_version]
            }
            for known in self._introduced.intersection(newcomers):
                del newcomers[known]
            if newcomers:
                tables["process"] = process_columns(list(newcomers.values()))
            self._insert({f"{alias}.{table}": columns for table, columns in tables.items()})
        self._batch_next[day] = first + len(arrivals)
        self._introduced.update(newcomers)
        if len(self._introduced) > PROCESSES_REMEMBERED_MAX:
            self._introduced = set(newcomers)  # a process told twice is harmless
        if len(self._batch_next) > 8:
            self._batch_next = {day: self._batch_next[day]}

    def _define(self, accepted: Sequence[Request]) -> None:
        definitions = definitions_of([request.data for request in accepted], self._defined)
        ids = [*definitions.frames, *definitions.stacks, *definitions.types]
        if not ids:
            return
        tables = meta_tables(definitions)
        self._insert({f"{META}.{table}": columns for table, columns in tables.items()}, "ON CONFLICT DO NOTHING")
        if len(self._defined) + len(ids) > DEFINITIONS_REMEMBERED_MAX:
            self._defined.clear()
        self._defined.update(ids)

    def _insert(self, tables: Mapping[str, Columns], conflict: str = "") -> None:
        with self._files.cursor() as cursor:
            cursor.execute("BEGIN")
            try:
                for table, incoming in tables.items():  # noqa: B007 - the engine finds `incoming` by its name
                    selected = SELECTED.get(table.rpartition(".")[2], "*")
                    cursor.execute(f"INSERT INTO {table} BY NAME SELECT {selected} FROM incoming {conflict}")
                cursor.execute("COMMIT")
            except BaseException:
                _roll_back(cursor)
                raise

    def _recall(self, group: Sequence[Request]) -> None:
        """Makes sure that every session of the group is in memory."""
        for request in group:
            if request.session_id in self._sessions:
                self._sessions.move_to_end(request.session_id)
        unknown = {request.session_id for request in group} - self._sessions.keys()
        if unknown:
            days = {day_of(request.data.at_ns) for request in group}
            for session_id, marks in self._marks(unknown, days).items():
                self._remember(session_id, _Session("", marks))

    def _remember(self, session_id: str, session: _Session) -> None:
        self._sessions[session_id] = session
        # A group is far smaller than this, so none of its own sessions is forgotten before it is committed.
        while len(self._sessions) > SESSIONS_REMEMBERED_MAX:
            self._sessions.popitem(last=False)

    def _marks(self, session_ids: set[str], more_days: set[str]) -> dict[str, dict[int, int]]:
        # Data from outside these days is not taken in, so a batch that may be repeated left its mark inside them.
        now_ns = self._clock_ns()
        first, last = day_of(now_ns - LATE_S_MAX * 10**9), day_of(now_ns + EARLY_S_MAX * 10**9)
        marks: dict[str, dict[int, int]] = {session_id: {} for session_id in session_ids}
        wanted = {"session_id": text(session_ids)}  # noqa: F841 - the engine finds it by its name
        for day in self._files.days():
            if not (first <= day <= last or day in more_days):
                continue
            with self._files.day(day) as alias:
                if alias is None:
                    continue
                with self._files.cursor() as cursor:
                    found = cursor.execute(
                        f"SELECT session_id, stream, max(seq) FROM {alias}.batch "
                        "WHERE session_id IN (SELECT session_id FROM wanted) GROUP BY session_id, stream"
                    ).fetchall()
            for session_id, stream, seq in found:
                marks[session_id][stream] = max(seq, marks[session_id].get(stream, 0))
        return marks

    def _failed(self, requests: Sequence[Request], error: CollectorError) -> list[_Outcome]:
        appends = [request for request in requests if request.content is not None]
        self._queue.refuse(appends)
        for request in appends:
            # A commit that failed late may be on disk after all: what the file says counts, not what we remember.
            self._sessions.pop(request.session_id, None)
        self._queue.counters["batches_refused_total"] += len(appends)
        return [(request, error) for request in requests]

    def _trouble(self, error: Exception) -> StorageError:
        if isinstance(error, StorageError):
            return error
        reason = str(error).strip().splitlines()[0]
        if isinstance(error, duckdb.Error) and is_full(error):
            return StorageFull(f"The store has no room: {reason}")
        return StorageError(f"The store could not write: {reason}")

    def _lack_of_room(self) -> str:
        free = self._files.bytes_free()
        if free < self._config.free_bytes_min:
            return (
                f"The file system of {self._config.path} has {free // 2**20} MiB left, below storage.free_bytes_min "
                f"({self._config.free_bytes_min // 2**20} MiB): free some space, or lower storage.bytes_max."
            )
        if self._files.bytes_held() <= self._config.bytes_max:
            return ""
        self._files.retire()
        held = self._files.bytes_held()
        if held <= self._config.bytes_max:
            return ""
        return (
            f"Today's data alone are {held // 2**20} MiB, above storage.bytes_max "
            f"({self._config.bytes_max // 2**20} MiB): raise it, or let agents send less often."
        )

    def _tend(self, *, idle: bool) -> None:
        try:
            self._files.set_aside_suspects()
            self._files.checkpoint(_WAL_BYTES_IDLE if idle else _WAL_BYTES_BUSY)
            if time.monotonic() - self._tended_s >= _RETIRE_EVERY_S:
                self._tended_s = time.monotonic()
                self._files.retire()
                self.full = self._lack_of_room()
        except OSError:
            _log.exception("the data directory could not be tended")


def _first_day(requests: Sequence[Request]) -> tuple[list[Request], list[Request]]:
    """Those of the first one's day that no earlier one of their lane forbids, and the rest, both in order."""
    day = day_of(requests[0].data.at_ns)
    chosen: list[Request] = []
    rest: list[Request] = []
    waiting: set[tuple[str, int]] = set()
    for request in requests:
        if request.lane not in waiting and day_of(request.data.at_ns) == day:
            chosen.append(request)
        else:
            waiting.add(request.lane)
            rest.append(request)
    return chosen, rest


def _roll_back(cursor: duckdb.DuckDBPyConnection) -> None:
    try:
        cursor.execute("ROLLBACK")
    except duckdb.Error:
        return  # a failed COMMIT has already rolled back


def _answer(outcomes: Sequence[_Outcome]) -> None:
    by_loop: defaultdict[asyncio.AbstractEventLoop, list[_Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_loop[outcome[0].future.get_loop()].append(outcome)
    for loop, answers in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, answers)
        except RuntimeError:
            _log.warning("%d answers of the store found their event loop closed", len(answers))


def _settle(outcomes: Sequence[_Outcome]) -> None:
    for request, outcome in outcomes:
        if request.future.done():
            continue
        if isinstance(outcome, CollectorError):
            request.future.set_exception(outcome)
        else:
            request.future.set_result(outcome)
