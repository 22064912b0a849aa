"""The one logger of the agent, "glassbottom"; imported late because `logging` is not free and often not needed."""

from __future__ import annotations

import logging


def log() -> logging.Logger:
    """The logger. Applications configure it like any other."""
    return logging.getLogger("glassbottom")
