"""Draw a flame graph of CPU time, wall time or memory.

On a terminal, -o html, speedscope and pprof go to a file in the current directory whose name is said; in a pipe, and
with --output, they go where they are sent. folded is text and goes to the terminal. Values are nanoseconds (cpu,
wall), bytes (_space) or objects (_objects). Threads are sampled 10 to 19 times a second, so cpu and wall want minutes.

cpu and wall are sums over a range (--from, --to); inuse_ and alloc_ are the heap at a moment (--at), of which alloc_
counts what was ever allocated since sampling began.

examples:
  glassbottom flame --service checkout
  glassbottom flame --service checkout --type wall --from 1h --split thread --output wall.html
  glassbottom flame --service checkout --type inuse_space --route "GET /orders/{id}" -o folded
  glassbottom flame --service checkout -o pprof --output cpu.pb.gz && go tool pprof -http=: cpu.pb.gz
"""

from __future__ import annotations

import argparse
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from . import client, output
from .exits import CliError, Exit, UsageError
from .text import safe
from .timespec import moment_ns, now_ns, range_ns

if TYPE_CHECKING:
    from glassbottom.wire.v1.query_pb2 import ProfileRequest

    from .profile import Profile

TIMES = ("cpu", "wall")
TYPES = (*TIMES, "inuse_space", "inuse_objects", "alloc_space", "alloc_objects")
SPLITS = ("route", "thread", "task")
FORMATS = ("html", "folded", "speedscope", "pprof")
SUFFIXES = {"html": ".html", "speedscope": ".speedscope.json", "pprof": ".pb.gz"}
RANGE = "10m"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's options."""
    client.add_service_arguments(parser)
    parser.add_argument("--type", choices=TYPES, metavar="TYPE", default="cpu", help=f"{', '.join(TYPES)} (cpu)")
    parser.add_argument("--route", metavar="ROUTE", default="", help='only this request, such as "GET /orders/{id}"')
    parser.add_argument("--thread", metavar="NAME", default="", help="only threads of this name; cpu and wall")
    parser.add_argument("--split", choices=SPLITS, metavar="WHAT", help=f"{', '.join(SPLITS)} as outermost frames")
    # Without defaults here, so that it can be told which of them was typed.
    parser.add_argument("--from", dest="start", metavar="TIME", help=f"beginning of the sum; cpu and wall ({RANGE})")
    parser.add_argument("--to", dest="end", metavar="TIME", help="end of the sum; cpu and wall (now)")
    parser.add_argument("--at", metavar="TIME", help="the heap as it was then; inuse_ and alloc_ (now)")
    output.add_arguments(parser, FORMATS)
    client.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Asks and writes."""
    from_ns, at_ns = _when(args, now_ns())
    from glassbottom.wire.v1 import query_pb2

    from . import profile_files
    from .profile import MEASURES

    with client.querying(args) as query:
        service = client.service_name(args, query)
        request = query_pb2.ProfileRequest(
            selector=query_pb2.Selector(service=service, instance_id=args.instance),
            at_ns=at_ns,
            kind=query_pb2.PROFILE_KIND_TIME if args.type in TIMES else query_pb2.PROFILE_KIND_HEAP,
            from_ns=from_ns,
            route=args.route,
            thread=args.thread,
        )
        about = ", ".join(f"{word} {name}" for word, name in _narrowed_to(request) if name)
        whole = profile_files.fetch(args, query, request, MEASURES[args.type], about)
    if not any(getattr(path.values, whole.shown.field) for path in whole.paths):
        raise CliError(_nothing(whole, args))
    if args.split:
        whole = whole.split(args.split)
    file = None
    if args.output is None and args.format in SUFFIXES and sys.stdout.isatty():
        file = args.output = Path(_file_name(service, args, at_ns))
    profile_files.write(args, whole)
    if file is not None:
        print(f"glassbottom flame: wrote {safe(str(file))}", file=sys.stderr)
    return Exit.OK


def _when(args: argparse.Namespace, now_ns: int) -> tuple[int, int]:
    """First moment (0 of a heap) and last. Raises UsageError for options that the type has not."""
    if args.type in TIMES:
        if args.at is not None:
            raise UsageError(f"--at is for the heap; {args.type} is a sum over time: use --from and --to.")
        return range_ns(RANGE if args.start is None else args.start, args.end or "now", now_ns)
    if args.start is not None or args.end is not None:
        raise UsageError(f"--from and --to are for cpu and wall; {args.type} is the heap at a moment: use --at.")
    if args.thread or args.split in {"thread", "task"}:
        raise UsageError("memory belongs to no thread; --thread, --split thread and --split task are for cpu and wall.")
    return 0, moment_ns(args.at or "now", now_ns)


def _narrowed_to(request: ProfileRequest) -> list[tuple[str, str]]:
    return [("route", request.route), ("thread", request.thread), ("process", request.selector.instance_id)]


def _nothing(whole: Profile, args: argparse.Namespace) -> str:
    narrowed = f" ({whole.about})" if whole.about else ""
    if not whole.is_time:
        return f"no sampled allocation of {whole.service}{narrowed} by then; `glassbottom status` shows its samplers."
    hint = "try --type wall" if args.type == "cpu" else "`glassbottom status` shows whether its agents sample threads"
    return f"no sample of {whole.service}{narrowed} in this range has {whole.shown.title}; {hint}, or a longer range."


def _file_name(service: str, args: argparse.Namespace, at_ns: int) -> str:
    # A service may be called anything; a file of ours may not lie elsewhere for that.
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", service)
    stamp = f"{datetime.fromtimestamp(at_ns // 10**9, UTC):%Y%m%dT%H%M%SZ}"
    return f"{name}-{args.type}-{stamp}{SUFFIXES[args.format]}"
