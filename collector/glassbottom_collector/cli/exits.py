"""How a command line can end.

* CliError      1   it did not work
  + UsageError  2   what was typed makes no sense
  + Refused     4   it would not be safe, or is not allowed there

A finding (3) is an answer, not an error: verbs return it.
"""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes, the same for every verb."""

    OK = 0
    ERROR = 1
    USAGE = 2
    FINDING = 3
    REFUSED = 4


class CliError(Exception):
    """Ends the command; the message is one sentence: what happened and what to do."""

    exit = Exit.ERROR


class UsageError(CliError):
    """What was typed makes no sense."""

    exit = Exit.USAGE


class Refused(CliError):  # noqa: N818 - a state, as in errors.py
    """It would not be safe, or is not allowed there."""

    exit = Exit.REFUSED
