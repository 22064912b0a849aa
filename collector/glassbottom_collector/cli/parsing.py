"""argparse, made to speak like the rest: one sentence per error, help from docstrings, no guessed abbreviations."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from .exits import UsageError


class Parser(argparse.ArgumentParser):
    """A parser whose errors are UsageError."""

    def error(self, message: str) -> NoReturn:
        """Raises UsageError."""
        raise UsageError(f"{message}; see {self.prog} --help.")

    def read(self, line: Sequence[str]) -> argparse.Namespace:
        """The options of a line, with what is true of an option in every verb checked. Raises UsageError."""
        # argparse gives words that may be absent nothing when an option stands before them, unless asked like this.
        mixed = any(not action.option_strings and action.nargs == "*" for action in self._actions)
        args = self.parse_intermixed_args(line) if mixed else self.parse_args(line)
        limit = getattr(args, "limit", None)
        if limit is not None and limit < 1:
            raise UsageError("--limit must be at least 1.")
        return args


def parser_for(verb: str, docstring: str) -> Parser:
    """The parser of a verb, described by its docstring."""
    return Parser(
        prog=f"glassbottom {verb}",
        usage=f"glassbottom {verb} [options]",
        description=docstring.strip(),
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=28),
        # An abbreviation that works today would become ambiguous with the next option.
        allow_abbrev=False,
    )
