"""Watch a leak being found, from load to verdict.

Needs the extra `glassbottom[demo]`. It starts a collector and a web service with one leak and one healthy cache,
drives it, and within two minutes prints what `glassbottom leaks` says.

examples:
  glassbottom demo
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the demo's own options."""
    from ..demo import add_arguments

    add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Plays it."""
    from ..demo import main

    return main(args)
