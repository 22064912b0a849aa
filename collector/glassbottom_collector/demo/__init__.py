"""The demonstration: a real service with a leak, real load, and a verdict that is checked against the truth.

Everything runs in processes of its own, as it would in production; this side only starts them, plays the clients, asks
the same command line that a person would type, and compares. Nothing heavy is imported before main() runs.
"""

from __future__ import annotations

import argparse

SECONDS = 80.0
SECONDS_MIN = 40.0
SECONDS_MAX = 3600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `glassbottom demo`."""
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=SECONDS,
        help="how long to drive the service before asking for the verdict (default: %(default)g)",
    )
    parser.add_argument(
        "--keep",
        action="store_true",
        help="keep the collector and its data until Ctrl-C, to look further from another terminal",
    )


def main(args: argparse.Namespace) -> int:
    """Runs it. 0: the verdict agrees with the truth; 1: it does not, or something could not be started."""
    from .play import play

    return play(args.seconds, keep=args.keep)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not SECONDS_MIN <= seconds <= SECONDS_MAX:
        raise argparse.ArgumentTypeError(
            f"must be a number between {SECONDS_MIN:g} and {SECONDS_MAX:g}: a shorter run has too few snapshots"
        )
    return seconds
