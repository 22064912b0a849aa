"""A sample of a real database: closed, masked, the same again, and accepted by another server with all constraints."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections.abc import Iterator

import pytest
from glassbottom_collector.redaction.scan import scan
from glassbottom_collector.sample import Sample
from glassbottom_collector.sample.load import LoadReport

from tests.support.postgres import Cluster
from tests.support.sampled import CARD, FILL, MAIL_AT, SCHEMA, SETTINGS, loaded, sample

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def database(postgres: Cluster) -> Iterator[str]:
    with postgres.database(SCHEMA, FILL) as name:
        yield name


@pytest.fixture(scope="module")
def taken(postgres: Cluster, database: str) -> Sample:
    return sample(postgres.standby, database)


@pytest.fixture(scope="module")
def mirror(postgres: Cluster, database: str, taken: Sample) -> Iterator[tuple[str, LoadReport]]:
    with loaded(postgres, database, taken) as found:
        yield found


@pytest.fixture(scope="module")
def whole(postgres: Cluster, database: str) -> Sample:
    """Every row there is, so that what is counted can be compared."""
    return sample(postgres.standby, database, dataclasses.replace(SETTINGS, rows_per_table=1_000))


@pytest.fixture(scope="module")
def whole_mirror(postgres: Cluster, database: str, whole: Sample) -> Iterator[tuple[str, LoadReport]]:
    with loaded(postgres, database, whole) as found:
        yield found


def rows(taken: Sample, table: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(taken.files[f"public.{table}"])))


def test_it_imports_with_every_constraint_valid(taken: Sample, mirror: tuple[str, LoadReport]) -> None:
    _, report = mirror
    assert report.failed == []
    assert report.invalid == []
    assert report.constraints > 20
    assert set(report.dangling.values()) == {0} and len(report.dangling) == 8
    assert report.rows == {one["table"]: one["rows"] for one in taken.report}
    assert report.complete


def test_it_is_closed_over_references_that_are_cyclic_composite_nullable_and_to_itself(taken: Sample) -> None:
    told = {one["table"]: one for one in taken.report}
    assert told["public.orders"]["chosen"] == told["public.customers"]["chosen"] == 40
    assert told["public.orders"]["parents_added"] > 40  # a chain of parents, and favourites of customers
    assert all(one["references_cut"] == one["rows_dropped"] == 0 for one in taken.report)
    identities = {row["id"] for row in rows(taken, "orders")}
    assert {row["parent_id"] for row in rows(taken, "orders")} - {""} <= identities
    assert {row["order_text"] for row in rows(taken, "likes")} - {""} <= identities  # only the configuration knows it


def test_the_same_key_gives_the_same_bytes_and_another_key_others(
    postgres: Cluster, database: str, taken: Sample
) -> None:
    assert sample(postgres.standby, database).members("shop") == taken.members("shop")
    another = sample(postgres.standby, database, key=b"another key, which is long as well")
    assert all(another.files[name] != text for name, text in taken.files.items())
    shape = [(one["table"], one["rows"]) for one in taken.report]
    assert [(one["table"], one["rows"]) for one in another.report] == shape


def test_nothing_that_was_planted_comes_out(taken: Sample, whole: Sample) -> None:
    for path, text in (*taken.members("shop").items(), *whole.members("shop").items()):
        assert "canary" not in text.lower(), path
        for secret in (CARD, MAIL_AT, "98760", "76543", "10.77.", "08:00:2b", b"canary".hex()):
            assert secret not in text, (path, secret)
        assert scan(path, text.encode()) == [], path


JOINS = [
    "orders o JOIN customers c USING (tenant_id)",
    "orders o JOIN customers c ON (c.tenant_id, c.id) = (o.tenant_id, o.customer_id)",
    "orders o JOIN orders p ON p.id = o.parent_id",
    "customers c JOIN countries n ON n.code = c.country",
    "customers c JOIN likes l ON lower(l.customer_mail::text) = c.mail_key",
    "likes l JOIN orders o ON o.id::text = l.order_text",
    "orders o JOIN staff s ON s.id = o.staff_id JOIN staff b ON b.id = s.boss",
    "customers c JOIN customers d ON d.tenant_id = c.tenant_id AND d.ip = c.ip",
    "orders o JOIN orders p ON p.created_at < o.created_at AND p.shipped_at > o.created_at",
]


@pytest.mark.parametrize("join", JOINS)
def test_a_join_gives_as_many_rows_as_before(
    join: str, postgres: Cluster, database: str, whole_mirror: tuple[str, LoadReport]
) -> None:
    statement = f"SELECT count(*) FROM {join}"
    before = postgres.primary.run(statement, database=database)
    assert before > [(0,)]
    assert postgres.primary.run(statement, database=whole_mirror[0]) == before


def test_the_share_of_null_and_the_number_of_different_values_stay(
    postgres: Cluster, database: str, whole: Sample, whole_mirror: tuple[str, LoadReport]
) -> None:
    name, report = whole_mirror
    assert report.complete
    # No mask can be made for a composite type, a point says nothing any more, and of two objects `{"canary": "canary"}`
    # nothing is different.
    lost = {"couple", "place"}
    for told in whole.report:
        columns = [one["column"] for one in told["columns"] if one["column"] not in lost]
        counts = ", ".join(f"count({column}), count(DISTINCT {column}::text)" for column in columns)
        statement = f"SELECT count(*), {counts} FROM {told['table']}"
        before = postgres.primary.run(statement, database=database)
        assert postgres.primary.run(statement, database=name) == before, columns


def test_formats_stay(taken: Sample) -> None:
    for row in rows(taken, "customers"):
        assert re.fullmatch(r"[A-Za-z][a-z0-9]+@example\.com", row["email"])
        assert re.fullmatch(r"\+\d\d \d\d \d{7}", row["phone"])
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", row["uid"])
        assert re.fullmatch(r"[a-z][a-z0-9]*", row["handle"])
        assert re.fullmatch(r"[1-9]\d{4}", row["zip"])
        assert re.fullmatch(r"\d{16}", row["card"])
        assert row["state"] == "fine"
        assert row["plan"] in ("free", "paid")
