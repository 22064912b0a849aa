"""Redacting a text: what goes, what stays, and what is put in its place."""

import base64
import hashlib
import json
import re
import sys
import time
from importlib import resources

import pytest
from glassbottom_collector.errors import ConfigError
from glassbottom_collector.redaction import Redactor
from glassbottom_collector.redaction.names import Names
from glassbottom_collector.redaction.rules import gitleaks
from glassbottom_collector.redaction.spans import Span

pytestmark = pytest.mark.once

KEY = b"a key of at least sixteen bytes"
SECRET = "Zq7-vulture.Kestrel"


@pytest.fixture
def redactor() -> Redactor:
    return Redactor(KEY)


def test_the_rules_are_those_of_the_release_that_is_named_beside_them() -> None:
    data = resources.files("glassbottom_collector.redaction") / "data"
    digest = hashlib.sha256((data / "gitleaks.toml").read_bytes()).hexdigest()
    assert digest in (data / "SOURCE.md").read_text()
    assert "MIT License" in (data / "LICENSE.gitleaks").read_text()
    assert len(gitleaks().rules) > 200


@pytest.mark.parametrize(
    "text",
    [
        "postgres://app:{}@db.internal:5432/orders",
        "redis://:{}@cache:6379/0",
        "amqp:\\/\\/app:{}@queue\\/vhost",
        "host=db dbname=orders user=app password={} sslmode=require",
        "host=db password='{}' user=app",
        "Server=db;Pwd={};Database=orders",
        "Authorization: Bearer {}",
        "authorization: Custom {}",
        "GET / HTTP/1.1\r\nX-Api-Key: {}\r\nHost: a\r\n\r\n",
        "Cookie: theme=dark; session={}",
        "Set-Cookie: session={}; Path=/; HttpOnly",
        '{{"db": {{"password": "{}"}}}}',
        '{{"passwords": 1, "clientSecret" : "{}"}}',
        '"{{\\"password\\": \\"{}\\"}}"',
        '"{{\\\\\\"password\\\\\\": \\\\\\"{}\\\\\\"}}"',
        "{{'api_key': '{}', 'n': 1}}",
        "{{'api_key': b'{}'}}",
        "[(b'host', b'a'), (b'authorization', b'Bearer {}')]",
        '[{{"name": "DB_PASSWORD", "value": "{}"}}]',
        "- name: DB_PASSWORD\n  value: {}\n",
        "db:\n  password: {}\n",
        "DB_PASSWORD={}",
        "export ORDERS_SECRET_KEY='{}'",
        "GET /pay?order=1&access_token={}&x=1 HTTP/1.1",
        "GET /login?next=%2Fpay%3Ftoken%3D{}%26x%3D1",
        "mysql --user=app --password={} orders",
        "worker --api-key {} --verbose",
        '["worker", "--password", "{}"]',
        "<db><password>{}</password></db>",
        "CREATE USER app PASSWORD '{}'",
        "ALTER USER 'app' IDENTIFIED BY '{}'",
        'CONFIG SET requirepass "{}"',
        "password = {}\t# of the orders",
        "password=\x1b[31m{}\x1b[0m",
        "DETAIL:  Key (token)=({}) already exists.",
        "[parameters: ('{}', 1)]",
    ],
)
def test_a_secret_is_known_by_where_it_stands(redactor: Redactor, text: str) -> None:
    redacted = redactor.text(text.format(SECRET), "logs/a.log")
    assert SECRET not in redacted
    assert "<redacted:" in redacted
    for part in ("vulture", "Kestrel"):
        assert part not in redacted
    assert redactor.text(redacted, "logs/a.log") == redacted


def test_basic_authorization_goes_as_a_whole_and_its_scheme_stays(redactor: Redactor) -> None:
    value = base64.b64encode(f"app:{SECRET}".encode()).decode()
    redacted = redactor.text(f"Authorization: Basic {value}\nHost: a", "traffic/1")
    assert value not in redacted
    assert redacted.startswith("Authorization: Basic <redacted:authorization:")
    assert redacted.endswith("\nHost: a")


@pytest.mark.parametrize(
    "text",
    [
        "2015-10-18 18:01:47,978 INFO [main] app.MRAppMaster: Executing with tokens:",
        "authentication failure; logname= uid=0 euid=0 tty=NODEVssh ruser= rhost=",
        "password: required",
        "token = request.headers.get('x')",
        "connect(user=user, password=password)",
        "max_tokens=512 prompt_tokens: 1024",
        'access_token_url = "https://accounts.corp.net/token"',
        "password=${DB_PASSWORD} token=$TOKEN secret={{ vault }}",
        "sessionid: 0x14ede63a5a70002",
        "Session: 30546173_4261722401 initialized by client UpdateAgent",
        "Skipping AppWindowToken{df0798e token=Token{78af589 ActivityRecord{3b04890 u0 com.shop/.Main}}}",
        "token=android.os.BinderProxy@78af589 flags=0x1, std::token::Kind",
        "wcp.dll version 0.0.0.6 called (stack @0x7fed806eb5d @0x7fefb2c4c0d)",
        "setTotalSteps=1514038440000##7007##548365##27164404, registered 12345678 blocks, calls: 90123456",
        "081109 203615 148 INFO call 1 of 20161109, number 20051109 17.12.2015 2015-12-17",
        "publicKeyToken = {l:8 b:31bf3856ad364e35}, data TLB error r24=00000000 03bb4d20",
        "blk_-6952295868487656571 of size 67108864",
        "trace_id=4bf92f3577b34da6a3ce929d0e0e4736 span_id=00f067aa0ba902b7",
        "commit 83d9cd684c87d95d656c1458ef04895a7f1cbd8e",
        "at 1764041759123 ms, id 550e8400-e29b-41d4-a716-446655440000",
        "std::vector<int> at 12:30:45 in version 1.2.3.4 of lib-1.2.3.4.jar",
        "akka.tcp://sparkExecutorActorSystem@mesos-slave-07:55904",
        "http://web:8080/path?size=2 and git@github.com:a/b.git",
        "icon@2x.png someone@example.com 555-0142 202-555-0142",
        "127.0.0.1 0.0.0.0 255.255.255.255 169.254.1.1",
    ],
)
def test_what_is_no_secret_stays(redactor: Redactor, text: str) -> None:
    assert redactor.text(text, "logs/a.log") == text


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("email", "mail from Anna.Meier+shop@kunde-gmbh.de now"),
        ("email", "?user=anna%40kunde.de&x=1"),
        ("phone", "call me at 0494 92 82 32 please"),
        ("phone", "fax +46 (0)8 928 571 38"),
        ("phone", "she is at 030 1234 5678 until six"),
        ("phone", "text me on 699 956 915"),
        ("phone", "phone: 7123456"),
        ("phone", "(541) 714-1388"),
        ("card", "paid with 4111 1111 1111 1111 today"),
        ("card", "pan 378282246310005"),
        ("iban", "to DE89 3704 0044 0532 0130 00 today"),
        ("iban", "iban=GB82WEST12345698765432"),
        ("us-ssn", "ssn 536-22-8714"),
    ],
)
def test_personal_data_is_validated_and_goes(redactor: Redactor, rule: str, text: str) -> None:
    redacted = redactor.text(text, "logs/a.log")
    assert f"<redacted:{rule}:" in redacted
    assert Redactor(KEY, personal=False).text(text, "logs/a.log") == text


@pytest.mark.parametrize(
    "text",
    [
        "paid with 4111 1111 1111 1112 today",  # Luhn says no
        "to DE88 3704 0044 0532 0130 00 today",  # mod 97 says no
        "part 000-12-3456 and 987-65-4321",  # never issued
    ],
)
def test_what_does_not_validate_is_a_number_like_any_other(redactor: Redactor, text: str) -> None:
    assert redactor.text(text, "logs/a.log") == text


def test_the_same_secret_is_the_same_token_under_a_key_and_another_under_another() -> None:
    text = f"password={SECRET}\npassword={SECRET}x\npassword={SECRET}"
    first, other, again = Redactor(KEY).text(text, "a").splitlines()
    assert first == again != other
    assert Redactor(KEY).text(text, "b").splitlines()[0] == first
    assert Redactor(bytes(16)).text(text, "a").splitlines()[0] != first


def test_a_key_that_can_be_guessed_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 16"):
        Redactor(b"short")


def test_addresses_are_mapped_so_that_subnets_and_privacy_can_still_be_seen(redactor: Redactor) -> None:
    text = "10.1.2.3 10.1.2.4 10.9.9.9 8.8.8.8 10.1.2.3 [2001:4860:4860::8888]:53 fe80::1ff:fe23:4567:890a"
    one, two, far, public, again, six, local = redactor.text(text, "a").split()
    assert one == again
    assert one != two
    assert one.rsplit(".", 1)[0] == two.rsplit(".", 1)[0] != far.rsplit(".", 1)[0]
    assert 248 <= int(one.split(".")[0]) <= 251
    assert 240 <= int(public.split(".")[0]) <= 247
    assert six.startswith("[2001:db8:")
    assert six.endswith("]:53")
    assert local.startswith("2001:db8:")
    assert Redactor(KEY, map_addresses=False).text(text, "a") == text


def test_the_ledger_says_what_went_from_where_and_never_what_it_was() -> None:
    redactor = Redactor(KEY)
    redactor.text(f"first\npassword={SECRET} mail a.b@kunde.de\n", "logs/a.log")
    redactor.json({"token": SECRET}, "config.json")
    ledger = redactor.ledger()
    assert {"rule": "password", "place": "logs/a.log", "line": 2, "count": 1, "characters": len(SECRET)} in ledger
    assert [entry["rule"] for entry in ledger if entry["place"] == "config.json"] == ["token"]
    assert SECRET not in json.dumps(ledger)
    assert "kunde" not in json.dumps(ledger)


def test_the_ledger_has_a_bound_and_counts_what_is_beyond(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glassbottom_collector.redaction.redactor.LEDGER_ENTRIES_MAX", 5)
    redactor = Redactor(KEY)
    redactor.text("\n".join(f"password=hunter{number}" for number in range(20)), "a")
    ledger = redactor.ledger()
    assert len(ledger) == 6
    assert ledger[-1] == {"rule": "password", "place": "", "line": 0, "count": 15, "characters": 15 * 8 - 5}


def test_json_loses_what_stands_under_a_promising_name_and_keeps_its_shape(redactor: Redactor) -> None:
    value = {
        "service": "shop",
        "password": SECRET,
        "credentials": {"user": "app1", "keys": [SECRET, 12345678]},
        "headers": [["authorization", f"Bearer {SECRET}"], ["cookie", f"theme=dark; sid={SECRET}"], ["host", "a"]],
        "Set-Cookie": f"sid={SECRET}; Path=/",
        "env": [{"name": "DB_PASSWORD", "value": SECRET}, {"name": "REGION", "value": "eu-1"}],
        "dsn": f"postgres://app:{SECRET}@db/orders",
        "body": json.dumps({"inner": json.dumps({"token": SECRET})}),
        "count": 5,
        "ratio": 0.5,
        "none": None,
        "yes": True,
        "a.b@kunde.de": 1,
        "card": 4111111111111111,
    }
    redacted = redactor.json(value, "state.json")
    text = json.dumps(redacted)
    assert SECRET not in text
    assert "kunde" not in text
    assert "4111111111111111" not in text
    assert redacted["headers"][0][1].startswith("Bearer <redacted:")
    assert redacted["headers"][1][1].startswith("theme=<redacted:cookie:")
    assert redacted["headers"][2] == ["host", "a"]
    assert redacted["env"][1] == {"name": "REGION", "value": "eu-1"}
    assert (redacted["service"], redacted["count"], redacted["ratio"]) == ("shop", 5, 0.5)
    assert (redacted["none"], redacted["yes"]) == (None, True)
    assert redactor.json(redacted, "state.json") == redacted


def test_a_value_that_is_known_to_be_secret_goes_wherever_it_stands() -> None:
    redactor = Redactor(KEY, known=[SECRET, "abc"])
    redacted = redactor.text(f"login failed for app with {SECRET} (abc)", "a")
    assert SECRET not in redacted
    assert "(abc)" in redacted


@pytest.mark.parametrize("text", ["", "\0", "\udc80\udcff password=hunter2\udcff", "é password=hünter2 ü", "\x9b31m"])
def test_no_text_is_too_strange(redactor: Redactor, text: str) -> None:
    redacted = redactor.text(text, "a")
    assert "nter2" not in redacted


def test_a_private_key_goes_even_when_its_end_is_missing(redactor: Redactor) -> None:
    body = "MIIEpQIBAAKCAQEAn6/O8li+SX4m98LLYt/PKSzEmQ++ZBD7Loh9P13f4yQ92EF3\nyxR5MsXFu9PRsjGQ\n"
    begin, end = "-----BEGIN RSA PRIVATE KEY-----\n", "-----END RSA PRIVATE KEY-----"
    for text in (begin + body + end, begin + body, json.dumps({"pem": begin + body + end})):
        redacted = redactor.text(f"key:\n{text} and then", "a")
        assert "MIIEpQ" not in redacted
        assert "yxR5Ms" not in redacted


def test_very_long_lines_and_large_texts_are_worked_on_in_pieces(redactor: Redactor) -> None:
    line = "x" * 700_000 + f" password={SECRET} " + "y" * 700_000 + f" token={SECRET}\n"
    redacted = redactor.text(line * 2 + f"password={SECRET}", "a")
    assert SECRET not in redacted
    assert redacted.count("<redacted:") == 5
    assert [entry["line"] for entry in redactor.ledger()] == [1, 1, 2, 2, 3]


@pytest.mark.parametrize(
    "piece", ["password=", 'password="', '"token":[', "cookie: a=b; ", "password=a,b=c,", "%2541", '\\"']
)
def test_a_text_that_is_made_of_names_takes_no_more_than_its_length(redactor: Redactor, piece: str) -> None:
    """Twice as long takes about twice the time; with the square it would be four times. The bound is far from both."""
    pieces = [piece * (size // len(piece)) for size in (4_000, 32_000)]
    short, long = (cpu_seconds(lambda text=text: redactor.text(text, "a")) for text in pieces)
    assert long < 24 * max(short, 0.01)


def cpu_seconds(work) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def test_names_need_an_extra_and_its_absence_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(ConfigError, match=r"pip install 'glassbottom\[ner\]'"):
        Names()


def test_what_a_model_finds_goes_like_everything_else() -> None:
    class OneName:
        """Stands for a model: what Names is like, without its 410 MB."""

        def find(self, data: bytes):
            at = data.find(b"Anna Meier")
            return [Span(at, at + 10, "person", personal=True)] if at >= 0 else []

    redacted = Redactor(KEY, names=OneName()).text("order of Anna Meier, password=hunter22", "a")
    assert re.fullmatch(r"order of <redacted:person:\w{8}>, password=<redacted:password:\w{8}>", redacted)
