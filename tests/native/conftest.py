"""What tests of the C core share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.spans import seen, tracer
from tests.support.stepping import steps

__all__ = ["counting", "seen", "tracer"]


@pytest.fixture
def counting() -> Iterator[None]:
    """The steps of coroutines are counted, from nothing."""
    with steps():
        yield
