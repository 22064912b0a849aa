"""The last lines the application has logged, kept in memory for when somebody asks for the state of the process.

What is put between is Logger.callHandlers, and not a handler of ours on the root logger, because a handler would be
seen: logging.basicConfig() does nothing once there is one, a message without any other handler would no longer reach
stderr, dictConfig() would take it away, and it would miss loggers that do not propagate. A record factory would see
records that a filter then drops. Around callHandlers nothing changes: levels, filters, handlers and propagation are as
they were. Programs that look for the caller of a logger by walking up past the frames of logging's own file find it as
before, because the function carries the name of that file.

The record is noted after its handlers have run. So the message is there already, made by whichever handler formatted
it first, and costs nothing again. Where nobody has formatted it, arguments of built-in types are formatted here; any
other is told by its type, since its __str__ is the application's code, which logging might never have called (it can
be a query to a database). No argument, exception or record is kept: they may change, and would live longer.

There is no lock: one call of deque.extend() is one step, also for a signal handler that logs in the middle of it, and
for a child forked meanwhile. A record takes a slot for each SLOT_BYTES of its text, so the number of slots is a bound
on records and on bytes.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from itertools import count
from types import CodeType, TracebackType, WrapperDescriptorType
from typing import Any

SLOT_BYTES = 1024
CHARACTER_BYTES_MAX = 4
SHORT = SLOT_BYTES // CHARACTER_BYTES_MAX
"""Characters that a slot has room for, whatever they are."""
MESSAGE_CHARACTERS_MAX = 8192
NAME_CHARACTERS_MAX = 200
ERROR_CHARACTERS_MAX = 1000
FRAMES_MAX = 40
"""Of one traceback: of more, the first ten and the last."""
FRAMES_FIRST = 10
CAUSES_MAX = 4
PLAIN = frozenset((str, int, float, bool, type(None), bytes, complex))

Row = tuple[float, str, str, str | None, str, str]
_FIELD = re.compile(r"%(?:\(\w+\))?[#0\- +]*(?:\d+)?(?:\.\d+)?[hlL]?([a-zA-Z%])")
_original: Any = None
_ours: Any = None
_ring: Ring | None = None


class Ring:
    """The last records; a slot holds one record, or None for the second and further slots of a long one."""

    def __init__(self, records_max: int) -> None:
        self.records_max = records_max
        self._slots: deque[Row | None] = deque(maxlen=records_max)
        self._numbers = count(1)
        self._noted = 0
        self._failed = 0

    def note(self, record: logging.LogRecord) -> None:
        """In the application's thread. Never raises."""
        try:
            fields = record.__dict__
            message = fields.get("message")
            if type(message) is not str:
                message = _message(record.msg, record.args)
            if not fields["exc_info"] and len(message) < SHORT:  # nearly all of them
                self._slots.append(
                    (fields["created"], fields["levelname"], fields["name"], fields["threadName"], message, "")
                )
            else:
                self._note_long(record, message)
            self._noted = next(self._numbers)
        except Exception:  # noqa: BLE001 - whatever it is, the application logs on
            self._failed += 1

    def _note_long(self, record: logging.LogRecord, message: str) -> None:
        if len(message) > MESSAGE_CHARACTERS_MAX:
            message = message[:MESSAGE_CHARACTERS_MAX] + "..."
        error = _error(record.exc_info, bool(record.exc_text)) if record.exc_info else ""
        size = len(message) + len(error)
        if not (message.isascii() and error.isascii()):
            size *= CHARACTER_BYTES_MAX
        row = (record.created, record.levelname, record.name, record.threadName, message, error)
        self._slots.extend((row, *(None,) * (size // SLOT_BYTES)))

    def read(self) -> list[dict[str, Any]]:
        """Oldest first: at_ns (Unix epoch), level, logger, message, exception ("" for none), thread (its name)."""
        return [
            {
                "at_ns": int(at_s * 1e9),
                "level": str(level),
                "logger": str(name)[:NAME_CHARACTERS_MAX],
                "message": message,
                "exception": error,
                "thread": (thread or "")[:NAME_CHARACTERS_MAX],
            }
            for at_s, level, name, thread, message, error in filter(None, tuple(self._slots))
        ]

    def statistics(self) -> dict[str, float]:
        """By the names of docs/status.md."""
        held = len(self._slots) - self._slots.count(None)
        return {
            "log_records": held,
            "log_records_max": self.records_max,
            "log_records_total": self._noted,
            "log_records_dropped_total": max(0, self._noted - held) + self._failed,
        }


def install(ring: Ring) -> None:
    """From now on records go there; those of a parent process stay with it."""
    global _original, _ours, _ring
    _ring = ring
    if _ours is not None and _reaches(logging.Logger.callHandlers):
        return
    _original = original = logging.Logger.callHandlers

    def callHandlers(self: logging.Logger, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        try:
            original(self, record)
        finally:
            if _ring is not None:
                _ring.note(record)

    callHandlers.__code__ = _as_loggings_own(callHandlers.__code__)
    callHandlers.__doc__ = original.__doc__
    callHandlers.__qualname__ = "Logger.callHandlers"
    callHandlers.__module__ = original.__module__
    _ours = callHandlers
    logging.Logger.callHandlers = callHandlers  # type: ignore[method-assign]


def uninstall(ring: Ring) -> None:
    """Keeps nothing any more. Where somebody has wrapped ours meanwhile it stays in its place and does nothing."""
    global _original, _ours, _ring
    if _ring is not ring:
        return
    _ring = None
    if logging.Logger.callHandlers is _ours:
        logging.Logger.callHandlers = _original  # type: ignore[method-assign]
        _original = _ours = None


def current() -> Ring | None:
    """The ring of this process, if one is kept."""
    return _ring


def _reaches(function: Any) -> bool:
    """Whether ours is that function, or is called by it as far as can be seen."""
    for _ in range(8):
        if function is _ours:
            return True
        inner = getattr(function, "__wrapped__", None)
        if inner is None:
            cells = getattr(function, "__closure__", None) or ()
            inner = next((cell.cell_contents for cell in cells if _is_function(cell)), None)
        if inner is None:
            return False
        function = inner
    return False


def _is_function(cell: Any) -> bool:
    try:
        return callable(cell.cell_contents) and hasattr(cell.cell_contents, "__code__")
    except ValueError:  # empty
        return False


def _as_loggings_own(code: CodeType) -> CodeType:
    of = logging.Logger.handle.__code__
    return code.replace(
        co_filename=of.co_filename,
        co_name="callHandlers",
        co_qualname="Logger.callHandlers",
        co_firstlineno=of.co_firstlineno,
    )


def _message(message: object, arguments: object) -> str:
    """As getMessage(), without a line of the application's code."""
    if type(message) is not str:
        return str(message) if type(message) in PLAIN else f"<{type(message).__name__}>"
    if not arguments:
        return message
    if type(arguments) is tuple:
        if PLAIN.issuperset(map(type, arguments)):
            return _formatted(message, arguments)
        return _formatted(_as_text(message), tuple(map(_told, arguments)))
    if type(arguments) is dict:
        told = {name: _told(each) for name, each in arguments.copy().items() if type(name) is str}
        return _formatted(_as_text(message), told)
    return message


def _formatted(message: str, arguments: Any) -> str:
    try:
        return str(message % arguments)
    except Exception:  # noqa: BLE001 - the application's mistake, which logging has told by now
        return message


def _as_text(message: str) -> str:
    """Every field a %s: a type in the place of a number cannot be formatted as one."""
    return _FIELD.sub(lambda field: field[0] if field[1] == "%" else f"{field[0][:-1].split('.')[0]}s", message)


def _told(argument: Any) -> Any:
    return argument if type(argument) in PLAIN else f"<{type(argument).__name__}>"


def _error(exc_info: Any, was_formatted: bool) -> str:
    """A traceback as Python writes it, without the lines of source code and without values of variables.

    was_formatted: a handler has already asked the exceptions for their text.
    """
    error = exc_info[1] if type(exc_info) is tuple and len(exc_info) == 3 else None
    if not isinstance(error, BaseException):
        return ""
    parts: list[str] = []
    trace: TracebackType | None = exc_info[2]
    seen: set[int] = set()
    while error is not None and len(parts) < CAUSES_MAX and id(error) not in seen:
        seen.add(id(error))
        above = ""
        if error.__cause__ is not None:
            above = "\nThe above exception was the direct cause of the following exception:\n\n"
        elif error.__context__ is not None and not error.__suppress_context__:
            above = "\nDuring handling of the above exception, another exception occurred:\n\n"
        parts.append(f"{above}{_trace(trace)}{_last_line(error, was_formatted)}\n")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        trace = error.__traceback__ if error is not None else None
    if error is not None:
        parts[-1] = parts[-1].partition("\n\n")[2]  # what came before it is left out, so nothing is above
    return "".join(reversed(parts))


def _trace(trace: TracebackType | None) -> str:
    lines: list[str] = []
    while trace is not None and len(lines) < 1000:
        code = trace.tb_frame.f_code
        lines.append(f'  File "{code.co_filename}", line {trace.tb_lineno}, in {code.co_name}\n')
        trace = trace.tb_next
    if not lines:
        return ""
    if len(lines) > FRAMES_MAX:
        left_out = len(lines) - FRAMES_MAX
        lines[FRAMES_FIRST : FRAMES_FIRST + left_out] = [f"  [{left_out} frames left out]\n"]
    return f"Traceback (most recent call last):\n{''.join(lines)}"


def _last_line(error: BaseException, was_formatted: bool) -> str:
    kind = type(error)
    module = kind.__module__
    name = kind.__qualname__ if module in ("builtins", "__main__") else f"{module}.{kind.__qualname__}"
    arguments = error.args
    is_builtin = type(kind.__str__) is WrapperDescriptorType and all(type(each) in PLAIN for each in arguments)
    if not (is_builtin or was_formatted):
        return name
    try:
        text = str(error)[:ERROR_CHARACTERS_MAX]
    except Exception:  # noqa: BLE001 - the application's code
        return name
    return f"{name}: {text}" if text else name
