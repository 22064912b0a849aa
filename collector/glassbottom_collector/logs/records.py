"""Lines of plain log files become records: when, how bad, by whom, what, and the traceback below.

The formats that Python services write by default are known: logging's own, timestamps first, JSON lines, uvicorn,
gunicorn, Django, access logs. A line that has none of them is a message by itself; a line that continues another (a
traceback, something indented) belongs to the record above.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any

from .tracebacks import HEADER

# Of a record this many lines are kept; the end, where the failure is named, rather than the beginning.
LINES_OF_A_RECORD_MAX = 2000
_NS = 1_000_000_000
_LEVELS = {
    "TRACE": "DEBUG",
    "DEBUG": "DEBUG",
    "INFO": "INFO",
    "NOTICE": "INFO",
    "WARN": "WARNING",
    "WARNING": "WARNING",
    "ERROR": "ERROR",
    "ERR": "ERROR",
    "EXCEPTION": "ERROR",
    "FATAL": "CRITICAL",
    "CRITICAL": "CRITICAL",
}
_LEVEL = r"(?P<level>" + "|".join(sorted(_LEVELS, key=len, reverse=True)) + r")"
_STAMP = (
    r"(?P<stamp>\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?: ?(?:Z|[+-]\d\d:?\d\d))?"
    r"|\d\d/[A-Z][a-z]{2}/\d{4}[: ]\d\d:\d\d:\d\d(?: [+-]\d{4})?)"
)
_NAME = r"(?P<logger>[^\W\d][\w.$-]*(?:\[[^\]\s]*\])?)"
_ACCESS = r"(?P<message>(?P<access>\S+ - (?:- )?)?\"[A-Z]+ \S+ HTTP/[\d.]+\".*)"
_FORMATS = [
    re.compile(pattern)
    for pattern in (
        # 1.2.3.4 - user [10/Oct/2000:13:55:36 -0700] "GET / HTTP/1.0" 200 2326: what is between is kept in the message
        rf"^(?P<client>\S+ \S+ \S+) \[{_STAMP}\] (?P<message>\".*)$",
        # [2026-01-01 12:00:00 +0000] [123] [INFO] Booting worker: gunicorn
        rf"^\[{_STAMP}\] \[\d+\] \[{_LEVEL}\] (?P<message>.*)$",
        # [01/Jan/2026 12:00:00] "GET / HTTP/1.1" 200 12: Django's runserver
        rf"^\[{_STAMP}\] {_ACCESS}$",
        # 2026-01-01 12:00:00,123 - shop.orders - ERROR - message
        rf"^\[?{_STAMP}\]?\s*-\s*{_NAME}\s*-\s*{_LEVEL}\s*-\s*(?P<message>.*)$",
        # 2026-01-01 12:00:00,123 shop.orders ERROR message
        rf"^\[?{_STAMP}\]?[\s|]+{_NAME}[\s|]+\[?{_LEVEL}\b\]?[\s|:-]*(?P<message>.*)$",
        # 2026-01-01 12:00:00,123 [ERROR] shop.orders: message; also with brackets around the name, or a bar between
        rf"^\[?{_STAMP}\]?[\s|-]+\[?{_LEVEL}\b\]?[\s|:-]+(?:\[?{_NAME}\]?\s*(?::|\||- )\s*)?(?P<message>.*)$",
        # ERROR 2026-01-01 12:00:00,123 views 4711 139872 message: Django's `verbose`
        rf"^\[?{_LEVEL}\b\]?[\s:]+\[?{_STAMP}\]?\s+(?:{_NAME} \d+ \d+ )?(?P<message>.*)$",
        # 2026-01-01 12:00:00,123 message
        rf"^\[?{_STAMP}\]?[\s:|-]*(?P<message>.*)$",
        # INFO:     127.0.0.1:5000 - "GET / HTTP/1.1" 200 OK: uvicorn
        rf"^{_LEVEL}:\s+{_ACCESS}$",
        # ERROR:shop.orders:message: logging.basicConfig()
        rf"^{_LEVEL}:(?P<logger>[^\s:]+):(?P<message>.*)$",
        # ERROR:    message, [ERROR] message
        rf"^(?:{_LEVEL}:|\[{_LEVEL.replace('level', 'level2')}\])\s+(?P<message>.*)$",
    )
]
_CONTINUES = re.compile(
    rf"^(?:\s|{re.escape(HEADER)}|The above exception was the direct cause|During handling of the above exception|$)"
)
_TIMES = ("timestamp", "@timestamp", "time", "ts", "asctime", "datetime", "date")
_JSON_LEVELS = ("level", "levelname", "severity", "log.level", "lvl")
_LOGGERS = ("logger", "logger_name", "name", "log.logger", "channel")
_MESSAGES = ("message", "msg", "event", "text")
_EXCEPTIONS = ("exc_info", "exception", "exc_text", "stack_trace", "traceback", "error.stack_trace")


@dataclass(frozen=True)
class Record:
    """One log record. time_ns: since 1970, 0 when the line had no time. level: DEBUG, INFO, WARNING, ERROR, CRITICAL or
    empty. exception: the traceback as text, or empty."""

    message: str
    time_ns: int = 0
    level: str = ""
    logger: str = ""
    exception: str = ""


def records(lines: Iterable[str], zone: tzinfo = UTC) -> Iterator[Record]:
    """The records of a file, from its lines. zone: of times that name none."""
    record: Record | None = None
    below: list[str] = []
    raising = False
    for line in lines:
        line = line.rstrip("\r\n")
        if record is not None and (_CONTINUES.match(line) or (raising and not _starts(line))):
            raising = raising or line.startswith(HEADER) or line.lstrip().startswith("+ Exception Group Traceback")
            below.append(line)
            if len(below) > LINES_OF_A_RECORD_MAX:
                del below[: LINES_OF_A_RECORD_MAX // 2]
            continue
        if record is not None:
            yield _whole(record, below)
        record, below, raising = _record(line, zone), [], HEADER in line
    if record is not None:
        yield _whole(record, below)


def _starts(line: str) -> bool:
    """Whether a line below a traceback begins a record: anything that has a format."""
    return line.startswith("{") or any(form.match(line) for form in _FORMATS)


def _whole(record: Record, below: list[str]) -> Record:
    """A record with the lines below it: from the header of a traceback on they are its exception."""
    while below and not below[-1].strip():
        below.pop()
    if not below:
        return record
    start = next((n for n, line in enumerate(below) if "Traceback (most recent call last)" in line), None)
    if record.message.startswith(HEADER):  # the traceback stood in the file by itself
        return replace(record, message="", exception="\n".join([record.message, *below]))
    if start is None:
        return replace(record, message="\n".join([record.message, *below]))
    message = "\n".join([record.message, *below[:start]]).rstrip()
    return replace(record, message=message, exception="\n".join(below[start:]))


def _record(line: str, zone: tzinfo) -> Record:
    if line.startswith("{"):
        parsed = _from_json(line, zone)
        if parsed is not None:
            return parsed
    for form in _FORMATS:
        match = form.match(line)
        if match is None:
            continue
        found = match.groupdict()
        level = _LEVELS.get(found.get("level") or found.get("level2") or "", "")
        message = found["message"]
        if found.get("client"):
            message = f"{found['client']} {message}"
        logger = found.get("logger") or ("uvicorn.access" if found.get("access") else "")
        return Record(message, _time_ns(found.get("stamp") or "", zone), level, logger)
    return Record(line)


def _from_json(line: str, zone: tzinfo) -> Record | None:
    """A record of a line of JSON, or None when it is not one. Values beyond the known keys are not looked at."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None

    def first(keys: tuple[str, ...]) -> Any:
        return next((value[key] for key in keys if value.get(key) not in (None, "", False, True)), "")

    level = first(_JSON_LEVELS)
    if isinstance(level, int):  # the numbers of logging
        level = ("", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")[min(max(level // 10, 0), 5)]
    message, exception = first(_MESSAGES), first(_EXCEPTIONS)
    if isinstance(exception, list):
        exception = "\n".join(map(str, exception))
    time = first(_TIMES)
    return Record(
        message if isinstance(message, str) else json.dumps(message, sort_keys=True),
        _epoch_ns(time) if isinstance(time, (int, float)) else _time_ns(str(time), zone),
        _LEVELS.get(str(level).upper(), ""),
        str(first(_LOGGERS)),
        exception if isinstance(exception, str) else json.dumps(exception, sort_keys=True),
    )


def _epoch_ns(number: float) -> int:
    """Seconds, milliseconds, microseconds or nanoseconds since 1970, told by their size."""
    for unit_ns, below in ((_NS, 1e11), (1_000_000, 1e14), (1000, 1e17), (1, 1e20)):
        if 0 < number < below:
            return int(number * unit_ns)
    return 0


_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_PARTS = re.compile(
    r"^(?:(\d{4})[-/](\d\d)[-/](\d\d)[T ]|(\d\d)/([A-Z][a-z]{2})/(\d{4})[: ])(\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9}))?"
    r" ?(Z|[+-]\d\d:?\d\d)?$"
)


def _time_ns(stamp: str, zone: tzinfo) -> int:
    """Nanoseconds since 1970 of a stamp, 0 when it is none."""
    match = _PARTS.match(stamp)
    if match is None:
        return 0
    year, month, day, other_day, name, other_year, hour, minute, second, fraction, offset = match.groups()
    if name:
        if name not in _MONTHS:
            return 0
        year, month, day = other_year, str(_MONTHS.index(name) + 1), other_day
    if offset == "Z":
        zone = UTC
    elif offset:
        shift = timedelta(hours=int(offset[1:3]), minutes=int(offset[-2:]))
        zone = timezone(shift if offset[0] == "+" else -shift)
    try:
        moment = datetime(int(year), int(month), int(day), int(hour), int(minute), int(second), tzinfo=zone)
    except ValueError:
        return 0
    return int(moment.timestamp()) * _NS + int((fraction or "0").ljust(9, "0"))
