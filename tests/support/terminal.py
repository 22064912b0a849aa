"""Standard output and error as a terminal, in memory."""

from __future__ import annotations

import io
import re
import sys

import pytest

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal(io.StringIO):
    """Says it is a terminal, and keeps what was written."""

    def isatty(self) -> bool:
        return True

    @property
    def text(self) -> str:
        """What was written, without colours and trailing blanks."""
        return "".join(f"{line.rstrip()}\n" for line in ESCAPE.sub("", self.getvalue()).splitlines())


def become_terminal(monkeypatch: pytest.MonkeyPatch, columns: int = 80) -> tuple[Terminal, Terminal]:
    """Makes both streams terminals of a width; gives standard output and standard error."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm-256color")
    out, err = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    return out, err
