"""Which types a site's live samples are: found in the block alone, by no code of the user's."""

from __future__ import annotations

import time

import pytest
from glassbottom import _native

from tests.support.sampling import sampler, types


class Plain:
    def __init__(self, i: int) -> None:
        self.i = i


class Slotted:
    __slots__ = ("__weakref__", "a", "b")

    def __init__(self, i: int) -> None:
        self.a = self.b = i


class Hostile(type):
    """A metaclass that would be heard if anybody asked it anything."""

    asked = 0

    def __subclasses__(cls) -> list[type]:  # type: ignore[override]
        Hostile.asked += 1
        raise RuntimeError("asked for subclasses")

    def __getattribute__(cls, name: str) -> object:
        Hostile.asked += 1
        return super().__getattribute__(name)


class Watched(metaclass=Hostile):
    pass


class Text(str):
    pass


def settle() -> None:
    """Until the walk through the types has been made once; it goes a few hundred classes at a time."""
    deadline = time.monotonic() + 20
    while _native.statistics()["types"] == 0 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert _native.statistics()["types"] > 0


@pytest.mark.parametrize(
    ("make", "label", "bytes_each"),
    [
        (Plain, f"{__name__}.Plain", None),
        (Slotted, f"{__name__}.Slotted", None),
        (lambda i: Watched(), f"{__name__}.Watched", None),
        (lambda i: Text(i) * 3, None, None),
        (lambda i: str(i) * 20, "str", None),
        (lambda i: bytes(200), "bytes", 233),
        (lambda i: float(i), "float", 24),
        (lambda i: (i, i), "tuple", 56),
        (lambda i: {i: i}, "dict", None),
        (lambda i: [i, i], "list", None),
        (lambda i: {i}, "set", None),
        (lambda i: 10**30 + i, "int", None),
    ],
)
def test_a_type_is_recognised(make, label, bytes_each) -> None:
    kept = []
    with sampler(interval_bytes=4096.0):
        settle()
        kept.extend(make(i) for i in range(20_000))
        found = types(_native.snapshot(), "test_a_type_is_recognised")
    grown = found.get(label or "str", 0.0)  # a product of a str subclass is a str
    if bytes_each is not None:
        assert grown == pytest.approx(20_000 * bytes_each, rel=0.25)
    assert grown > 20_000 * 16 * 0.7


@pytest.mark.parametrize("keys", [1, 7, 40, 500])
@pytest.mark.parametrize("key", [str, int])
def test_the_table_of_a_dict_is_told_from_an_unknown_object(keys: int, key: type) -> None:
    count = 100_000 // keys
    names = [key(i) for i in range(keys)]
    kept = []
    with sampler(interval_bytes=4096.0):
        settle()
        kept.extend(dict.fromkeys(names) for _ in range(count))
        found = types(_native.snapshot(), "test_the_table_of_a_dict_is_told_from_an_unknown_object")
    whole = sum(d.__sizeof__() for d in kept)
    assert found["<dict keys>"] + found["dict"] == pytest.approx(whole, rel=0.25)
    assert found.get("<unknown:obj>", 0.0) < 0.05 * whole


def test_no_code_of_the_user_runs_to_find_a_type() -> None:
    Hostile.asked = 0
    kept = []
    with sampler(interval_bytes=4096.0):
        settle()
        kept.extend(Watched() for _ in range(5000))
        _native.snapshot()
    assert Hostile.asked == 0


def test_a_buffer_is_called_a_buffer_even_when_it_looks_like_an_object() -> None:
    """A block full of words that are a type's address, but at the wrong distance from its start or too small for it."""
    words = id(Plain).to_bytes(8, "little") * 4
    kept = []
    with sampler(interval_bytes=4096.0):
        settle()
        before = types(_native.snapshot()).get(f"{__name__}.Plain", 0.0)
        kept.extend(bytearray(words) for _ in range(20_000))
        after = types(_native.snapshot()).get(f"{__name__}.Plain", 0.0)
    # 32-byte buffers cannot hold a Plain, which needs its header and at least its 16 bytes.
    assert after - before == pytest.approx(0.0, abs=1.0)


def test_a_class_that_died_is_no_danger() -> None:
    kept = []
    with sampler(interval_bytes=4096.0):
        settle()
        for i in range(50):
            made = type(f"Made{i}", (), {})
            kept.append([made() for _ in range(200)])
            kept.clear()
            del made
            _native.snapshot()
        kept.append([Plain(i) for i in range(10_000)])
        assert types(_native.snapshot())[f"{__name__}.Plain"] > 0
