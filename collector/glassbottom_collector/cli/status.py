"""Show the collector's health, and what every agent costs and lost.

One row per process: the state of its sampler, what the agent costs it, what was dropped, and how full its queue is;
then the agent's version, mean bytes between samples, share of the time that is sampled, and clock skew. Below the
table stands why a sampler does not run.

examples:
  glassbottom status
  glassbottom status --service checkout -o json
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from . import client, output
from .exits import Exit
from .formats.table import Cell, Column, Report
from .text import count, moment, size

if TYPE_CHECKING:
    from glassbottom.wire.v1 import query_pb2

STATE_STYLES = {"running": "green", "refused": "red", "paused": "yellow", "stopped": "yellow"}

# What can be lost, in the order of the path data takes, and the word for it.
LOSSES = (
    ("sampler_samples_dropped_total", "samples"),
    ("sampler_hook_losses_total", "hook losses"),
    ("sampler_stacks_overflowed_total", "pathless"),
    ("queue_dropped_batches_total", "batches"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's options."""
    parser.add_argument("--service", metavar="NAME", default="", help="only this one (all)")
    output.add_arguments(parser)
    client.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Asks and writes."""
    from glassbottom.wire.v1.query_pb2 import StatusRequest

    from .formats import json

    with client.querying(args) as query:
        response = query.Status(StatusRequest(service=args.service), timeout=args.timeout)
    output.answer(args, lambda: _report(response, args.addr), lambda: json.status(response))
    return Exit.OK


def _report(response: query_pb2.StatusResponse, addr: str) -> Report:
    report = Report()
    collector = response.collector
    report.line(f"collector {collector.version} at {addr}, running since {moment(collector.started_at_ns)}")
    for problem in collector.problems:
        report.line(f"problem: {problem}", "red", hanging=9)
    if not collector.problems:
        report.line("no problems", "green")
    report.line()
    if not response.instances:
        report.line("No process is connected or was within the last hour.")
        return report
    report.table(
        [
            Column("PROCESS", flexible=True),
            Column("LINK"),
            Column("SAMPLER"),
            Column("COST", right=True),
            Column("DROPPED", right=True),
            Column("QUEUE", right=True),
            Column("AGENT", beneath="PROCESS"),
            Column("SAMPLING", beneath="PROCESS"),
            Column("SKEW", beneath="PROCESS"),
        ],
        [_row(instance) for instance in response.instances],
    )
    reasons = [instance for instance in response.instances if instance.sampler_reason]
    for at, instance in enumerate(reasons):
        if at == 0:
            report.line()
        report.line(f"{_name(instance)}: {instance.sampler_reason}", "yellow", hanging=2)
    return report


def _row(instance: query_pb2.InstanceStatus) -> list[Cell | str]:
    numbers = instance.statistics
    state = instance.sampler_state or "unknown"
    return [
        _name(instance),
        Cell("connected", "green") if instance.connected else Cell("gone", "yellow"),
        Cell(state, STATE_STYLES.get(state, "yellow")),
        f"{100 * numbers['agent_cpu_ratio']:.2f} %" if "agent_cpu_ratio" in numbers else "?",
        _dropped(numbers),
        _queue(numbers),
        f"agent {instance.agent_version or '?'}",
        _sampling(numbers),
        f"clock skew {instance.clock_skew_s:+.2f} s",
    ]


def _name(instance: query_pb2.InstanceStatus) -> str:
    return f"{instance.process.service} {instance.process.instance_id[:8]} pid {instance.process.pid}"


def _dropped(numbers: Mapping[str, float]) -> str:
    if not any(name in numbers for name, _ in LOSSES):
        return "?"
    lost = [f"{count(numbers[name])} {word}" for name, word in LOSSES if numbers.get(name)]
    return ", ".join(lost) or "0"


def _queue(numbers: Mapping[str, float]) -> str:
    if not numbers.get("queue_bytes_max"):
        return "?"
    return f"{100 * numbers.get('queue_bytes', 0.0) / numbers['queue_bytes_max']:.0f} %"


def _sampling(numbers: Mapping[str, float]) -> str:
    if "sampler_interval_bytes" not in numbers:
        return "interval ?"
    interval = f"interval {size(numbers['sampler_interval_bytes'])}"
    if "sampler_window_share" not in numbers:
        return interval
    return f"{interval}, window {100 * numbers['sampler_window_share']:.0f} %"
