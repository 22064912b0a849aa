"""What `top` and `diff` have in common: what rows stand for, and whole profiles instead of rows."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from . import output
from .exits import UsageError
from .formats.table import Column, Place
from .text import size

if TYPE_CHECKING:
    from glassbottom.wire.v1.query_pb2 import GroupBy, Site
    from glassbottom.wire.v1.query_pb2_grpc import QueryServiceStub

GROUPINGS = ("line", "function", "file", "type")
LIMIT = 20

# As many types as a reader takes in; JSON has them all.
_TYPES_SHOWN = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `--by` and `--limit`."""
    # Without defaults here, so that `profile_wanted` can tell what was typed.
    parser.add_argument("--by", choices=GROUPINGS, metavar="WHAT", help=f"a row is a {', '.join(GROUPINGS)} (line)")
    parser.add_argument("--limit", metavar="N", type=int, help=f"at most so many rows ({LIMIT})")


def profile_wanted(args: argparse.Namespace) -> bool:
    """True for the formats that show whole call paths; settles the defaults of `--by` and `--limit` otherwise."""
    if args.format in output.PROFILE_FORMATS:
        if args.by or args.limit is not None:
            raise UsageError(f"-o {args.format} has every call path; --by and --limit are for tables and JSON.")
        output.refuse_binary_on_a_terminal(args)
        return True
    if args.limit is not None and args.limit < 1:
        raise UsageError("--limit must be at least 1.")
    args.by = args.by or GROUPINGS[0]
    args.limit = LIMIT if args.limit is None else args.limit
    return False


def group_by(args: argparse.Namespace) -> GroupBy.ValueType:
    """The wire's word for `--by`."""
    from glassbottom.wire.v1 import query_pb2

    return query_pb2.GroupBy.Value(f"GROUP_BY_{args.by.upper()}")


def write_profile(
    args: argparse.Namespace, query: QueryServiceStub, service: str, at_ns: int, before_ns: int = 0
) -> None:
    """Fetches every call path and writes it in the format asked for."""
    from glassbottom.wire.v1.query_pb2 import ProfileRequest, Selector

    from . import profile
    from .formats import folded, html, pprof, speedscope

    request = ProfileRequest(
        selector=Selector(service=service, instance_id=args.instance), at_ns=at_ns, before_ns=before_ns
    )
    with output.Progress() as progress:
        pieces = query.Profile(request, timeout=args.timeout)
        whole = profile.assemble(
            pieces, service, at_ns, before_ns, lambda paths: progress.show("reading call paths:", paths)
        )
    if args.format == "pprof":
        output.write_bytes(args, pprof.encode(whole))
    else:
        encode = {"folded": folded.encode, "speedscope": speedscope.encode, "html": html.encode}[args.format]
        output.write_text(args, encode(whole))


def place_columns(by: str) -> list[Column]:
    """Columns for where a row is, and what it holds unless the row is a type."""
    if by == "type":
        return [Column("TYPE", flexible=True)]
    return [Column("WHERE", flexible=True), Column("HOLDS", beneath="WHERE")]


def place_cells(site: Site) -> list[str | Place]:
    """Cells for those columns."""
    if site.type:
        return [Place(site.type, "")]
    return [Place(site.frame.function, site.frame.file, site.frame.line), types(site)]


def types(site: Site) -> str:
    """What a site holds: `bytes 300 MiB, dict 12.0 MiB`."""
    shown = [f"{each.type} {size(each.live_bytes)}" for each in site.types[:_TYPES_SHOWN]]
    more = len(site.types) - len(shown)
    return ", ".join(shown) + (f", {more} more" if more > 0 else "")
