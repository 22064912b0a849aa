"""Run a Python program with the agent in it.

Its code is not touched. Everything after the verb belongs to glassbottom.run, which is part of the agent and needs
no extra.

examples:
  glassbottom run -- uvicorn app:app
  glassbottom run -- python -m app
"""

from __future__ import annotations

from collections.abc import Sequence


def delegate(argv: Sequence[str]) -> int:
    """Hands the rest of the line to the agent, which usually replaces this process."""
    from glassbottom.run import main

    return int(main(list(argv)))
