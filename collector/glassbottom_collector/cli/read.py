"""Read what memray or py-spy recorded: a capture, or a FILE.

`glassbottom dump memray|stacks|cpu` takes one. A capture is named by its id (a unique prefix is enough) and read by the
collector; a FILE is read here, whoever made it: of memray, of `py-spy dump --json` or of `py-spy record --format raw`.

-o pprof, html, speedscope and folded write what was recorded as other tools read it. In pprof threads are labels, in
the others the outermost frames.

Of memray, rows are call paths by what they allocated in the window and did not free in it; PEAK is what they held when
most was held. Memory that only lives longer than the window looks the same as a leak. The agent's own threads are left
out unless --own-threads.

examples:
  glassbottom read 5a6b7c8d
  glassbottom read stacks.json
  glassbottom read 5a6b7c8d -o html --output cpu.html
  glassbottom read 5a6b7c8d -o pprof --output cpu.pb.gz && go tool pprof -http=: cpu.pb.gz
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from . import client, output, places
from .exits import Exit
from .formats.table import Column, Place, Report
from .heap import is_file
from .text import count, plural, share, size

if TYPE_CHECKING:
    from glassbottom.wire.v1 import recordings_pb2

LIMIT = 30
ALL = 10_000
# As many frames of a path as a reader takes in; all other formats have all.
FRAMES_SHOWN = 8
# A large file of memray's is read before the first answer.
TIMEOUT_S = 150


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's options."""
    parser.add_argument("recording", metavar="CAPTURE|FILE", help="id of a capture, or a file")
    parser.add_argument("--limit", metavar="N", type=int, help=f"at most so many call paths ({LIMIT}; drawn {ALL})")
    parser.add_argument("--own-threads", action="store_true", help="the agent's own threads as well")
    output.add_arguments(parser, (*output.TABLE_OR_JSON, *output.PROFILE_FORMATS))
    client.add_arguments(parser, TIMEOUT_S)


def run(args: argparse.Namespace) -> int:
    """Asks and writes."""
    from glassbottom.wire.v1.recordings_pb2 import ReadRecordingRequest

    from .formats import json_recordings

    output.refuse_binary_on_a_terminal(args)
    limit = (ALL if args.format in output.PROFILE_FORMATS else LIMIT) if args.limit is None else args.limit
    request = ReadRecordingRequest(capture_id=args.recording, limit=limit, own_threads=args.own_threads)
    if is_file(args.recording):
        from . import recorded_files

        response = recorded_files.read(args.recording, request)
    else:
        with client.reading(args) as recordings:
            response = recordings.ReadRecording(request, timeout=args.timeout)
    if args.format == "folded":
        output.write_text(args, _folded(response))
    elif args.format in output.PROFILE_FORMATS:
        _draw(args, response)
    else:
        output.answer(args, lambda: _report(response), lambda: json_recordings.recording(response))
    return Exit.OK


def _draw(args: argparse.Namespace, response: recordings_pb2.ReadRecordingResponse) -> None:
    from . import profile_files, recorded_graph

    name = f"capture {response.capture_id[:8]}" if response.capture_id else Path(args.recording).name
    whole = recorded_graph.profile(response, name)
    is_by_thread = any(path.labels.thread for path in whole.paths)
    profile_files.write(args, whole.split("thread") if is_by_thread and args.format != "pprof" else whole)


def _folded(response: recordings_pb2.ReadRecordingResponse) -> str:
    """A call path and its value a line, outermost frame first, as flamegraph.pl reads it."""
    lines = []
    for path in response.paths:
        frames = [places.place(frame).text().replace(";", ",") for frame in reversed(path.frames)]
        names = [path.thread.replace(";", ",")] if path.thread else []
        if round(path.value) > 0:
            lines.append(f"{';'.join([*names, *frames]) or '?'} {round(path.value)}\n")
    return "".join(lines)


def _report(response: recordings_pb2.ReadRecordingResponse) -> Report:
    report = Report()
    if response.kind == "dump_stacks":
        _add_stacks(report, response)
    else:
        _add_paths(report, response)
    if response.more:
        report.line()
        report.line(f"{plural(response.more, 'more path')} not shown; --limit shows more.", "dim")
    return report


def _add_stacks(report: Report, response: recordings_pb2.ReadRecordingResponse) -> None:
    report.line(f"{plural(response.total, 'thread')}", "bold")
    for path in response.paths:
        report.line()
        report.line(f"{path.thread or 'a thread without a name'}: {path.note}", "bold")
        places.add_path(report, path.frames, None, 2)


def _add_paths(report: Report, response: recordings_pb2.ReadRecordingResponse) -> None:
    memory = response.kind == "dump_memray"
    show = size if memory else count
    what = "allocated and not freed in the window" if memory else "samples of threads that were not waiting"
    peak = f"; {size(response.peak_bytes)} at the peak" if memory else ""
    report.line(f"{show(response.total)} {what}{peak}", "bold")
    if not response.paths:
        return
    report.line()
    columns = [
        Column("KEPT" if memory else "SAMPLES", right=True),
        Column("SHARE", right=True),
        *([Column("BLOCKS", right=True), Column("PEAK", right=True), Column("BY")] if memory else []),
        Column("WHERE", flexible=True),
        *([] if memory else [Column("THREAD", beneath="WHERE", label="in ")]),
    ]
    rows: list[list[str | Place]] = []
    for path in response.paths:
        where = places.place(path.frames[0]) if path.frames else Place("?", "")
        extra = [count(path.count), size(path.peak_bytes), path.note] if memory else []
        row: list[str | Place] = [show(path.value), share(path.value, response.total), *extra, where]
        rows.append(row if memory else [*row, path.thread])
    report.table(columns, rows)
    top = response.paths[0]
    if len(top.frames) > 1:
        report.line()
        report.line("The first of them was reached by", "dim")
        places.add_path(report, top.frames, FRAMES_SHOWN, 2)
