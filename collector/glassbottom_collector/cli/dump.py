"""Look deeply into one process: its heap, its threads, its allocator.

  heap     every object and who refers to it, from a clone of the process that goes on meanwhile
  memray   every allocation for a while, native ones as well
  stacks   where every thread is now
  cpu      where every thread spends its time for a while
  gc       collect garbage now, and tell what that freed
  trim     give free memory of the C allocator back, and tell how much that was
  state    how the process is now: configuration, packages, threads, tasks, the last lines it logged, as JSON

Only one is done at a time in a process, and only what its own configuration allows (GLASSBOTTOM_COMMANDS). It is called
off when you press Ctrl-C, unless you --detach, and ends with its lease in any case. The file stays with the collector,
and --output, or -o, writes it here as well; `glassbottom captures` lists all that was ever asked for. Exit code 4 when
it is refused, 1 when it fails.

examples:
  glassbottom dump heap --service checkout -o checkout.heap
  glassbottom dump cpu --service checkout --instance 4f2a --for 30s
"""

from __future__ import annotations

import argparse
import getpass
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from . import client, output
from .exits import CliError, Exit, UsageError
from .formats.table import Column, Report
from .text import count, duration, elapsed, share, size
from .timespec import SECOND_NS, length_ns

if TYPE_CHECKING:
    from glassbottom.wire.v1 import control_pb2
    from glassbottom.wire.v1.control_pb2_grpc import ControlServiceStub

WHAT = {
    "heap": "COMMAND_KIND_DUMP_HEAP",
    "memray": "COMMAND_KIND_DUMP_MEMRAY",
    "stacks": "COMMAND_KIND_DUMP_STACKS",
    "cpu": "COMMAND_KIND_DUMP_CPU",
    "gc": "COMMAND_KIND_GC_COLLECT",
    "trim": "COMMAND_KIND_MALLOC_TRIM",
    "state": "COMMAND_KIND_STATE",
}
UNITS = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's options."""
    parser.add_argument("what", metavar="WHAT", choices=tuple(WHAT), help=", ".join(WHAT))
    client.add_service_arguments(parser)
    parser.add_argument("--for", dest="watch", metavar="LENGTH", default="", help="how long to watch (as WHAT likes)")
    parser.add_argument("--max-bytes", metavar="SIZE", default="", help="largest file (as the collector allows)")
    parser.add_argument("--lease", metavar="LENGTH", default="15m", help="how long it may take altogether (15m)")
    parser.add_argument(
        "--option", metavar="NAME=VALUE", action="append", default=[], help="for WHAT alone; docs/captures.md has them"
    )
    parser.add_argument("--detach", action="store_true", help="do not wait; it goes on by itself")
    group = parser.add_argument_group("output")
    group.add_argument(
        "-o", "--format", metavar="FORMAT|FILE", default="table", help="table, json, or where to write the file (table)"
    )
    group.add_argument("--output", dest="file", metavar="FILE", type=Path, help="write the file of the capture there")
    parser.set_defaults(output=None)
    client.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Orders, waits, fetches and tells."""
    from glassbottom.wire.v1 import ingest_pb2
    from glassbottom.wire.v1.control_pb2 import CaptureRequest

    from .formats import json_captures as json

    if args.format not in output.TABLE_OR_JSON:
        if args.file is not None:
            raise UsageError(f"both -o {args.format} and --output {args.file} name a file; give one.")
        args.file, args.format = Path(args.format), "table"
    if args.file is not None and args.detach:
        raise UsageError("--detach does not wait for the file; fetch it later with `glassbottom captures get`.")
    lease_s = length_ns(args.lease) / SECOND_NS
    request = CaptureRequest(
        instance_id=args.instance,
        kind=ingest_pb2.CommandKind.Value(WHAT[args.what]),
        seconds=length_ns(args.watch) / SECOND_NS if args.watch else 0.0,
        bytes_max=_bytes(args.max_bytes) if args.max_bytes else 0,
        lease_seconds=lease_s,
        options=dict(_options(args.option)),
        asked_by=who(),
        detached=args.detach,
    )
    with client.controlling(args) as (query, control):
        request.service = client.service_name(args, query)
        record = _follow(args, control, request, lease_s)
        written = None
        if args.file is not None and record.file_bytes and json.state(record) == "stored":
            fetch(control, record.id, args.file, args.timeout)
            written = args.file
    if not record.instance_id and json.state(record) == "refused":
        raise CliError(record.reason)
    output.answer(args, lambda: report(record, written), lambda: json.dump(record, written))
    return exit_code(record)


def fetch(control: ControlServiceStub, capture_id: str, path: Path, timeout_s: float) -> None:
    """Writes the file of a capture to path, which is there only when it is whole. Raises CliError."""
    from glassbottom.wire.v1.control_pb2 import ReadCaptureRequest

    beside = path.with_name(f"{path.name}.part")
    try:
        with output.Progress() as progress, beside.open("wb") as file:
            total = 0
            for piece in control.ReadCapture(ReadCaptureRequest(id=capture_id), timeout=max(timeout_s, 3600.0)):
                if piece.HasField("record"):
                    total = piece.record.file_bytes
                file.write(piece.data)
                progress.show("fetching MiB", file.tell() >> 20, total >> 20)
            if file.tell() != total:
                raise CliError(f"the collector sent {file.tell()} of {total} bytes; try `glassbottom captures get`.")
        beside.replace(path)
    except OSError as error:
        raise CliError(f"cannot write {path}: {error.strerror}.") from None
    finally:
        beside.unlink(missing_ok=True)


def report(record: control_pb2.CaptureRecord, written: Path | None = None) -> Report:
    """What is known of one capture, for a person."""
    from .formats import json_captures as json

    state = json.state(record)
    found = Report()
    instance = f" {record.instance_id[:8]}" if record.instance_id else ""
    found.line(f"{json.kind(record)} of {record.service}{instance}: {_state(record, state)}", json.STYLES[state])
    if record.reason:
        found.line(record.reason, hanging=2)
    facts = [[name, _number(name, value)] for name, value in sorted(record.numbers.items())]
    facts += [[name, text] for name, text in sorted(record.texts.items())]
    if facts:
        found.table([Column("FACT"), Column("VALUE", flexible=True)], facts)
    if written is not None:
        found.line(f"written to {written}")
    elif state == "stored" and record.deleted_at_ns:
        found.line("Its file was deleted for its age, or to make room.")
    elif state == "stored" and record.file_bytes:
        found.line(f"`glassbottom captures get {record.id[:8]} --output FILE` writes its file here.")
    elif state in ("ordered", "running", "uploading"):
        found.line(f"`glassbottom captures show {record.id[:8]}` shows how far it is.")
    return found


def exit_code(record: control_pb2.CaptureRecord) -> int:
    """How a command about this capture ends."""
    from .formats import json_captures as json

    return {"refused": Exit.REFUSED, "failed": Exit.ERROR}.get(json.state(record), Exit.OK)


def _follow(
    args: argparse.Namespace, control: ControlServiceStub, request: control_pb2.CaptureRequest, lease_s: float
) -> control_pb2.CaptureRecord:
    from .formats import json_captures as json

    record: control_pb2.CaptureRecord | None = None
    with output.Progress() as progress:
        for response in control.Capture(request, timeout=lease_s + args.timeout):
            record = response.record
            state = json.state(record)
            if args.detach and state != "ordered":
                break
            sending = state == "uploading"
            done, total = (record.stored_bytes >> 20, record.file_bytes >> 20) if sending else (0, 0)
            progress.show(f"{json.kind(record)} {state}{' MiB' if sending else ''}", done, total)
    if record is None:
        raise CliError("the collector said nothing about the capture; `glassbottom captures` may show more.")
    return record


def _state(record: control_pb2.CaptureRecord, state: str) -> str:
    parts = [state]
    if record.file_bytes:
        stored = "" if state == "stored" else f"{size(record.stored_bytes)} of "
        parts.append(f"{stored}{size(record.file_bytes)}")
    if record.ended_at_ns:
        seconds = (record.ended_at_ns - record.asked_at_ns) / SECOND_NS
        parts.append(f"after {elapsed(seconds) if seconds < 1 else duration(seconds)}")
    return f"{', '.join(parts)} (capture {record.id[:8]})"


def _number(name: str, value: float) -> str:
    """By the unit that its name ends in."""
    if name == "seconds":
        return elapsed(value)
    if name.endswith("_per_s"):
        return f"{_number(name.removesuffix('_per_s'), value)}/s"
    if name.endswith("_bytes"):
        return size(value)
    for unit, seconds in (("_ns", 1e-9), ("_us", 1e-6), ("_ms", 1e-3), ("_s", 1.0)):
        if name.endswith(unit):
            return elapsed(value * seconds)
    if name.endswith("_ratio"):
        return share(value, 1.0)
    return count(value)


def _options(texts: list[str]) -> Iterator[tuple[str, str]]:
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise UsageError(f"--option {text} is not NAME=VALUE.")
        yield name, value


def _bytes(text: str) -> int:
    number = text.rstrip("BbIiKkMmGg ")
    unit = text[len(number) :].strip().lower()
    if not number.isdecimal() or unit not in UNITS or not int(number):
        raise UsageError(f"--max-bytes {text} is not a size; use 4096, 512MiB or 2GiB.")
    return int(number) * UNITS[unit]


def who() -> str:
    """Whoever types, as the machine calls him; empty where it does not."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError, ImportError):  # no such user, as in many containers
        return ""
