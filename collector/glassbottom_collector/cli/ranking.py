"""What `top` and `diff` have in common: what rows stand for, and when whole profiles are wanted instead of rows."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from . import output
from .exits import UsageError
from .formats.table import Column, Place
from .text import size

if TYPE_CHECKING:
    from glassbottom.wire.v1.query_pb2 import GroupBy, Site

GROUPINGS = ("line", "function", "file", "type", "route")
LIMIT = 20

# As many types and routes as a reader takes in; JSON has them all.
_SHARES_SHOWN = 3


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
    args.by = args.by or GROUPINGS[0]
    args.limit = LIMIT if args.limit is None else args.limit
    return False


def group_by(args: argparse.Namespace) -> GroupBy.ValueType:
    """The wire's word for `--by`."""
    from glassbottom.wire.v1 import query_pb2

    return query_pb2.GroupBy.Value(f"GROUP_BY_{args.by.upper()}")


def place_columns(by: str) -> list[Column]:
    """Columns for where a row is, what it holds unless the row is a type, and whom it serves unless it is a route."""
    if by == "type":
        return [Column("TYPE", flexible=True), Column("ROUTES", beneath="TYPE", label="for ")]
    if by == "route":
        return [Column("ROUTE", flexible=True), Column("HOLDS", beneath="ROUTE")]
    return [
        Column("WHERE", flexible=True),
        Column("HOLDS", beneath="WHERE"),
        Column("ROUTES", beneath="WHERE", label="for "),
    ]


def place_cells(site: Site, by: str) -> list[str | Place]:
    """Cells for those columns."""
    if by == "type":
        return [Place(site.type, ""), routes(site)]
    if by == "route":
        return [site.type or "outside any route", types(site)]
    return [Place(site.frame.function, site.frame.file, site.frame.line), types(site), routes(site)]


def types(site: Site) -> str:
    """What a site holds: `bytes 300 MiB, dict 12.0 MiB`."""
    return _shares([(each.type, each.live_bytes) for each in site.types])


def routes(site: Site) -> str:
    """What was served when it was allocated: `GET /orders/{id} 300 MiB, POST /orders 12.0 MiB`."""
    return _shares([(each.route, each.live_bytes) for each in site.routes])


def _shares(shares: list[tuple[str, float]]) -> str:
    shown = [f"{name} {size(live_bytes)}" for name, live_bytes in shares[:_SHARES_SHOWN]]
    more = len(shares) - len(shown)
    return ", ".join(shown) + (f", {more} more" if more > 0 else "")
