"""Masks: pure functions that keep what a schema and a join need, and nothing else."""

from __future__ import annotations

import ipaddress
import json
import re

import pytest
from glassbottom_collector.redaction import personal
from glassbottom_collector.sample import export
from glassbottom_collector.sample.masks import Masks, shift_of
from glassbottom_collector.sample.permute import Keyed
from glassbottom_collector.sample.values import map_array, parse_json, write_json
from hypothesis import given, settings
from hypothesis import strategies as some

pytestmark = pytest.mark.once

KEY = b"a key of thirty-two bytes or more"


def masks(domain: str = "public.a.b", **more: int) -> Masks:
    return Masks(KEY, domain, shift_of(KEY), **more)


def test_small_integers_are_permuted_among_those_of_as_many_digits() -> None:
    keyed = Keyed(KEY, "orders.id")
    numbers = [*range(1, 2000), *range(32_000, 33_500)]
    masked = [keyed.integer(number) for number in numbers]
    assert len(set(masked)) == len(numbers)
    assert [len(str(number)) for number in masked] == [len(str(number)) for number in numbers]
    assert sum(old == new for old, new in zip(numbers, masked, strict=True)) < len(numbers) / 100 + 10


@pytest.mark.parametrize("bits", [15, 31, 63])
def test_an_integer_fits_into_the_type_that_it_fitted_into(bits: int) -> None:
    keyed = Keyed(KEY, "orders.id")
    top = 1 << bits
    for number in [*range(top - 300, top), *range(-top, -top + 300)]:
        assert -top <= keyed.integer(number) < top
        assert (keyed.integer(number) < 0) == (number < 0)
    near = range(-top - 300, -top + 300)
    assert len({keyed.integer(number) for number in near}) == len(near)


@given(some.integers(min_value=-(10**30), max_value=10**30))
def test_a_number_keeps_sign_and_digits(number: int) -> None:
    masked = masks().number(str(number))
    assert len(masked) == len(str(number))
    assert masked.startswith("-") == (number < 0)


@given(some.text(min_size=1, max_size=40))
@settings(max_examples=200)
def test_a_text_keeps_its_shape_and_an_index_over_lower_stays_unique(text: str) -> None:
    keyed = Keyed(KEY, "a")
    masked = keyed.shaped(text)
    assert len(masked) == len(text)
    assert masked == keyed.shaped(text)
    for old, new in zip(text, masked, strict=True):
        if old.isascii():
            assert (old.isdigit(), old.isalpha(), old.isupper()) == (new.isdigit(), new.isalpha(), new.isupper())
        else:
            assert old.isspace() or not new.isascii()
    if text.isascii():
        assert keyed.shaped(text.lower()) == masked.lower()


def test_all_texts_of_a_small_shape_stay_different() -> None:
    keyed = Keyed(KEY, "countries.code")
    texts = [first + second for first in "ABCDEFGHIJ" for second in "abcdefghijklmnopqrstuvwxyz0123456789"]
    assert len({keyed.shaped(text) for text in texts}) == len(texts)


def test_masks_depend_on_the_key_the_domain_and_the_value_and_on_nothing_else() -> None:
    value = "Ada Lovelace"
    assert masks().text(value) == masks().text(value) != value
    assert masks("another").text(value) != masks().text(value)
    assert Masks(KEY + b"!", "public.a.b", 0).text(value) != masks().text(value)
    assert masks(attempt=1).text(value) != masks().text(value)


@pytest.mark.parametrize(
    ("value", "form"),
    [
        ("ada@corp.de", r"[a-z][a-z0-9]{9}@example\.com"),
        ("Ada.Lovelace+orders@mail.corp.de", r"[A-Z][A-Za-z0-9]+@example\.com"),
        ("+49 30 901820", r"\+\d\d \d\d \d{6}"),
        ("(212) 736-5000", r"\(\d{3}\) \d{3}-\d{4}"),
        ("078-05-1120", r"\d{3}-\d\d-\d{4}"),
        ("4111 1111 1111 1111", r"\d{4} \d{4} \d{4} \d{4}"),
        ("DE89370400440532013000", r"[A-Z]{2}\d{20}"),
        ("5D41402A-BC4B-4A76-B971-9D911017C592", r"[0-9A-F]{8}-[0-9A-F]{4}-4[0-9A-F]{3}-B[0-9A-F]{3}-[0-9A-F]{12}"),
        ("d41d8cd98f00b204e9800998ecf8427e", r"[0-9a-f]{32}"),
        ("https://corp.de:8080/u/7?x=ada", r"https://[a-z]{4}\.[a-z]{2}\.\d{4}/[a-z]/\d\?[a-z]=[a-z]{3}"),
        ("2026-03-01T10:11:12Z", r"202\d-\d\d-\d\dT10:11:12Z"),
        ("R-2026/11", r"[A-Z]-\d{4}/\d\d"),
        ("", r""),
    ],
)
def test_a_text_keeps_its_form(value: str, form: str) -> None:
    masked = masks().text(value)
    assert re.fullmatch(form, masked), masked
    assert masked != value or not value


def test_what_comes_out_is_never_taken_for_a_card_or_somebodys_number() -> None:
    made = masks()
    for number in range(4111111111111000, 4111111111111200):
        for masked in (made.number(str(number)), made.text(str(number)), made.text(f"+49 30 {number % 10**6}")):
            assert list(personal.find(masked.encode())) == []


def test_a_text_fits_into_its_column() -> None:
    for length in range(1, 80):
        text = ("a@b.de, or anything else " * 4)[:length]
        assert len(masks(limit=length).prose(text)) <= length
        assert len(masks(limit=length).email(("x" * length + "@b.de")[-length:])) <= length


def test_a_long_text_does_not_keep_the_lengths_of_its_words() -> None:
    text = "a bb ccc dddd eeeee ffffff ggggggg hhhhhhhh iiiiiiiii jjjjjjjjjj kkkkkkkkkkk"
    masked = masks().prose(text)
    assert [len(word) for word in masked.split()] != [len(word) for word in text.split()]
    assert len(masked) == 64


def test_dates_move_by_whole_weeks_and_distances_stay() -> None:
    days = shift_of(KEY)
    assert days % 7 == 0 and -728 < days < 0
    assert masks().date("[2026-01-01,2026-01-31)")[1:-1].split(",")[0] < "2026-01-01"
    assert masks().date("infinity") == "infinity"
    assert masks().date("2026-01-01 23:59:59.123456+00").endswith(" 23:59:59.123456+00")


def test_addresses_of_one_network_stay_together_in_a_block_that_nobody_uses() -> None:
    made = masks()
    one, two, far = (ipaddress.ip_address(made.address(text)) for text in ("10.1.2.3", "10.1.2.4", "10.9.2.3"))
    assert int(one) >> 8 == int(two) >> 8 != int(far) >> 8
    assert one != two and one in ipaddress.ip_network("240.0.0.0/4")
    assert ipaddress.ip_network(made.address("10.1.2.0/24")).prefixlen == 24
    assert ipaddress.ip_address(made.address("2a00:1450::8a")) in ipaddress.ip_network("2001:db8::/32")


def test_json_keeps_its_tree_and_only_the_keys_that_are_names_of_fields() -> None:
    made = masks()
    made.keys_kept = frozenset({"city", "n", "password"})
    old = {"city": "Berlin", "n": [10, -2.50, None, True, 1e3], "Ada Lovelace": {}, "password": "hunter2"}
    new = json.loads(made.json(json.dumps(old)))
    assert list(new)[:2] == ["city", "n"] and len(new) == 4
    assert "Ada Lovelace" not in new and "Berlin" not in new.values()
    assert new["n"][2:4] == [None, True] and 10 <= new["n"][0] <= 99 and new["n"][1] < 0
    assert re.fullmatch(r"<redacted:password:[0-9a-f]{8}>", new["password"])
    assert "not json" not in made.json("not json")


def test_json_keeps_the_digits_of_its_numbers() -> None:
    text = '{"a": [1.10, 12345678901234567890, -0, 1e400], "b": "ü"}'
    assert write_json(parse_json(text)) == text


@pytest.mark.parametrize(
    ("array", "masked"),
    [
        ("{}", "{}"),
        ("{a,b}", '{"A","B"}'),
        ('{"a,\\"b",NULL,"NULL"}', '{"A,\\"B",NULL,"NULL"}'),
        ("{{a,b},{c,NULL}}", '{{"A","B"},{"C",NULL}}'),
        ("[2:3]={a,b}", '[2:3]={"A","B"}'),
    ],
)
def test_arrays_keep_their_bounds_and_nulls(array: str, masked: str) -> None:
    assert map_array(array, str.upper) == masked


def test_csv_tells_null_from_an_empty_text() -> None:
    rows = [("b", None), ("a", ""), ('say "x"', "\\.")]
    assert export.csv_of(["one", "two"], rows) == 'one,two\n"say ""x""","\\."\na,""\nb,\n'
