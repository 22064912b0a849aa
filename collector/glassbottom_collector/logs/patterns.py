"""What a log says, how often, since when: the patterns of its messages and the failures of its tracebacks.

A record with a traceback is grouped by the traceback, not by its message: the message of one failure may be anything,
and one message (`unhandled exception`) may stand above every failure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from .miner import EXAMPLE_CHARACTERS_MAX, Mined, Miner, current
from .records import Record, records
from .tracebacks import Fingerprint, fingerprint

# Different failures kept; a record of one more is grouped by its message.
FAILURES_MAX = 1024
# Patterns noted before those that were merged or forgotten are cleared away; more than a miner keeps.
SEEN_MAX = 16_384
_RANKS = {"": 0, "DEBUG": 1, "INFO": 2, "WARNING": 3, "ERROR": 4, "CRITICAL": 5}
# A traceback as an example keeps its end, where the exception is named.
_TRACEBACK_CHARACTERS_MAX = 4096


@dataclass(frozen=True)
class Pattern:
    """Records that say the same.

    kind: grouped by the message, or by the exception below it. template: the message with values as `<num>` and so on,
    or the failure in one line. id: of the failure, empty for messages. level: the worst of the records. loggers: at
    most eight. first_ns, last_ns: 0 when no record had a time. example: the message of the first record; exception: its
    traceback. is_new: nothing of it was seen before the given time; None when that cannot be told.
    """

    kind: Literal["message", "exception"]
    template: str
    id: str
    count: int
    level: str
    loggers: tuple[str, ...]
    first_ns: int
    last_ns: int
    example: str
    exception: str
    is_new: bool | None

    def as_json(self) -> dict[str, Any]:
        """Plain values, as logs/patterns.json has them."""
        return asdict(self) | {"loggers": list(self.loggers)}


@dataclass
class _Seen:
    """What is counted beside a pattern: kept apart, so that the miner knows of messages only."""

    level: str = ""
    loggers: tuple[str, ...] = ()

    def takes(self, record: Record) -> None:
        if _RANKS.get(record.level, 0) > _RANKS.get(self.level, 0):
            self.level = record.level
        if record.logger and record.logger not in self.loggers and len(self.loggers) < 8:
            self.loggers = (*self.loggers, record.logger)

    def takes_all(self, other: _Seen) -> None:
        for logger in other.loggers or ("",):
            self.takes(Record("", level=other.level, logger=logger))


@dataclass
class _Failure:
    fingerprint: Fingerprint
    first: Record
    seen: _Seen
    count: int = 0
    first_ns: int = 0
    last_ns: int = 0


def mine(lines: Iterable[Record | str], new_since_ns: int | None = None) -> list[Pattern]:
    """The patterns of log records, the most frequent first.

    lines: records, or lines of plain files (see records.records); both may be mixed. new_since_ns: the time of a
    deployment, say; patterns whose first record is not before it are new, provided the log reaches back beyond it.
    """
    miner = Miner()
    seen: dict[Mined, _Seen] = {}
    failures: dict[str, _Failure] = {}
    oldest_ns = 0
    for record in _all_records(lines):
        if record.time_ns and (not oldest_ns or record.time_ns < oldest_ns):
            oldest_ns = record.time_ns
        found = fingerprint(record.exception) if record.exception else None
        if found is not None and (found.id in failures or len(failures) < FAILURES_MAX):
            _count(failures.setdefault(found.id, _Failure(found, record, _Seen())), record)
        else:
            pattern = miner.add(record.message, record.time_ns)
            noted = seen.get(pattern)
            if noted is None:
                if len(seen) >= SEEN_MAX:
                    seen = _held(seen, miner)
                noted = seen.setdefault(pattern, _Seen())
            noted.takes(record)
    mined = miner.patterns()
    seen = _held(seen, miner)

    def is_new(first_ns: int) -> bool | None:
        if new_since_ns is None or not first_ns or oldest_ns >= new_since_ns:
            return None
        return first_ns >= new_since_ns

    patterns = [_of_messages(one, seen[one], is_new(one.first_ns)) for one in mined]
    patterns += [_of_failure(one, is_new(one.first_ns)) for one in failures.values()]
    return sorted(patterns, key=lambda one: (-one.count, one.first_ns, one.template, one.id))


def _all_records(lines: Iterable[Record | str]) -> Iterable[Record]:
    """Records as they are; runs of plain lines between them are read as a file."""
    plain: list[str] = []
    for line in lines:
        if isinstance(line, str):
            plain.append(line)
            continue
        yield from records(plain)
        plain = []
        yield line
    yield from records(plain)


def _held(seen: dict[Mined, _Seen], miner: Miner) -> dict[Mined, _Seen]:
    """What was seen by pattern, for patterns as they are now; without those the miner has forgotten."""
    held: dict[Mined, _Seen] = {}
    for pattern, noted in seen.items():
        now = current(pattern)
        if miner.holds(now):
            held.setdefault(now, _Seen()).takes_all(noted)
    return held


def _count(failure: _Failure, record: Record) -> None:
    failure.count += 1
    failure.seen.takes(record)
    if record.time_ns:
        failure.first_ns = min(failure.first_ns or record.time_ns, record.time_ns)
        failure.last_ns = max(failure.last_ns, record.time_ns)


def _of_messages(mined: Mined, seen: _Seen, is_new: bool | None) -> Pattern:
    return Pattern(
        "message",
        mined.template,
        "",
        mined.count,
        seen.level,
        seen.loggers,
        mined.first_ns,
        mined.last_ns,
        mined.example,
        "",
        is_new,
    )


def _of_failure(failure: _Failure, is_new: bool | None) -> Pattern:
    return Pattern(
        "exception",
        failure.fingerprint.title,
        failure.fingerprint.id,
        failure.count,
        failure.seen.level,
        failure.seen.loggers,
        failure.first_ns,
        failure.last_ns,
        failure.first.message[:EXAMPLE_CHARACTERS_MAX],
        failure.first.exception[-_TRACEBACK_CHARACTERS_MAX:],
        is_new,
    )
