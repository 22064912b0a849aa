"""Whatever stands around a secret, however it is written: it goes, and redacting twice is redacting once."""

import base64
import html
import json
import re
import urllib.parse

import pytest
from glassbottom_collector.incident.parts import as_json
from glassbottom_collector.redaction import Redactor
from glassbottom_collector.redaction.scan import scan
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.once

REDACTOR = Redactor(b"a key of at least sixteen bytes")
# Distinct at both ends, so that half of it that is left is noticed.
CANARY = "Qx7vulture"
TAIL = "kestrel9Zk"

# What people put into passwords. Where a bare one would end at a sign (a space, a quote, `&`), nobody could tell.
inner = st.text(alphabet="abXY01-_.!~@+/$%^*=:(){}[]|#?é", max_size=12)
secrets = inner.map(lambda middle: CANARY + middle + TAIL)
names = st.sampled_from(
    ["password", "DB_PASSWORD", "clientSecret", "api_key", "x-api-key", "accessToken", "aws_secret_access_key",
     "passwd", "auth_token", "db.password", "PGPASSWORD", "private_key", "userPassword"]
)  # fmt: skip


def as_url(name: str, secret: str) -> str:
    return f"postgres://app:{urllib.parse.quote(secret, safe='')}@db:5432/orders"


def as_userinfo_unescaped(name: str, secret: str) -> str:
    return f"amqp://app:{secret.replace('/', '')}@mq/vhost"


def as_conninfo(name: str, secret: str) -> str:
    return f"host=db password={secret} dbname=orders"


def as_quoted_conninfo(name: str, secret: str) -> str:
    return f"host=db password='{secret}' dbname=orders"


def as_object(name: str, secret: str) -> str:
    return json.dumps({"a": 1, name: secret, "b": [2]})


def as_escaped_json(name: str, secret: str) -> str:
    return json.dumps({name: secret}).replace("v", "\\u0076")


def as_repr(name: str, secret: str) -> str:
    return repr({"a": 1, name: secret, "b": None})


def as_environment(name: str, secret: str) -> str:
    return f"export {name.replace('-', '_').replace('.', '_')}={secret}"


def as_query(name: str, secret: str) -> str:
    return f"GET /x?a=1&{name}={urllib.parse.quote(secret, safe='')}&b=2 HTTP/1.1"


def as_yaml(name: str, secret: str) -> str:
    return f"db:\n  {name}: {secret}\n  host: a"


def as_bearer(name: str, secret: str) -> str:
    return f"Authorization: Bearer {secret}"


def as_basic(name: str, secret: str) -> str:
    return f"authorization: Basic {base64.b64encode(f'app:{secret}'.encode()).decode()}"


def as_cookie(name: str, secret: str) -> str:
    return f"Cookie: theme=dark; sid={secret}; b=1"


def as_xml(name: str, secret: str) -> str:
    return f"<a><{name}>{html.escape(secret)}</{name}></a>"


def as_java(name: str, secret: str) -> str:
    return f"Config{{url=jdbc:a, {name.replace('-', '_')}={secret}, user=app}}".replace("}, user", ", user")


def as_arguments(name: str, secret: str) -> str:
    return repr(["worker", f"--{name.lower()}", secret, "--verbose"])


def as_header_pairs(name: str, secret: str) -> str:
    return repr([(b"host", b"a"), (b"authorization", b"Token " + secret.encode())])


def as_multi_line_private_key(name: str, secret: str) -> str:
    body = re.sub(r"[^A-Za-z0-9]", "", secret)
    return f"-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE{body}\nAwEHoUQDQgAE\n-----END EC PRIVATE KEY-----\n"


def as_coloured(name: str, secret: str) -> str:
    return f"\x1b[1m{name}\x1b[0m=\x1b[31m{secret[:6]}\x1b[0m{secret[6:]}\x1b[K"


structures = st.sampled_from(
    [as_url, as_userinfo_unescaped, as_conninfo, as_quoted_conninfo, as_object, as_escaped_json, as_repr,
     as_environment,
     as_query, as_yaml, as_bearer, as_basic, as_cookie, as_xml, as_coloured, as_java, as_arguments,
     as_header_pairs, as_multi_line_private_key]
)  # fmt: skip
wrappings = st.lists(
    st.sampled_from(
        [
            lambda text: text,
            lambda text: json.dumps({"message": text}),
            lambda text: json.dumps([text, 1]),
            lambda text: f"2026-11-25 10:00:00,123 ERROR [main] shop.orders - failed: {text}",
            lambda text: f"/redirect?next={urllib.parse.quote(text, safe='')}&x=1",
            lambda text: f"{{'body': {text!r}}}",
            lambda text: f"payload {base64.b64encode(text.encode()).decode()} end",
            lambda text: f'Traceback (most recent call last):\n  File "a.py", line 1, in f\nValueError: {text}\n',
        ]
    ),
    max_size=3,
)


def read(text: str) -> str:
    """Everything a person could read out of a text: decoded, again and again."""
    seen = [text]
    for _ in range(5):
        last = seen[-1]
        parts = [urllib.parse.unquote(last), re.sub(r"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m.group(1), 16)), last)]
        parts += [re.sub(r"\\(.)", r"\1", last), re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", last)]
        for run in re.findall(r"[A-Za-z0-9+/=_-]{16,}", last):
            try:
                parts.append(base64.b64decode(run + "=" * (-len(run) % 4), altchars=b"-_").decode("latin-1"))
            except ValueError:
                continue
        seen.append("\n".join(dict.fromkeys(parts))[:200_000])
    return "\n".join(seen)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(structures, names, secrets, wrappings)
def test_the_canary_never_survives(structure, name, secret, wrapping) -> None:
    text = structure(name, secret)
    for wrap in wrapping:
        text = wrap(text)
    redacted = REDACTOR.text(text, "logs/a.log")
    readable = read(redacted)
    assert CANARY not in readable
    assert TAIL not in readable
    assert REDACTOR.text(redacted, "logs/a.log") == redacted
    assert scan("a", redacted.encode()) == []


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    names,
    secrets,
    st.recursive(
        st.just("HERE"),
        lambda inside: (
            st.lists(inside, min_size=1, max_size=2)
            | st.dictionaries(st.text(max_size=4), inside, min_size=1, max_size=2)
        ),
    ),
    structures,
)
def test_the_canary_never_survives_in_json(name, secret, shape, structure) -> None:
    def planted(value):
        if isinstance(value, list):
            return [planted(item) for item in value]
        if isinstance(value, dict):
            return {key: planted(item) for key, item in value.items()}
        return {name: secret, "text": structure(name, secret), "n": 1}

    redacted = REDACTOR.json(planted(shape), "state.json")
    readable = read(json.dumps(redacted))
    assert CANARY not in readable
    assert TAIL not in readable
    assert REDACTOR.json(redacted, "state.json") == redacted


odd_names = st.sampled_from(
    [
        "password",
        "token",
        "name",
        "value",
        "cookie",
        "Authorization",
        "key",
        "x",
        "session",
        "Set-Cookie",
        "tokens",
        "a b",
    ]
)
odd_leaves = st.one_of(
    odd_names,
    st.integers(0, 10**17),
    st.sampled_from(
        [None, True, 0.5, "hunter22", "a=b; c=d", "Bearer abcdefgh123456", "postgres://a:b@c/d", "Qx7!\"'\\ x",
        "password=",
         "4111111111111111", "0494 92 82 32", "-----BEGIN PRIVATE KEY-----", "call me at", "", "a@b.de", "8.8.8.8"]
    ),
)  # fmt: skip


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.recursive(
        odd_leaves,
        lambda inside: st.lists(inside, max_size=4) | st.dictionaries(odd_names, inside, max_size=4),
        max_leaves=12,
    )
)
def test_what_was_redacted_as_a_value_is_harmless_as_the_text_it_becomes(value) -> None:
    redacted = REDACTOR.json(value, "state.json")
    assert scan("state.json", as_json(redacted).encode()) == []
    assert REDACTOR.json(redacted, "state.json") == redacted


pieces = st.sampled_from(
    ["password", "token", "=", ":", " ", "\n", '"', "'", "\\", "://", "@", "a.b", ".de", "kunde",
     "4111111111111111", "8.8.8.8", "Bearer ", "Authorization", "Cookie", "a=b;", "eyJhbGciOi", "J9.eyJzdWIi.x",
     "%3D", "%22", "-----BEGIN PRIVATE KEY-----", "-----END", "AKIAQYLPMN5HHHFPZAM2", "+49 30 901820", "<", ">",
     "<redacted:token:0123abcd>", "{", "}", "[", "]", ",", "&", "?", "hunter22", "x1", "é", "\udcff", "0", "call "]
)  # fmt: skip


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(pieces, max_size=25).map("".join))
def test_redacting_twice_is_redacting_once(text: str) -> None:
    once = REDACTOR.text(text, "a")
    assert REDACTOR.text(once, "a") == once


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=300))
def test_no_bytes_are_too_strange(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    once = REDACTOR.text(text, "a")
    assert REDACTOR.text(once, "a") == once
    scan("a", data)
