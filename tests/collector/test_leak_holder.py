"""Who keeps what a site allocates: which path of a dump fits, and when none does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from glassbottom_collector.leaks.holder import Held, constructed, container_of, holder_by_growth, holder_in
from glassbottom_collector.model.code import Frame
from glassbottom_collector.model.heapdump import Growth, HeapObject, HolderPath

pytestmark = pytest.mark.once

SESSION = Held("app.ws.Session", 1_000_000.0, 9_000.0)


def path(text: str, objects: int) -> HolderPath:
    steps = tuple(HeapObject(number, "dict", 1, 1, None, part) for number, part in enumerate(text.split(" -> "), 1))
    return HolderPath("module app.ws", steps, objects, 100 * objects)


def held_by(**paths: Sequence[HolderPath]) -> Mapping[str, Sequence[HolderPath]]:
    return {name.replace("__", "."): found for name, found in paths.items()}


def holder(held: Sequence[Held], found: Mapping[str, Sequence[HolderPath]]) -> str | None:
    best = holder_in(held, lambda name: found.get(name, ()))
    return best.text if best else None


def growth(path: str, type_name: str, before: int, after: int) -> Growth:
    return Growth(path, type_name, before, after, 100 * before, 100 * after, None, None)


def test_it_is_the_holder_that_keeps_as_many_as_the_sampler_expects() -> None:
    """A pool of forty of them is somebody's as well, but not what this line fills."""
    found = held_by(app__ws__Session=[path("app.ws.POOL", 40), path("app.ws.HANDLERS -> list[9 100]", 9_100)])

    assert holder([SESSION], found) == "app.ws.HANDLERS -> list[9 100]"


def test_nobody_is_named_when_no_number_agrees() -> None:
    found = held_by(app__ws__Session=[path("app.ws.POOL", 40)], dict=[path("app.other", 5_000_000)])

    assert holder([SESSION, Held("dict", 2_000_000.0, 9_000.0)], found) is None


def test_a_class_of_ones_own_says_more_than_what_everybody_allocates() -> None:
    """The bytes agree exactly, by chance; the class does nearly, and is this line's alone."""
    found = held_by(bytes=[path("some.cache", 9_000)], app__ws__Session=[path("app.ws.HANDLERS", 8_000)])

    assert holder([Held("bytes", 9_000_000.0, 9_000.0), SESSION], found) == "app.ws.HANDLERS"


def test_of_what_everybody_allocates_two_holders_that_fit_alike_are_none() -> None:
    """Four thousand strings are kept in more than one place; a class is not."""
    rivals = [path("app.names.SEEN", 8_000), path("sys.path_importer_cache -> set", 9_500)]
    held = [Held("str", 900_000.0, 9_000.0)]

    assert holder(held, {"str": rivals}) is None
    assert holder([SESSION], {SESSION.type_name: rivals}) == "sys.path_importer_cache -> set"
    alike = [path("app.ws.HANDLERS -> Session -> .name", 8_000), path("app.ws.HANDLERS -> Session -> .host", 9_500)]
    assert holder(held, {"str": alike}) == "app.ws.HANDLERS -> Session -> .host"
    assert holder_in(held, lambda name: alike, plain=False) is None


def test_blocks_that_are_no_objects_are_not_looked_for() -> None:
    asked: list[str] = []

    def holders(name: str) -> Sequence[HolderPath]:
        asked.append(name)
        return ()

    assert holder_in([Held("<buffer>", 5e6, 9_000.0), Held("<dict keys>", 5e6, 9_000.0), SESSION], holders) is None
    assert asked == ["app.ws.Session"]


def test_with_two_dumps_it_is_the_one_that_grew_as_fast_as_the_line() -> None:
    """A large cache that stands still holds more of them, and yet is not the leak."""
    rows = [
        growth("app.cache.CACHE", "app.ws.Session", 50_000, 50_010),
        growth("app.ws.HANDLERS", "app.ws.Session", 3_000, 9_000),
        growth("app.ws.HANDLERS", "dict", 3_000, 9_000),
        growth("app.gone", "app.ws.Session", 9_000, 3_000),
    ]

    found = holder_by_growth([SESSION], objects_per_second=20.0, growth=rows, seconds=300.0)

    assert found is not None
    assert (found.text, found.objects) == ("app.ws.HANDLERS", 9_000)
    assert found.fit == pytest.approx(1.0)


def test_growth_of_several_types_is_shared_among_them_as_the_site_is() -> None:
    """A site that allocates a message and its session grows by the sum of both."""
    held = [Held("app.ws.Session", 1e6, 1_000.0), Held("app.ws.Message", 1e6, 3_000.0)]
    rows = [growth("app.ws.HANDLERS", "app.ws.Session", 0, 1_000)]

    found = holder_by_growth(held, objects_per_second=40.0, growth=rows, seconds=100.0)

    assert found is not None
    assert found.fit == pytest.approx(1.0)


def test_growth_at_another_pace_is_somebody_elses() -> None:
    rows = [growth("app.ws.HANDLERS", "app.ws.Session", 0, 100)]

    assert holder_by_growth([SESSION], objects_per_second=20.0, growth=rows, seconds=300.0) is None


@pytest.mark.parametrize(
    ("functions", "found"),
    [
        (["Session.__init__", "connect"], "Session"),
        (["dict.update", "make.<locals>.Session.__post_init__", "connect"], "make.<locals>.Session"),
        (["connect", "main"], None),
        (["a", "b", "c", "d", "App.__init__"], None),
    ],
)
def test_what_a_constructor_allocates_belongs_to_an_object_of_its_class(
    functions: list[str], found: str | None
) -> None:
    """The table of an instance's attributes is no object, and yet there is one for each instance."""
    held = [Held("<dict keys>", 2e6, 9_000.0), Held("bytes", 1e6, 3_000.0)]

    more = constructed(held, [Frame(name, "/srv/app.py", 1) for name in functions])[2:]

    assert [(each.type_name, each.live_objects) for each in more] == ([(found, 9_000.0)] if found else [])


def test_the_class_of_a_constructor_is_found_whatever_its_module_is_called() -> None:
    held = constructed([Held("<dict keys>", 2e6, 9_000.0)], [Frame("Session.__init__", "/srv/app/ws.py", 3)])
    rows = [growth("app.ws.HANDLERS", "app.ws.Session", 0, 6_000)]

    assert holder(held, held_by(Session=[path("app.ws.HANDLERS", 9_100)])) == "app.ws.HANDLERS"
    grown = holder_by_growth(held, objects_per_second=20.0, growth=rows, seconds=300.0)
    assert grown is not None
    assert grown.fit == pytest.approx(1.0)


def test_one_large_block_is_the_table_of_the_container_of_its_size() -> None:
    """A list of numbers that everybody has is no object more, and yet it grows."""
    objects = [HeapObject(number, "list", size, size, 1, "") for number, size in enumerate((900, 4_100_000, 64))]

    found = container_of([Held("<buffer>", 4_000_000.0, 1.0)], lambda: objects)

    assert found is not None
    assert found[0].size == 4_100_000
    assert container_of([Held("<buffer>", 400_000.0, 1.0)], lambda: objects) is None, "of another size"
    assert container_of([Held("<buffer>", 4_000_000.0, 900.0)], lambda: objects) is None, "many small ones"
    mostly_objects = [Held("<buffer>", 4_000_000.0, 1.0), Held("bytes", 9_000_000.0, 10.0)]
    assert container_of(mostly_objects, lambda: objects) is None
