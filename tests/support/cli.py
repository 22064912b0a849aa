"""The command line, called as a function and as a process."""

from __future__ import annotations

import sys

import pytest
from glassbottom_collector.cli import main

# As installed, or from the source tree.
MODULE = (sys.executable, "-m", "glassbottom_collector.cli")


class Cli:
    """Runs command lines against one collector; `out` and `err` are what the last one wrote."""

    def __init__(self, address: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.address = address
        self.out = ""
        self.err = ""
        self._capsys = capsys

    def __call__(self, *line: str) -> int:
        """Runs one line with --addr and returns its exit code."""
        code = main([line[0], "--addr", self.address, *line[1:]])
        self.out, self.err = self._capsys.readouterr()
        return code
