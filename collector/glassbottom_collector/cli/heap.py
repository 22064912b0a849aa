"""Read a heap dump: who holds memory, and by which path.

`glassbottom dump heap` takes one. A dump is named by the id of its capture (a unique prefix is enough), or as a FILE,
which is read here and needs no collector. Without either, the newest of --service is read. WHAT is one of:

  suspects   what holds a suspiciously large part of the heap, and who holds that
  largest    the objects that retain most; of one type with --type
  types      all objects by type
  modules    all objects by the module that defines their type
  paths      from the roots to all objects of --type, or to the one at --object
  retained   what would be freed with --object, level by level; without it, the whole heap
  diff       what grew between two dumps, by who holds it

RETAINED is what would be freed with an object, SIZE its own memory. Weak references hold nothing. Exit code 3 when
suspects finds one.

examples:
  glassbottom heap suspects --service checkout
  glassbottom heap paths 4f2a9c1b --type app.ws.Session
  glassbottom heap retained /tmp/before.heap --object 0x7f21c4a03d40 --depth 3
  glassbottom heap retained 4f2a9c1b -o html --output retained.html
  glassbottom heap diff 4f2a9c1b a1b2c3d4
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from . import client, output
from .exits import UsageError

if TYPE_CHECKING:
    from .heap_answers import Questions

# A dump of millions of objects is loaded before the first answer.
TIMEOUT_S = 120
VERBS = ("suspects", "largest", "types", "modules", "paths", "retained", "diff")
LIMITS = {"largest": 20, "types": 30, "modules": 30, "paths": 5, "retained": 20, "diff": 30}
DEPTH = 2
DEPTH_MAX = 10
# What draws the tree; pprof's own tools speak of samples, and these are no samples.
GRAPHS = ("folded", "speedscope", "html")
# A flame graph shows more than a reader of rows takes in.
GRAPH_DEPTH = 10
GRAPH_LIMIT = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's options."""
    parser.usage = "glassbottom heap WHAT [DUMP ...] [options]"
    parser.add_argument("what", metavar="WHAT", nargs="?", choices=VERBS, help=", ".join(VERBS))
    parser.add_argument("dumps", metavar="DUMP", nargs="*", help="id of a capture, or a file; two of them for diff")
    client.add_service_arguments(parser)
    # Without defaults here, so that it can be told which of them was typed.
    parser.add_argument("--type", metavar="TYPE", help="objects of this type, such as app.ws.Session; largest, paths")
    parser.add_argument("--object", metavar="ADDRESS", help="this object, as rows show it (0x…); paths, retained")
    parser.add_argument(
        "--depth", metavar="N", type=int, help=f"levels below it, at most {DEPTH_MAX} ({DEPTH}); retained"
    )
    parser.add_argument("--limit", metavar="N", type=int, help="at most so many rows (20 to 30; paths 5)")
    output.add_arguments(parser, (*output.TABLE_OR_JSON, *GRAPHS))
    client.add_arguments(parser, TIMEOUT_S)


def run(args: argparse.Namespace) -> int:
    """Asks and writes."""
    _check(args)
    files = [is_file(name) for name in args.dumps]
    if any(files) and not all(files):
        raise UsageError(
            "one dump is a file and the other a capture; name both in the same way: "
            "`glassbottom captures --help` says how to fetch a capture as a file."
        )
    if any(files):
        from .heap_files import Files

        if args.service or args.instance:
            raise UsageError("--service and --instance choose among captures; a file needs neither.")
        return _answer(args, Files(), "")
    with client.asking_dumps(args) as (query, questions):
        service = "" if args.dumps else client.service_name(args, query)
        return _answer(args, questions, service)


def is_file(name: str) -> bool:
    """Whether a dump is named by its file: the name of one that exists, or what can only be a path."""
    return os.sep in name or not all(letter in "0123456789abcdef" for letter in name) or Path(name).is_file()


def _answer(args: argparse.Namespace, questions: Questions, service: str) -> int:
    from . import heap_answers

    return heap_answers.ANSWERS[args.what](args, questions, service)


def _check(args: argparse.Namespace) -> None:
    """Raises UsageError for options that WHAT has not; settles defaults."""
    what = args.what
    if what is None:
        raise UsageError(f"WHAT is missing; it is one of {', '.join(VERBS)}; see glassbottom heap --help.")
    for option, value, verbs in (
        ("--type", args.type, ("largest", "paths")),
        ("--object", args.object, ("paths", "retained")),
        ("--depth", args.depth, ("retained",)),
        ("--limit", args.limit, tuple(LIMITS)),
    ):
        if value is not None and what not in verbs:
            raise UsageError(f"{option} is for {' and '.join(verbs)}, not for {what}.")
    graph = args.format in GRAPHS
    if graph and what != "retained":
        raise UsageError(f"-o {args.format} draws the tree of retained; {what} has rows: use -o table or json.")
    if what == "paths" and (args.type is None) == (args.object is None):
        raise UsageError("paths needs either --type TYPE or --object ADDRESS.")
    wanted = 2 if what == "diff" else 1
    if len(args.dumps) > wanted or (what == "diff" and len(args.dumps) < 2):
        raise UsageError(
            f"{what} reads {'two dumps, the earlier one first' if what == 'diff' else 'one dump'}, "
            f"and {len(args.dumps)} {'is' if len(args.dumps) == 1 else 'are'} named."
        )
    args.address = 0 if args.object is None else _address(args.object)
    args.limit = (GRAPH_LIMIT if graph else LIMITS.get(what, 0)) if args.limit is None else args.limit
    args.depth = (GRAPH_DEPTH if graph else DEPTH) if args.depth is None else args.depth
    if not 1 <= args.depth <= DEPTH_MAX:
        raise UsageError(f"--depth must be between 1 and {DEPTH_MAX}.")


def _address(text: str) -> int:
    try:
        address = int(text, 0)
    except ValueError:
        address = 0
    if not 0 < address < 1 << 64:
        raise UsageError(f"--object {text} is no address of an object, such as 0x7f21c4a03d40.")
    return address
