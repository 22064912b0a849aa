"""Slow statements as a PostgreSQL wrote them into its log, for servers without pg_stat_statements.

The log is a file that the collector can read: the server is not asked. Its lines begin as `log_line_prefix` says, which
differs everywhere, so nothing is taken from there but a time stamp, if there is one. Parameters stand in lines of their
own (DETAIL) and are never read.
"""

from __future__ import annotations

import datetime
import itertools
import os
import re
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..incident.parts import CollectingError
from ..model.process import Span
from . import pack
from .postgres import RedactSql

BYTES_MAX = 4 << 20
ENTRIES_MAX = 20_000
UNTIMED_MAX = 1_000
"""So many of the last are taken where the log has no time stamps, or in a zone whose name is not known here."""
TEXT_CHARACTERS_MAX = 20_000
TOLD_CHARACTERS_MAX = 2_000
ROWS_MAX = 10
NODES_TRIED_MAX = 10

_DURATION = re.compile(
    r"(?P<before>.*?)\bLOG: {1,2}duration: (?P<ms>\d+(?:\.\d+)?) ms"
    r"(?:  (?P<kind>statement|execute|parse|bind|plan|fastpath function call)\b(?P<more>[^:]*):(?P<text>.*))?$"
)
_TIME = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.(?P<fraction>\d{1,6}))? "
    r"(?P<zone>[A-Z]{1,5}\b|[+-]\d\d(?::?\d\d)?(?!\d))"
)
_EPOCH = re.compile(r"(?<![\d.])(?P<seconds>[12]\d{9})\.(?P<fraction>\d{3})(?!\d)")
_NODE = re.compile(r"^[ \t]*\S.*\(cost=\d", re.MULTILINE)
_COSTS = re.compile(r" ?\((?:cost|actual)[^()]*\)")
_PARAMETERS = re.compile(r" ?Query Parameters:.*\Z", re.DOTALL)


@dataclass
class Entry:
    """A duration with its statement. at_ns: since the epoch, None when the line does not tell. plan: auto_explain's."""

    at_ns: int | None
    ms: float
    text: str
    plan: bool = False


@dataclass
class _Tally:
    calls: int = 0
    total_ms: float = 0.0
    max_ms: float = 0.0

    def add(self, ms: float) -> None:
        self.calls, self.total_ms, self.max_ms = self.calls + 1, self.total_ms + ms, max(self.max_ms, ms)


@dataclass
class _Statement:
    logged: _Tally = field(default_factory=_Tally)
    explained: _Tally = field(default_factory=_Tally)
    plan: str = ""

    @property
    def tally(self) -> _Tally:
        """One statement may be in the log twice, with its duration and with its plan: it ran once."""
        return self.logged if self.logged.calls else self.explained


def read_log(
    path: Path, within: Span | None, redact_sql: RedactSql, place: str, deadline_s: float
) -> tuple[dict[str, Any], list[str]]:
    """(what the end of a log says of slow statements, sentences for the reader).

    within: entries from outside are left out where their time is known; None takes all. deadline_s: of
    time.monotonic(); what was not read by then is left out, the oldest first. Raises CollectingError.
    """
    try:
        text, whole = _end_of(path)
    except OSError as error:
        raise CollectingError(
            f"The log {path} cannot be read: {error.strerror or error}. Let the collector's user read it, or take "
            "log_file out of the configuration."
        ) from None
    found, bare = entries(text.split("\n"))
    timed = [one for one in found if one.at_ns is not None]
    notes: list[str] = []
    if timed and within is not None:
        chosen = [one for one in timed if within.from_ns <= (one.at_ns or 0) < within.to_ns]
        first_ns = timed[0].at_ns or 0
        if not whole and first_ns > within.from_ns:
            notes.append(
                f"The log is longer than the {BYTES_MAX >> 20} MiB that are read: its earlier part is missing."
            )
    else:
        chosen = found if timed else found[-UNTIMED_MAX:]
        if found and not timed:
            notes.append(
                f"The log has no time that can be read: its last {len(chosen)} statements are told, whenever they ran. "
                "Put %m into log_line_prefix, and log_timezone to UTC."
            )
    if bare:
        notes.append(
            f"{bare} durations in the log have no statement beside them: log_statement or log_duration is set."
        )
    if not found and not bare:
        notes.append("The log has no durations: set log_min_duration_statement, or load auto_explain.")
    rows, taken = slowest(chosen[-ENTRIES_MAX:], redact_sql, place, deadline_s)
    if taken < len(chosen):
        notes.append(f"Only the last {taken} of {len(chosen)} statements in the log were looked at.")
    return {"file": str(path), "statements": taken, "timed": bool(timed), "rows": rows}, notes


def entries(lines: Sequence[str]) -> tuple[list[Entry], int]:
    """(the statements that have a duration, how many durations have none), as they stand in a log.

    Lines that begin with a tab continue the one before. Durations of parsing and binding are left out: they belong to
    an execution that has its own.
    """
    found: list[Entry] = []
    bare = 0
    for head, text in _messages(lines):
        kind = head["kind"]
        if kind is None:
            bare += 1
        elif kind not in ("parse", "bind"):
            found.append(Entry(time_of(head["before"]), float(head["ms"]), text, kind == "plan"))
    return found, bare


def _messages(lines: Sequence[str]) -> Iterator[tuple[re.Match[str], str]]:
    head: re.Match[str] | None = None
    parts: list[str] = []
    for line in lines:
        if line.startswith("\t"):
            parts.append(line[1:])
            continue
        if head is not None:
            yield head, "\n".join(parts).strip()[:TEXT_CHARACTERS_MAX]
        # A long line is a statement: what is looked for stands at its beginning.
        head = _DURATION.match(line[:TEXT_CHARACTERS_MAX])
        parts = [head["text"] or ""] if head is not None else []
    if head is not None:
        yield head, "\n".join(parts).strip()[:TEXT_CHARACTERS_MAX]


def time_of(before: str) -> int | None:
    """Nanoseconds since the epoch of what stands before a message; None without a time, or in an unknown zone.

    Names of zones are ambiguous (IST is three of them): taken are UTC, numbers, and the zone of this machine.
    """
    if found := _TIME.search(before):
        offset = _offset(found["zone"])
        try:
            naive = datetime.datetime.fromisoformat(found["time"])
            # A name of this machine's zone says whether it was summer; the machine knows that of the date.
            at = naive.replace(tzinfo=offset) if offset is not None else _local(naive, found["zone"])
        except ValueError:
            return None
        if at is None:
            return None
        return round(at.timestamp()) * 10**9 + int((found["fraction"] or "0").ljust(9, "0"))
    if found := _EPOCH.search(before):
        return int(found["seconds"]) * 10**9 + int(found["fraction"]) * 10**6
    return None


def _offset(zone: str) -> datetime.timezone | None:
    if zone in ("UTC", "GMT", "Z"):
        return datetime.UTC
    if zone[0] not in "+-":
        return None
    digits = zone[1:].replace(":", "").ljust(4, "0")
    minutes = int(digits[:2]) * 60 + int(digits[2:])
    return datetime.timezone(datetime.timedelta(minutes=-minutes if zone[0] == "-" else minutes))


def _local(naive: datetime.datetime, zone: str) -> datetime.datetime | None:
    try:
        for fold in (0, 1):
            at = naive.replace(fold=fold).astimezone()
            if at.tzname() == zone:
                return at
    except OverflowError:
        pass
    return None


def slowest(
    found: Sequence[Entry], redact_sql: RedactSql, place: str, deadline_s: float
) -> tuple[list[dict[str, Any]], int]:
    """(the ROWS_MAX statements with most time in total, how many entries were looked at): the newest first."""
    statements: dict[str, _Statement] = {}
    known: dict[tuple[str, bool], tuple[str, str]] = {}
    taken = 0
    for one in reversed(found):
        if time.monotonic() >= deadline_s:
            break
        taken += 1
        if one.text.startswith(pack.MARK):
            continue
        key = (one.text, one.plan)
        if key not in known:
            known[key] = _explained(one.text, redact_sql, place) if one.plan else (redact_sql(one.text, place), "")
        query, plan = known[key]
        statement = statements.setdefault(query[:TOLD_CHARACTERS_MAX], _Statement())
        if plan and one.ms >= statement.explained.max_ms:
            statement.plan = plan[:TOLD_CHARACTERS_MAX]
        (statement.explained if one.plan else statement.logged).add(one.ms)
    rows: list[dict[str, Any]] = [
        {
            "query": query,
            "calls": one.tally.calls,
            "total_ms": round(one.tally.total_ms, 3),
            "mean_ms": round(one.tally.total_ms / one.tally.calls, 3),
            "max_ms": one.tally.max_ms,
            **({"plan": one.plan} if one.plan else {}),
        }
        for query, one in statements.items()
    ]
    return sorted(rows, key=lambda row: (-row["total_ms"], row["query"]))[:ROWS_MAX], taken


def _explained(text: str, redact_sql: RedactSql, place: str) -> tuple[str, str]:
    """(statement, plan) of what auto_explain wrote as text, both without literals and costs.

    Where the statement ends and the plan begins is found by its first node. A literal may hold a line that looks like
    one: then both parts without literals are not the whole without literals, and the next is tried. Where none fits,
    all of it is the statement: a literal is never cut in two.
    """
    text = text.removeprefix("Query Text:").strip()
    whole = redact_sql(text, place)
    for node in itertools.islice(_NODE.finditer(text), NODES_TRIED_MAX):
        query, plan = redact_sql(text[: node.start()], place), redact_sql(text[node.start() :], place)
        if f"{query} {plan}".split() == whole.split():
            return _PARAMETERS.sub("", query).strip(), " ".join(_COSTS.sub("", plan).split())
    return whole, ""


def _end_of(path: Path) -> tuple[str, bool]:
    """The last BYTES_MAX of a file from the beginning of a line, and whether they are all of it. Raises OSError."""
    # A named pipe would wait for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is no regular file")
        start = max(status.st_size - BYTES_MAX, 0)
        file.seek(start)
        data = file.read(BYTES_MAX)
    if start:
        data = data[data.find(b"\n") + 1 :] if b"\n" in data else b""
    return data.decode("utf-8", "replace"), not start
