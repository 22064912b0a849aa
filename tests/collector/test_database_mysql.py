"""What a capture reads of a real MariaDB, and that a user who can write is refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from glassbottom_collector.config import DatabaseConfig
from glassbottom_collector.database.every import examine
from glassbottom_collector.database.mysql import Mysql, can_write
from glassbottom_collector.incident.parts import CollectingError, RefusedError

from tests.support.collecting import collected, without_literals
from tests.support.mariadb_server import MariadbServer, mariadb_server

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def server() -> Iterator[MariadbServer]:
    with mariadb_server() as running:
        running.run(
            "CREATE DATABASE shop",
            "CREATE TABLE shop.orders (id INT PRIMARY KEY, total INT)",
            "INSERT INTO shop.orders VALUES (1, 4711)",
            "CREATE USER reader@localhost",
            "GRANT SELECT, PROCESS, REPLICA MONITOR ON *.* TO reader@localhost",
            "CREATE USER writer@localhost",
            "GRANT SELECT, UPDATE ON shop.* TO writer@localhost",
        )
        running.run("SELECT * FROM orders WHERE total = 4711", database="shop")
        yield running


def test_the_basics_are_told_and_statements_without_their_values(server: MariadbServer) -> None:
    kept = collected(Mysql("shop", server.url("reader", "shop"), None, without_literals))
    document = kept.read("db/shop/mysql.json")
    answers = document["answers"]

    assert not [identity for identity, answer in answers.items() if "failed" in answer]
    assert "MariaDB" in document["version"]
    assert [row["table"] for row in answers["sizes"]["rows"]] == ["orders"]
    assert any("FROM `orders`" in row["query"] and row["calls"] == 1 for row in answers["slow"]["rows"])
    assert "4711" not in kept.files["db/shop/mysql.json"]
    assert document["role"] == "primary"
    assert any("it is no replica" in note for note in kept.notes)


def test_a_user_that_can_write_is_refused(server: MariadbServer) -> None:
    for user, right in (("writer", "UPDATE"), ("root", "ALL PRIVILEGES")):
        with pytest.raises(RefusedError, match=f"the user has the right to {right}"):
            collected(Mysql("shop", server.url(user, "shop"), None, without_literals))


def test_it_is_looked_at_beforehand(server: MariadbServer) -> None:
    def states(user: str) -> list[str]:
        database = DatabaseConfig(name="shop", kind="mysql", replica=server.url(user, "shop"))
        return [each.state for each in examine(database)]

    assert states("reader") == ["ok", "ok"]
    assert states("writer") == ["failed"]
    assert states("nobody") == ["failed"]


def test_a_server_that_is_gone_is_one_sentence() -> None:
    with pytest.raises(CollectingError, match="MySQL shop cannot be reached"):
        collected(Mysql("shop", "mysql://reader@127.0.0.1:1/shop", None, without_literals))


@pytest.mark.parametrize(
    ("grant", "right"),
    [
        ("GRANT USAGE ON *.* TO `r`@`%`", ""),
        ("GRANT SELECT, PROCESS, REPLICATION CLIENT ON *.* TO `r`@`%`", ""),
        ("GRANT SELECT ON `update`.`delete` TO `r`@`%`", ""),
        ("GRANT SELECT, INSERT (`a`) ON `d`.`t` TO `r`@`%`", "INSERT"),
        ("GRANT SELECT ON `d`.* TO `r`@`%` WITH GRANT OPTION", "GRANT OPTION"),
    ],
)
def test_what_a_grant_allows(grant: str, right: str) -> None:
    assert can_write([grant]) == right
