"""The label under which samples are taken: reading it in the middle of anything leaves contexts as they were."""

from __future__ import annotations

import contextvars
from collections.abc import Iterator

import pytest
from glassbottom import _native

from tests.support.sampling import sampler

label: contextvars.ContextVar[object] = contextvars.ContextVar("label", default=0)
_others = [contextvars.ContextVar[int](f"other {i}") for i in range(40)]


@pytest.fixture(autouse=True)
def sampled() -> Iterator[None]:
    """Every second allocation or so is a sample, and reads the label."""
    _native.set_label_variable(label)
    with sampler(interval_bytes=4096.0):
        yield
    _native.set_label_variable(None)


def test_a_sample_taken_while_a_label_is_taken_back_does_not_bring_it_back() -> None:
    def once(number: int) -> object:
        # Enough of the others for the context to allocate at each change, and each label an int of its own.
        token = label.set(int(f"{number}"))
        label.reset(token)
        return label.get()

    def many() -> list[object]:
        for other in _others:
            other.set(1)
        return [left for left in (once(1000 + i) for i in range(3000)) if left != 0]

    left = contextvars.copy_context().run(many)
    assert left == []


def test_a_label_that_is_no_small_number_is_none_and_raises_nothing() -> None:
    def many() -> None:
        for strange in (1 << 100, -1, 4096, "x", None):
            label.set(strange)
            kept = [bytes(200) for _ in range(3000)]
            del kept

    contextvars.copy_context().run(many)
