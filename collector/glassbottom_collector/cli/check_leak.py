"""Run a Python program and say whether its memory only grows.

Needs no collector. Everything after the options belongs to glassbottom.testing, which is part of the agent and needs
no extra.

examples:
  glassbottom check-leak -- python script.py
  glassbottom check-leak --seconds 60 -- python -m app
"""

from __future__ import annotations

from collections.abc import Sequence


def delegate(argv: Sequence[str]) -> int:
    """Hands the rest of the line to the agent's package, which runs the program."""
    from glassbottom.testing.check import main

    return int(main(list(argv)))
