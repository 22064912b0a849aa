"""What processes say of themselves when they are asked, and what their logs say: state/ and logs/.

Each connected process is ordered to tell its state, all at once, since one that hangs must not cost the others their
turn. Files of logs are read only where a configuration lists them, from their ends. What both brought is mined for
patterns by a collector that runs last; they share a lane.
"""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..logs import Record, mine
from ..model.live import InstanceLive
from .bundle import segment
from .from_store import Live
from .parts import CollectingError, Planned, Sink
from .plain import plain

LANE = "agents"
INSTANCES_MAX = 16
LINES_MAX = 1_000
LINE_CHARACTERS_MAX = 16_384
FILES_MAX = 20
FILE_BYTES_MAX = 4 << 20
"""Of a file's end: a thousand lines of four thousand bytes."""
RECORDS_MAX = 200_000
KEPT_BACK_S = 0.5
"""Of the time given, for writing what was told."""
PATTERNS_MAX = 500

Order = Callable[[str, float], bytes]
"""(instance id, deadline of time.monotonic()): the file with which a process answers. Raises CollectingError."""
Said = Mapping[str, Any] | str
"""A record of a process, {"at_ns", "level", "logger", "message", "exception"}, or a line of a file."""


@dataclass
class Gathered:
    """What was logged, from everywhere, for who looks for patterns in it; bounded."""

    records: list[Said] = field(default_factory=list)
    left_out: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, records: Sequence[Said]) -> None:
        """Takes as many as there is room for, the latest of them."""
        with self._lock:
            room = RECORDS_MAX - len(self.records)
            kept = records[-room:] if room > 0 else ()
            self.records.extend(kept)
            self.left_out += len(records) - len(kept)

    def all(self) -> list[Said]:
        """A copy."""
        with self._lock:
            return list(self.records)


@dataclass
class AgentsCollector:
    """Implements parts.Collector: every connected process of a service tells its state and its last log records."""

    service: str
    live: Live
    order: Order
    gathered: Gathered
    budget_s: float = 10.0
    monotonic_s: Callable[[], float] = time.monotonic
    name: str = "agents"
    lane: str = LANE

    def plan(self) -> Sequence[Planned]:
        chosen, _ = self._chosen()
        what = "order of the capture kind `state`: threads, tasks, memory and the last log records"
        return [Planned(what, one.process.instance_id, "agent", "medium", self.budget_s) for one in chosen]

    def collect(self, sink: Sink, deadline_s: float) -> None:
        chosen, left_out = self._chosen()
        if left_out:
            sink.note(f"{left_out} more processes are connected; the {INSTANCES_MAX} that began last were asked.")
        if not chosen:
            sink.note(f"No process of {self.service} is connected now, so none could be asked for its state.")
            return
        answer_s = deadline_s - KEPT_BACK_S
        failed: dict[str, str] = {}
        pool = ThreadPoolExecutor(max_workers=len(chosen), thread_name_prefix="glassbottom-state")
        try:
            asked: dict[Future[bytes], str] = {
                pool.submit(self.order, one.process.instance_id, answer_s): one.process.instance_id for one in chosen
            }
            answered, silent = wait(asked, timeout=max(0.0, answer_s - self.monotonic_s()))
            failed.update((asked[each], "It did not answer in time.") for each in silent)
            for each in sorted(answered, key=lambda done: asked[done]):
                instance_id = asked[each]
                try:
                    self._keep(sink, instance_id, each.result())
                except CollectingError as error:
                    failed[instance_id] = str(error)
        finally:
            # One that hangs is left to its own deadline.
            pool.shutdown(wait=False, cancel_futures=True)
        if failed:
            told = "; ".join(f"{instance_id[:8]}: {sentence}" for instance_id, sentence in sorted(failed.items()))
            raise CollectingError(f"{len(failed)} of {len(chosen)} processes did not tell their state. {told}")

    def _chosen(self) -> tuple[list[InstanceLive], int]:
        connected = [one for one in self.live() if one.connected and one.process.service == self.service]
        # The latest first: a process that has just begun again is what an incident is about.
        connected.sort(key=lambda one: (-one.process.started_at_ns, one.process.instance_id))
        return connected[:INSTANCES_MAX], max(0, len(connected) - INSTANCES_MAX)

    def _keep(self, sink: Sink, instance_id: str, data: bytes) -> None:
        state, records = read_state(data)
        part = segment(instance_id)
        sink.json(f"state/{part}.json", state, node=instance_id, role="agent")
        if not records:
            sink.note(f"Process {instance_id[:8]} keeps no log records; see docs/agent.md for how it can.")
            return
        lines = [line for record in records for line in as_lines(record)]
        if len(lines) > LINES_MAX:
            sink.note(f"Of the log of {instance_id[:8]} the last {LINES_MAX} of {len(lines)} lines were kept.")
        sink.text(f"logs/{part}.log", "\n".join(lines[-LINES_MAX:]) + "\n", node=instance_id, role="agent")
        self.gathered.add([{**record, "instance_id": instance_id} for record in records])


def read_state(data: bytes) -> tuple[Any, list[dict[str, Any]]]:
    """The state and the log records of a process's answer. Raises CollectingError for one that is none."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise CollectingError("What it sent is no JSON; is its agent of another version?") from None
    if not isinstance(document, dict) or not isinstance(document.get("state"), dict):
        raise CollectingError("What it sent has no state; is its agent of another version?")
    logs = document.get("logs") or []
    records = [_record(one) for one in logs if isinstance(one, dict)] if isinstance(logs, list) else []
    # json.loads knows NaN and Infinity, which the files of an archive must not.
    return plain(document["state"]), records


def _record(told: Mapping[str, Any]) -> dict[str, Any]:
    at_ns = told.get("at_ns")
    texts = {name: str(told.get(name) or "") for name in ("level", "logger", "message", "exception")}
    return {"at_ns": at_ns if isinstance(at_ns, int) and 0 <= at_ns < 2**63 else 0, **texts}


def as_lines(record: Mapping[str, Any]) -> list[str]:
    """A record as lines of text, the time first, in UTC; a traceback below its message."""
    at_ns = int(record["at_ns"])
    when = f"{datetime.fromtimestamp(at_ns // 10**9, UTC):%Y-%m-%dT%H:%M:%S}.{at_ns % 10**9 // 1000:06d}Z"
    text = f"{when} {record['level'] or '-'} {record['logger'] or '-'}: {record['message']}"
    if record["exception"]:
        text += "\n" + record["exception"]
    return [line[:LINE_CHARACTERS_MAX] for line in text.splitlines()]


@dataclass
class LogFilesCollector:
    """Implements parts.Collector: the ends of the listed files, and of no others."""

    paths: Sequence[Path]
    gathered: Gathered
    budget_s: float = 4.0
    name: str = "logs.files"
    lane: str = LANE

    def plan(self) -> Sequence[Planned]:
        what = f"the last {LINES_MAX} lines, at most {FILE_BYTES_MAX} bytes"
        return [Planned(f"{path}: {what}", str(path), "file") for path in self._chosen()]

    def collect(self, sink: Sink, deadline_s: float) -> None:
        chosen = self._chosen()
        if len(self.paths) > len(chosen):
            sink.note(f"Only the first {FILES_MAX} listed log files are read; {len(self.paths) - len(chosen)} are not.")
        failed = []
        for path in chosen:
            if time.monotonic() >= deadline_s:
                raise CollectingError("There was not enough time to read the log files; list fewer in `log_files`.")
            try:
                lines, whole = last_lines(path)
            except OSError as error:
                failed.append(f"{path}: {error.strerror or error}")
                continue
            if not whole:
                sink.note(f"Of {path} only the end is kept: {len(lines)} lines.")
            text = "".join(f"{line}\n" for line in lines)
            sink.text(f"logs/files/{segment(str(path))}", text, node=str(path), role="file")
            self.gathered.add(lines)
        if failed:
            raise CollectingError(f"{len(failed)} of {len(chosen)} log files could not be read. {'; '.join(failed)}")

    def _chosen(self) -> list[Path]:
        return list(dict.fromkeys(self.paths))[:FILES_MAX]


def last_lines(path: Path, lines_max: int = LINES_MAX, bytes_max: int = FILE_BYTES_MAX) -> tuple[list[str], bool]:
    """The last lines of a file, and whether they are all of it. A line that does not begin within the bytes is left
    out. Raises OSError."""
    # A named pipe would wait for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("It is no regular file.")
        start = max(status.st_size - bytes_max, 0)
        file.seek(start)
        data = file.read(bytes_max)
    if start:
        data = data[data.find(b"\n") + 1 :] if b"\n" in data else b""
    lines = data.decode("utf-8", "replace").splitlines()
    kept = [line[:LINE_CHARACTERS_MAX] for line in lines[-lines_max:]]
    return kept, not start and len(lines) <= lines_max


@dataclass
class PatternsCollector:
    """Implements parts.Collector: what the logs say, how often; the last of its lane. new_since_ns: patterns that were
    not seen before are told as new, where a log reaches back beyond it."""

    gathered: Gathered
    new_since_ns: int | None = None
    budget_s: float = 6.0
    name: str = "logs.patterns"
    lane: str = LANE

    def plan(self) -> Sequence[Planned]:
        return [Planned("patterns of what the logs brought", "the collector", "collector")]

    def collect(self, sink: Sink, deadline_s: float) -> None:  # noqa: ARG002 - bounded by the number of records
        said = self.gathered.all()
        if not said:
            sink.note("There are no patterns: no process and no file brought a log.")
            return
        found = mine((one if isinstance(one, str) else _as_record(one) for one in said), self.new_since_ns)
        if self.gathered.left_out:
            sink.note(f"{self.gathered.left_out} more records were left out of the patterns.")
        if len(found) > PATTERNS_MAX:
            sink.note(f"The {PATTERNS_MAX} most frequent of {len(found)} patterns are listed.")
        document = {
            "schema": "glassbottom.incident.patterns/1",
            "said": len(said),
            "patterns_total": len(found),
            "patterns": [plain(one.as_json()) for one in found[:PATTERNS_MAX]],
        }
        sink.json("logs/patterns.json", document, node="the collector", role="collector")


def _as_record(told: Mapping[str, Any]) -> Record:
    return Record(told["message"], told["at_ns"], told["level"].upper(), told["logger"], told["exception"])


def collectors(
    service: str, live: Live, order: Order, *, log_files: Sequence[Path] = (), new_since_ns: int | None = None
) -> list[AgentsCollector | LogFilesCollector | PatternsCollector]:
    """Those that apply, in the order in which they have to run."""
    gathered = Gathered()
    found: list[AgentsCollector | LogFilesCollector | PatternsCollector] = [
        AgentsCollector(service, live, order, gathered)
    ]
    if log_files:
        found.append(LogFilesCollector(log_files, gathered))
    found.append(PatternsCollector(gathered, new_since_ns))
    return found
