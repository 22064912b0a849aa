"""Secrets of a known shape leave the process as tokens; what is no secret leaves as it is."""

from __future__ import annotations

import re
import time

import pytest
from glassbottom import _redact

TOKEN = re.compile(r"<redacted:[a-z0-9-]{1,64}:[0-9a-f]{8}>")
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N"


@pytest.mark.parametrize(
    ("line", "secret", "left"),
    [
        ("password=hunter2 and more", "hunter2", "and more"),
        ("DB_PASSWORD: 'two words'", "two words", "DB_PASSWORD"),
        ('{"api_key": "a1b2c3", "page": 3}', "a1b2c3", '"page": 3'),
        ("client_secret => abc,next=1", "abc", "next=1"),
        ("GET /x?access_token=abc123&page=2", "abc123", "page=2"),
        ("Authorization: Bearer abcdef123456", "abcdef123456", "Authorization"),
        ("{'authorization': 'Basic dXNlcjpwYXNz', 'host': 'a'}", "dXNlcjpwYXNz", "'host': 'a'"),
        ("Cookie: session=1; theme=dark", "session=1", "Cookie"),
        ("sent bearer abcdefgh12345678 to it", "abcdefgh12345678", "to it"),
        ("postgresql://app:s3cret@db:5432/shop", "s3cret", "postgresql://app:"),
        ("postgresql://app:s3/cr@db:5432/shop", "s3/cr", "db:5432/shop"),
        ("redis://:s3cret@cache/0", "s3cret", "cache/0"),
        ("https://ab01cd23ef45ab67cd89@git.example/x", "ab01cd23ef45ab67cd89", "git.example/x"),
        (f"token {JWT}", JWT, "token"),
        ("key " + "AKIA" + "ABCDEFGHIJKLMNOP" + " used", "AKIA" + "ABCDEFGHIJKLMNOP", "used"),
        ("with " + "ghp_" + "a1" * 18 + " it", "a1" * 18, "it"),
        (
            "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIabc\ndef==\n-----END RSA PRIVATE KEY-----\nafter",
            "MIIabc",
            "after",
        ),
        ("-----BEGIN " + "PRIVATE KEY-----\nMIIcut off", "MIIcut", ""),
    ],
)
def test_a_secret_is_taken_out_and_the_rest_stays(line: str, secret: str, left: str):
    found = _redact.text(line)
    assert secret not in found
    assert left in found
    assert "<" not in TOKEN.sub("", found), "no token within a token"
    assert TOKEN.search(found)
    assert _redact.text(found) == found, "a second look changes nothing"


@pytest.mark.parametrize(
    "line",
    [
        "GET /orders/17?page=2 took 12 ms, 3 tokens used, tokens=512",
        'File "/app/password_reset.py", line 3, in reset_password',
        "password is None: password=None",
        "http://127.0.0.1:8080/a:b/c@d",
        "user ann@example.org logged in at 12:30:05",
        "the secretary left; cookies are nice: 3",
        "2026-11-25T04:00:00Z INFO shop started, commit 4d583b9",
    ],
)
def test_what_is_no_secret_stays(line: str):
    assert _redact.text(line) == line


def test_the_same_secret_is_the_same_token_and_another_another():
    one, again, other = (_redact.text(f"password={each}") for each in ("abc", "abc", "abd"))
    assert one == again != other


def test_whatever_stands_under_the_name_of_a_secret_is_one():
    found = _redact.value(
        {"db_password": "x y", "nested": [{"token": "t"}], "page": "3", "n": 5, "on": True, "none": None}
    )
    assert TOKEN.fullmatch(found["db_password"])
    assert TOKEN.fullmatch(found["nested"][0]["token"])
    assert {name: found[name] for name in ("page", "n", "on", "none")} == {
        "page": "3",
        "n": 5,
        "on": True,
        "none": None,
    }


@pytest.mark.parametrize(
    "line",
    [
        "a" * 8192,
        "password" * 1024,
        "://" * 2700,
        "http://a:" * 900,
        "x://" + "a:" * 4000,
        "-----BEGIN " * 700,
        "-----BEGIN " + "PRIVATE KEY-----" + "-" * 8000,
        "eyJaaaaaaaa." * 680,
        "bearer " * 1100,
        "token='" + "\\a" * 4000,
        "authorization" + " " * 8000,
    ],
)
def test_no_line_takes_long(line: str):
    """Each has at most 8 KiB; a pattern that goes back and forth would take seconds."""
    began_s = time.thread_time()
    _redact.text(line)
    assert time.thread_time() - began_s < 0.5
