"""A scripted collector, and the command line that asks it: whatever a test sets in `answers` is what comes back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.cli import Cli
from tests.support.query_double import Answers, serving


@pytest.fixture
def answers() -> Answers:
    """What the collector says, and what it was asked."""
    return Answers()


@pytest.fixture
def address(answers: Answers) -> Iterator[str]:
    """Where it listens."""
    with serving(answers) as address:
        yield address


@pytest.fixture
def cli(address: str, capsys: pytest.CaptureFixture[str]) -> Cli:
    """The command line, pointed at it."""
    return Cli(address, capsys)
