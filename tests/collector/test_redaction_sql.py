"""Literals leave a statement, whatever the dialect and wherever it was cut off; its shape stays."""

import pytest
from glassbottom_collector.redaction import Redactor
from glassbottom_collector.redaction.sql import without_literals
from hypothesis import given
from hypothesis import strategies as st

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("statement", "shape"),
    [
        ("SELECT * FROM t WHERE a = 'it''s' AND b=5", "SELECT * FROM t WHERE a = ? AND b=?"),
        ("SELECT E'a\\'b', $$x'y$$, $tag$ $$ $tag$, N'x', X'ff', U&'d'", "SELECT ?, ?, ?, ?, ?, ?"),
        ("SELECT 1.5e-3, 0xff, .5, -7, a-1, 1_000", "SELECT ?, ?, ?, ?, a-?, ?"),
        ("SELECT * FROM t WHERE id IN (1, 2, 'x', NULL)", "SELECT * FROM t WHERE id IN (?, ?, ?, NULL)"),
        ("SELECT * FROM t WHERE id IN (1,2,  3)", "SELECT * FROM t WHERE id IN (?)"),
        ("INSERT INTO t (a, b) VALUES (1, 'x'), (2, 'y')", "INSERT INTO t (a, b) VALUES (?)"),
        ("SELECT 1 -- for anna\n, 2 /* from /* deep */", "SELECT ? , ?"),
        (
            'SELECT "t1"."name", c::int4 FROM "My"."T" WHERE x=$1',
            'SELECT "t1"."name", c::int4 FROM "My"."T" WHERE x=$1',
        ),
        ("SELECT a FROM t WHERE b = 'unfinished", "SELECT a FROM t WHERE b = ?"),
        ("SELECT a FROM t WHERE b = $q$unfinished $$ '", "SELECT a FROM t WHERE b = ?"),
        ("CREATE USER x PASSWORD 'a'", "CREATE USER x PASSWORD ?"),
        ("SELECT * FROM t2 WHERE t2.c3 = :name AND d = %(d)s", "SELECT * FROM t2 WHERE t2.c3 = :name AND d = %(d)s"),
        ("SELECT a[1], '{1,2}'::int[]", "SELECT a[?], ?::int[]"),
        ("SELECT DATE '2024-01-01' + INTERVAL '1 day'", "SELECT DATE ? + INTERVAL ?"),
        ("", ""),
    ],
)
def test_a_statement_keeps_its_shape(statement: str, shape: str) -> None:
    assert without_literals(statement) == shape


def test_mysql_writes_strings_in_double_quotes_and_escapes_with_a_backslash() -> None:
    statement = """SELECT `a` FROM t WHERE b = "it\\"s" AND c = 'it\\'s' # for anna"""
    assert without_literals(statement, "mysql") == "SELECT `a` FROM t WHERE b = ? AND c = ?"


def test_what_could_be_a_string_of_another_dialect_is_one() -> None:
    assert without_literals('SELECT * FROM t WHERE mail = "anna@kunde.de" AND n = "a b"') == (
        "SELECT * FROM t WHERE mail = ? AND n = ?"
    )


def test_what_is_left_is_read_as_a_text() -> None:
    redacted = Redactor(b"a key of sixteen").sql(
        "SELECT dblink(host=db password=hunter22) FROM t WHERE a='x'", "slow.json"
    )
    assert "hunter22" not in redacted
    assert redacted.endswith("WHERE a=?")


words = st.sampled_from(
    [
        "'",
        '"',
        "''",
        "$$",
        "$a$",
        "\\",
        "E'",
        "--",
        "/*",
        "*/",
        "\n",
        "select",
        "=",
        "(",
        ")",
        ",",
        "1",
        "$1",
        "é",
        "`",
        "#",
        ";",
    ]
)


@given(st.lists(words, max_size=30).map("".join), st.sampled_from(["postgresql", "mysql", "sqlite"]))
def test_no_statement_is_too_strange(statement: str, dialect) -> None:
    without_literals(statement, dialect)


@given(
    st.text(alphabet="ab'\\$\n -/*\"", max_size=20),
    st.sampled_from(["'{}'", "E'{}'", "$${}$$", "$t${}$t$", "/* {} */", "-- {}\n"]),
    st.sampled_from(["SELECT {} FROM t", "UPDATE t SET a={}, b=2 WHERE c IN ('x', {})", "SELECT {}"]),
)
def test_the_canary_in_a_literal_never_survives(noise: str, literal: str, statement: str) -> None:
    value = f"CANARY{noise}CANARY"
    if literal.startswith("'"):
        value = value.replace("'", "''").replace("\\", "")
    elif literal.startswith("E"):
        value = value.replace("\\", "\\\\").replace("'", "\\'")
    elif literal.startswith("$"):
        value = value.replace("$", "")
    elif literal.startswith("/*"):
        value = value.replace("*", "").replace("/", "")
    else:
        value = value.replace("\n", "")
    assert "CANARY" not in without_literals(statement.replace("{}", literal.format(value)))
