"""Have every process of a service read its heap now.

Returns when all have answered and what they sent is stored, or the timeout has passed. Exit code 4 when a process
refuses, 1 when one fails.

examples:
  glassbottom snapshot --service checkout && glassbottom top --service checkout
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from . import client, output
from .exits import CliError, Exit
from .formats.table import Cell, Column, Report

if TYPE_CHECKING:
    from glassbottom.wire.v1 import control_pb2

STYLES = {"done": "green", "refused": "yellow", "failed": "red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's options."""
    client.add_service_arguments(parser)
    output.add_arguments(parser)
    client.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Asks and writes what became of it."""
    from glassbottom.wire.v1.control_pb2 import TakeSnapshotRequest

    from .formats import json

    with client.controlling(args) as (query, control):
        service = client.service_name(args, query)
        request = TakeSnapshotRequest(service=service, instance_id=args.instance)
        response = control.TakeSnapshot(request, timeout=args.timeout)
    if not response.outcomes:
        raise CliError(f"no process of {service} is connected now; `glassbottom status` shows what is.")
    output.answer(args, lambda: _report(response), lambda: json.snapshot(response, service))
    outcomes = {json.OUTCOMES.get(each.outcome, "failed") for each in response.outcomes}
    return Exit.ERROR if "failed" in outcomes else Exit.REFUSED if "refused" in outcomes else Exit.OK


def _report(response: control_pb2.TakeSnapshotResponse) -> Report:
    from .formats.json import OUTCOMES

    report = Report()
    rows: list[list[Cell | str]] = []
    for each in response.outcomes:
        outcome = OUTCOMES.get(each.outcome, "failed")
        rows.append([each.instance_id[:8], Cell(outcome, STYLES[outcome]), each.reason])
    report.table([Column("PROCESS"), Column("OUTCOME"), Column("REASON", flexible=True)], rows)
    return report
