"""Check beforehand whether a capture would work.

The collector looks at every source of its configuration, changes nothing, and says what to do about what is wrong. Exit
code 3 when something would fail.

examples:
  glassbottom doctor
  glassbottom doctor --service checkout -o json
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from . import client, output
from .exits import Exit
from .formats.table import Cell, Column, Report

if TYPE_CHECKING:
    from collections.abc import Sequence

    from glassbottom.wire.v1 import incident_pb2

STYLES = {"ok": "green", "warning": "yellow", "failed": "red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's options."""
    parser.add_argument("--service", metavar="NAME", default="", help="only the sources of this service (all)")
    output.add_arguments(parser)
    client.add_arguments(parser, 60)


def run(args: argparse.Namespace) -> int:
    """Asks and tells."""
    from glassbottom.wire.v1.incident_pb2 import ExamineSourcesRequest

    from .formats import json_incidents as json

    with client.capturing(args) as (_, incidents):
        checks = incidents.ExamineSources(ExamineSourcesRequest(service=args.service), timeout=args.timeout).checks
    output.answer(args, lambda: report(checks), lambda: json.checks(checks))
    return Exit.FINDING if any(check.state == "failed" for check in checks) else Exit.OK


def report(checks: Sequence[incident_pb2.SourceCheck]) -> Report:
    """All of them for a person."""
    found = Report()
    if not checks:
        found.line("There is nothing to check: the collector's configuration names no databases (docs/capture.md).")
        return found
    columns = [Column("SOURCE"), Column("CHECK"), Column("STATE"), Column("WHAT WAS FOUND", flexible=True)]
    rows: list[list[Cell | str]] = [
        [check.source, check.name, Cell(check.state, STYLES.get(check.state, "")), check.sentence] for check in checks
    ]
    found.table(columns, rows)
    return found
