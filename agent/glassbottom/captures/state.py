"""How the process is now, in one JSON document: what a person would ask for first when something is wrong.

Its settings and ours, the interpreter, packages, resource attributes, the part of the environment that a list of names
allows, what the application has registered by glassbottom.describe(), where every thread is and what every task waits
for, spans that have begun and not ended, the garbage collector, and the last lines of the log. Values of variables are
in none of it: places are a file, a line and a function. Text goes through _redact.py before it is written.

Stacks come from faulthandler, which writes them from C: through sys._current_frames() we would hold frames for a
moment, and a frame that ends meanwhile would destroy its locals in our thread. Packages are read from the names of
their directories, which hold name and version; opening the metadata of three hundred takes a tenth of a second.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import platform
import re
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .. import _describe, _redact, _threads, logs
from ..probes.thread_names import thread_name
from . import CaptureError, Made, Order

THREADS_MAX = 100
"""What faulthandler writes; it says so when there are more."""
TASKS_MAX = 1000
TASK_SECONDS_MAX = 0.25
"""CPU time of looking at tasks."""
BREATH_EVERY = 50
SPANS_MAX = 500
PACKAGES_MAX = 2000
STACKS_BYTES_MAX = 8 << 20
FILE = "state.json"

_THREAD = re.compile(r"^(?P<current>Current thread|Thread) 0x(?P<ident>[0-9a-f]+)")
_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+|\?\?\?) in (?P<function>.*)$')
_PACKAGE = re.compile(
    r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._]*?)-(?P<version>[0-9][^-]*?)(?:-py3[^-]*)?\.(?:dist|egg)-info$"
)


class StateCapture:
    """`state`: a JSON document {"state": {...}, "logs": [...]}."""

    kind = "state"

    def __init__(self) -> None:
        self._has_tasks = False

    def refusal(self, order: Order) -> str | None:  # noqa: ARG002 - it is the same for every order
        if "asyncio" in sys.modules:
            from ..probes import asyncio_objects, awaits, tasks_scan  # noqa: F401 - see Capture.refusal

            self._has_tasks = True
        return None

    def run(self, order: Order, directory: Path, ending: _threads.Event) -> Made:
        """Asks every part in turn. One that fails is told as an error in its place, and the others go on."""
        subject = _describe.subject()
        environment = subject.get("state_env", ())
        spans = subject.get("open_spans", {})
        parts = {
            "agent": lambda: subject.get("agent", {}),
            "resource": lambda: dict(subject.get("resource", {})),
            "interpreter": interpreter,
            "packages": packages,
            "environment": lambda: allowed(os.environ, environment),
            "described": lambda: _describe.descriptions(ending),
            "threads": lambda: threads(directory),
            "tasks": lambda: tasks(subject.get("loops", ())) if self._has_tasks else {"total": 0, "tasks": []},
            "spans": lambda: open_spans(spans, time.time_ns()),
            "garbage_collector": garbage_collector,
        }
        state: dict[str, Any] = {"at_ns": time.time_ns()}
        failed = 0
        for name, part in parts.items():
            try:
                state[name] = part()
            except Exception as error:  # noqa: BLE001 - the rest is still worth having
                failed += 1
                state[name] = {"error": f"It could not be read: {type(error).__name__}."}
        ring = logs.current()
        records = ring.read() if ring is not None else []
        state = {name: _redact.value(part, name) for name, part in state.items()}
        lines = []
        for i, record in enumerate(records):
            if i % BREATH_EVERY == BREATH_EVERY - 1:
                _threads.sleep(0)
            # The keys are ours: only the texts are looked at, which is most of what a capture costs the application.
            lines.append({name: _redact.text(each) if isinstance(each, str) else each for name, each in record.items()})
        path = directory / FILE
        left_out = _write(path, state, lines, order.bytes_max)
        facts: dict[str, float | str] = {
            "threads": float(len(state["threads"])),
            "tasks": float(state["tasks"].get("total", 0)),
            "open_spans": float(state["spans"].get("total", 0)),
            "packages": float(len(state["packages"])),
            "log_records": float(len(lines) - left_out),
            "log_records_left_out": float(left_out),
            "parts_failed": float(failed),
        }
        return Made(path, facts)


def interpreter() -> dict[str, Any]:
    """What runs the program. No command line: arguments are often secrets."""
    return {
        "implementation": sys.implementation.name,
        "version": platform.python_version(),
        "build": " ".join(platform.python_build()),
        "compiler": platform.python_compiler(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "executable": sys.executable,
        "is_virtual_environment": sys.prefix != sys.base_prefix,
        "is_free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        "flags": {name: getattr(sys.flags, name) for name in ("optimize", "dev_mode", "utf8_mode", "no_site")},
        "switch_interval_s": sys.getswitchinterval(),
        "recursion_limit": sys.getrecursionlimit(),
        "cpu_count": os.cpu_count(),
        "modules": len(sys.modules),
        "pid": os.getpid(),
    }


def packages() -> dict[str, str]:
    """Version by name of every distribution on the path; the first one found counts, as for an import."""
    found: dict[str, str] = {}
    for place in dict.fromkeys(sys.path):
        try:
            names = os.listdir(place or ".")  # noqa: PTH208 - names are all that is needed
        except OSError:  # a zip file, or no directory any more
            continue
        _threads.sleep(0)
        for name in names:
            match = _PACKAGE.match(name)
            if match is not None and len(found) < PACKAGES_MAX:
                found.setdefault(match["name"], match["version"])
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def allowed(environ: Mapping[str, str], names: tuple[str, ...]) -> dict[str, str]:
    """Of the environment only what names allow; one that ends in * stands for all that begin so."""
    whole = {name for name in names if not name.endswith("*")}
    beginnings = tuple(name[:-1] for name in names if name.endswith("*") and len(name) > 1)
    return {
        name: text
        for name, text in sorted(environ.items())
        if name in whole or (beginnings and name.startswith(beginnings))
    }


def threads(directory: Path) -> list[dict[str, Any]]:
    """Each with its name and its stack, innermost first. Without the agent's own."""
    path = directory / "threads.txt"
    with path.open("w+b") as file:
        faulthandler.dump_traceback(file.fileno(), all_threads=True)
        file.seek(0)
        text = file.read(STACKS_BYTES_MAX).decode("utf-8", "replace")
    path.unlink()
    found: list[dict[str, Any]] = []
    stack: list[dict[str, Any]] = []
    for line in text.splitlines():
        head = _THREAD.match(line)
        if head is not None:
            stack = []
            ident = int(head["ident"], 16)
            found.append({"name": thread_name(ident), "ident": ident, "stack": stack})
            continue
        frame = _FRAME.match(line)
        if frame is not None:
            number = int(frame["line"]) if frame["line"].isdecimal() else 0
            stack.append({"function": frame["function"], "file": frame["file"], "line": number})
    return [each for each in found if not str(each["name"]).startswith("glassbottom-")]


def tasks(loops: Any) -> dict[str, Any]:
    """Every task of asyncio: its name, what it waits for, and the awaits down to there, innermost first."""
    from .. import _native
    from ..probes import awaits
    from ..probes.asyncio_objects import Kept, name_of, read, task_references
    from ..probes.tasks_scan import foreign_name, state_of

    found: list[dict[str, Any]] = []
    total = 0
    kept = Kept()
    end_s = time.thread_time() + TASK_SECONDS_MAX
    references = task_references(list(loops))
    for i, reference in enumerate(references):
        task = kept.take(reference)
        if task is not None:
            _, done, coroutine, waiter = read(task)
            if not done:
                total += 1
                if len(found) < TASKS_MAX and time.thread_time() < end_s:
                    _, places, _, chain_state = _native.await_chain(coroutine)
                    state = state_of(chain_state, waiter, foreign=not places)
                    found.append(
                        {
                            "name": name_of(task)[:200],
                            "coroutine": places[-1][0].co_qualname if places else foreign_name(coroutine),
                            "state": state or "ending",
                            "awaits": awaits.name(places, waiter) if state in ("waiting", "ready") else "",
                            "stack": [_frame(code, offset) for code, offset in places],
                        }
                    )
            coroutine = waiter = None
        task = None
        if i % BREATH_EVERY == BREATH_EVERY - 1:
            kept.let_go()
            _threads.sleep(0)
    kept.let_go()
    return {"total": total, "tasks": found}


def open_spans(records: Mapping[int, Any], now_ns: int) -> dict[str, Any]:
    """Spans that have begun and not ended, the oldest first: names and ages."""
    ages = sorted(((now_ns - record.start_ns, record.name) for record in records.copy().values()), reverse=True)  # type: ignore[attr-defined]
    shown = [{"name": str(name), "age_ms": max(0, age_ns) / 1e6} for age_ns, name in ages[:SPANS_MAX]]
    return {"total": len(ages), "spans": shown}


def garbage_collector() -> dict[str, Any]:
    """Its settings and what it has done, by generation."""
    return {
        "enabled": gc.isenabled(),
        "thresholds": list(gc.get_threshold()),
        "waiting": list(gc.get_count()),
        "frozen": gc.get_freeze_count(),
        "uncollectable_kept": len(gc.garbage),
        "generations": gc.get_stats(),
    }


def _frame(code: Any, offset: int) -> dict[str, Any]:
    return {"function": code.co_qualname, "file": code.co_filename, "line": _line(code, offset)}


def _line(code: Any, offset: int) -> int:
    if offset < 0:
        return int(code.co_firstlineno)
    return next((line or 0 for start, end, line in code.co_lines() if start <= offset < end), 0)


def _write(path: Path, state: Mapping[str, Any], lines: list[Any], bytes_max: int) -> int:
    """Writes what fits; returns how many of the oldest lines did not. Raises CaptureError when the rest does not."""
    head = json.dumps(state, default=_unknown, separators=(",", ":"))
    size = len(head) + len('{"state":,"logs":[\n\n]}\n')
    kept: list[str] = []
    for text in _newest_first(lines):
        size += len(text) + 2
        if size > bytes_max:
            break
        kept.append(text)
    if len(head) + 32 > bytes_max:
        raise CaptureError(
            f"The state takes {len(head)} bytes without its log, and {bytes_max} are allowed; allow more with "
            "--max-bytes."
        )
    with path.open("w", encoding="ascii") as file:
        file.write(f'{{"state":{head},"logs":[\n')
        file.write(",\n".join(reversed(kept)))
        file.write("\n]}\n")
    return len(lines) - len(kept)


def _newest_first(lines: list[Any]) -> Iterator[str]:
    for line in reversed(lines):
        yield json.dumps(line, default=_unknown, separators=(",", ":"))


def _unknown(value: object) -> str:
    return f"<{type(value).__name__}>"
