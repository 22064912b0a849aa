"""What is private by its name, its comment, its label, or its values."""

from __future__ import annotations

import pytest
from glassbottom_collector.sample import classify
from glassbottom_collector.sample.schema import Column

pytestmark = pytest.mark.once


def column(name: str, *, comment: str = "", label: str = "") -> Column:
    return Column(
        name=name,
        type="text",
        base="text",
        base_sql="text",
        kind="b",
        category="S",
        element="",
        element_kind="",
        delimiter=",",
        limit=0,
        is_domain=False,
        not_null=False,
        generated="",
        identity="",
        default="",
        readable=True,
        comment=comment,
        label=label,
        domain_checks=(),
        equal="OPERATOR(pg_catalog.=)",
    )


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("email", "e-mail"),
        ("billingEmail", "e-mail"),
        ("contact_phone_2", "phone"),
        ("SSN", "identity number"),
        ("IBANNumber", "account"),
        ("date_of_birth", "birth"),
        ("last_login_ip", "network"),
        ("password_hash", "secret"),
        ("apiKey", "secret"),
        ("shipping_address", "address"),
        ("salary", "pay"),
        ("mailbox_full", ""),  # a word within a word
        ("quantity", ""),
        ("status", ""),
    ],
)
def test_a_name_is_read_by_its_words(name: str, kind: str) -> None:
    assert classify.kind_by_name(column(name)) == kind


def test_a_comment_or_a_label_of_the_owners_counts() -> None:
    assert classify.kind_by_name(column("x", comment="PII, see the handbook"))
    assert classify.kind_by_name(column("x", label="MASKED WITH FUNCTION anon.fake_city()"))
    assert not classify.kind_by_name(column("email", label="NOT MASKED"))
    assert not classify.kind_by_name(column("x", comment="personality of the pizza"))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["ada@corp.de", "bob@corp.de", "-", ""], "e-mail"),
        (["4111 1111 1111 1111", "5500005555555559"], "card"),
        (["DE89 3704 0044 0532 0130 00"], "iban"),
        (["eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln"], "jwt"),
        (["10.0.0.1", "10.0.0.2"], "ip"),
        (["d3b07384-d113-4ec2-a5d6-d1f5a1d8b2c3"], "uuid"),
        (["4111 1111 1111 1112"], ""),
        (["ada@corp.de", "b", "c"], ""),
        ([], ""),
    ],
)
def test_values_are_known_by_what_makes_them_valid(values: list[str], kind: str) -> None:
    assert classify.kind_by_values(values) == kind


def test_long_numbers_of_which_almost_none_comes_twice_are_somebodys() -> None:
    assert classify.is_unique_number([str(1_000_000 + number * 7919) for number in range(100)])
    assert not classify.is_unique_number([str(1_000_000 + number % 10) for number in range(100)])
    assert not classify.is_unique_number([str(number) for number in range(100)])
    assert not classify.is_unique_number(["12345678"])
