"""List captures that were asked for, fetch a file, call one off.

Refused and failed ones are listed as well, with the reason and who asked. `glassbottom dump` orders them. An id may be
shortened to what is unique.

examples:
  glassbottom captures --service checkout
  glassbottom captures show 5a6b7c8d
  glassbottom captures get 5a6b7c8d --output checkout.heap
  glassbottom captures cancel 5a6b7c8d
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from . import client, dump, output
from .exits import CliError, Exit, UsageError
from .formats.table import Cell, Column, Report
from .text import duration, moment, share, size
from .timespec import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from glassbottom.wire.v1 import control_pb2

LISTED = 50
ALL = 1_000_000
WORDS = ("list", "show", "get", "cancel")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's options."""
    parser.add_argument("words", nargs="*", metavar="WORD", help="list (when left out), or show, get or cancel ID")
    parser.add_argument("--service", metavar="NAME", default="", help="list: only this one (all)")
    parser.add_argument("--limit", metavar="N", type=int, default=LISTED, help=f"list: at most so many ({LISTED})")
    output.add_arguments(parser)
    client.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Lists, shows, fetches or calls off."""
    word, *ids = args.words or ["list"]
    if word not in WORDS:
        raise UsageError(f"captures {word} is not known; use captures {', '.join(WORDS[:-1])} or {WORDS[-1]}.")
    if len(ids) != (word != "list"):
        raise UsageError(f"captures {word} takes {'no id' if word == 'list' else 'one id, or its beginning'}.")
    return _list(args) if word == "list" else _one(args, word, ids[0])


def _list(args: argparse.Namespace) -> int:
    from glassbottom.wire.v1.control_pb2 import ListCapturesRequest

    from .formats import json_captures as json

    with client.controlling(args) as (_, control):
        request = ListCapturesRequest(service=args.service, limit=args.limit)
        records = control.ListCaptures(request, timeout=args.timeout).records
    output.answer(args, lambda: _table(records), lambda: json.captures(records))
    return Exit.OK


def _one(args: argparse.Namespace, word: str, capture_id: str) -> int:
    from glassbottom.wire.v1.control_pb2 import CancelCaptureRequest, ListCapturesRequest

    from .formats import json_captures as json

    written: Path | None = None
    with client.controlling(args) as (_, control):
        if word == "cancel":
            request = CancelCaptureRequest(id=capture_id, asked_by=dump.who())
            record = control.CancelCapture(request, timeout=args.timeout).record
        else:
            records = control.ListCaptures(ListCapturesRequest(limit=ALL), timeout=args.timeout).records
            record = _found(records, capture_id)
            if word == "get":
                if args.output is None:
                    raise UsageError("captures get writes to a file; add --output FILE.")
                dump.fetch(control, record.id, args.output, args.timeout)
                written, args.output = args.output, None
    output.answer(args, lambda: dump.report(record, written), lambda: json.dump(record, written))
    return Exit.OK


def _found(records: Sequence[control_pb2.CaptureRecord], capture_id: str) -> control_pb2.CaptureRecord:
    found = [record for record in records if capture_id and record.id.startswith(capture_id)]
    if not found:
        raise CliError(f"there is no capture {capture_id}; `glassbottom captures` lists what was asked for.")
    if len(found) > 1:
        raise UsageError(f"{len(found)} captures have an id that begins with {capture_id}; give more of it.")
    return found[0]


def _table(records: Sequence[control_pb2.CaptureRecord]) -> Report:
    from .formats import json_captures as json

    report = Report()
    if not records:
        report.line("Nothing was captured yet; `glassbottom dump` does.")
        return report
    columns = [
        Column("CAPTURE"),
        Column("KIND"),
        Column("SERVICE", flexible=True),
        Column("STATE"),
        Column("FILE", right=True),
        Column("TOOK", right=True),
        Column("ASKED", beneath="SERVICE"),
        Column("BY", beneath="SERVICE", label="by "),
        Column("REASON", beneath="SERVICE"),
    ]
    report.table(columns, [_row(record, json.state(record), json.kind(record)) for record in records])
    return report


def _row(record: control_pb2.CaptureRecord, state: str, kind: str) -> list[Cell | str]:
    from .formats import json_captures as json

    file = size(record.file_bytes) if record.file_bytes else ""
    if record.deleted_at_ns:
        file = "deleted"
    elif state == "uploading":
        file = f"{share(record.stored_bytes, record.file_bytes)} of {file}"
    took = duration((record.ended_at_ns - record.asked_at_ns) / SECOND_NS) if record.ended_at_ns else ""
    return [
        record.id[:8],
        kind,
        f"{record.service} {record.instance_id[:8]}".rstrip(),
        Cell(state, json.STYLES[state]),
        file,
        took,
        moment(record.asked_at_ns),
        record.asked_by,
        record.reason,
    ]
