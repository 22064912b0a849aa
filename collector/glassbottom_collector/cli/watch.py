"""Watch one service live, on the whole screen.

Memory, loop lag, tasks by where they wait, slow routes, leaks and findings, asked again every two seconds (leaks every
15). Keys: q quits, p pauses, tab goes to the next panel, z shows it alone, ? helps. It goes on trying when the
collector is away. Needs a terminal; set NO_COLOR=1 for one without colours.

examples:
  glassbottom watch --service checkout
  glassbottom watch --service checkout --instance 4f2a --every 10
"""

from __future__ import annotations

import argparse
import os
import sys

from . import client
from .exits import Exit, UsageError

EVERY_S = 2.0
EVERY_S_MAX = 3600.0
EVERY_S_MIN = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's options."""
    client.add_service_arguments(parser)
    parser.add_argument(
        "--every", metavar="SECONDS", type=float, default=EVERY_S, help=f"ask again after so long ({EVERY_S:g})"
    )
    client.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Shows the screen until it is closed."""
    if not EVERY_S_MIN <= args.every <= EVERY_S_MAX:
        raise UsageError(f"--every must be between {EVERY_S_MIN:g} and {EVERY_S_MAX:g} seconds.")
    if not sys.stdout.isatty() or not sys.stdin.isatty() or os.environ.get("TERM") == "dumb":
        raise UsageError(
            "watch draws on a whole terminal, and this is none; "
            "use `glassbottom findings` or `glassbottom timeline`, which write lines."
        )
    # Before the screen is taken, so that what is wrong with the line is a sentence on the terminal.
    with client.querying(args) as query:
        service = client.service_name(args, query)
    from .live.app import WatchApp

    app = WatchApp(args, service, args.every)
    app.run()
    return Exit.ERROR if app.return_code else Exit.OK
