"""A collector double for processes to report to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.ingest_double import IngestDouble


@pytest.fixture
def double() -> Iterator[IngestDouble]:
    with IngestDouble() as double:
        yield double
