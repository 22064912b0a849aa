"""Run a collector here, which stores and answers.

Agents send to it and the other verbs ask it. Needs the extra `glassbottom[collector]`. It listens on the loopback
interface, keeps its data below your home directory, and ends on Ctrl-C or SIGTERM after writing what it holds.

examples:
  glassbottom collector
  glassbottom collector --listen 127.0.0.1:7411 --data /var/lib/glassbottom
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the server's own options."""
    from ..server import add_arguments

    add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serves until told to end."""
    from ..server import main

    return main(args)
