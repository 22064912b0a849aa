"""py-spy's two formats: JSON, a list of threads with their frames, and lines of a call path and a count."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ..errors import BadRequest
from ..model.code import Frame
from ..model.recording import CPU, STACKS, RecordedPath, Recording

THREADS_MAX = 20_000
LINES_MAX = 200_000
FRAMES_MAX = 1024
CHARACTERS_MAX = 1024
LINE_MAX = 2**31 - 1

_FRAME = re.compile(r"(?P<function>.*?) \((?P<file>.*?)(?::(?P<line>\d{1,9}))?\)", re.DOTALL)
_THREAD = re.compile(r"thread \([^)]*\)(?:: (?P<name>.*))?", re.DOTALL)


def stacks(text: str) -> Recording:
    """Of `py-spy dump --json`: one path for each thread, those that hold the GIL or run first. Raises BadRequest."""
    try:
        threads = json.loads(text)
    except (ValueError, RecursionError):
        raise BadRequest("The file is neither of memray nor of py-spy: it begins like JSON and is none.") from None
    if not isinstance(threads, list) or not all(isinstance(each, dict) for each in threads):
        raise BadRequest("The file is JSON, but no list of threads as `py-spy dump --json` writes it.")
    paths = [_thread(each) for each in threads[:THREADS_MAX]]
    order = {"holds the GIL": 0, "runs": 1, "waits": 2}
    return Recording(STACKS, tuple(sorted(paths, key=lambda path: order[path.note])), float(len(paths)))


def folded(text: str) -> Recording:
    """Of `py-spy record --format raw`: call paths from the outermost frame in, and how often each was seen.

    Raises BadRequest.
    """
    paths = []
    for number, line in enumerate(text.splitlines()[:LINES_MAX], 1):
        path, _, count = line.rpartition(" ")
        if not path or not count.isascii() or not count.isdigit() or len(count) > 18:
            raise BadRequest(
                f"The file is neither of memray nor of py-spy: line {number} is no call path with a count."
            )
        names = path.split(";")[: FRAMES_MAX + 1]
        thread = _THREAD.fullmatch(names[0])
        frames = names if thread is None else names[1:]
        paths.append(
            RecordedPath(
                tuple(_frame(name) for name in reversed(frames)),
                (thread["name"] or "")[:CHARACTERS_MAX] if thread is not None else "",
                "",
                float(count),
            )
        )
    return Recording(CPU, tuple(sorted(paths, key=lambda path: -path.value)), sum(path.value for path in paths))


def _thread(told: Mapping[str, Any]) -> RecordedPath:
    frames = told.get("frames")
    note = "holds the GIL" if told.get("owns_gil") is True else "runs" if told.get("active") is True else "waits"
    return RecordedPath(
        tuple(_frame_of(each) for each in frames[:FRAMES_MAX]) if isinstance(frames, list) else (),
        _text(told.get("thread_name")),
        note,
        1.0,
    )


def _frame_of(told: object) -> Frame:
    if not isinstance(told, dict):
        return Frame("?", "", 0)
    line = told.get("line")
    known = line if isinstance(line, int) and 0 <= line <= LINE_MAX else 0
    return Frame(_text(told.get("name")), _text(told.get("filename")), known)


def _frame(name: str) -> Frame:
    found = _FRAME.fullmatch(name)
    if found is None:
        return Frame(name[:CHARACTERS_MAX], "", 0)
    return Frame(found["function"][:CHARACTERS_MAX], found["file"][:CHARACTERS_MAX], int(found["line"] or 0))


def _text(value: object) -> str:
    return value[:CHARACTERS_MAX] if isinstance(value, str) else ""
