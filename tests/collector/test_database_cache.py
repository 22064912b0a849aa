"""What a capture reads of a real Redis, and that nobody's data is in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from glassbottom_collector.database.cache import CacheTarget, Redis, command
from glassbottom_collector.incident.parts import CollectingError

from tests.support.collecting import collected
from tests.support.redis_server import RedisServer, redis_server

pytestmark = pytest.mark.once

PASSWORD = "pass-canary"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server("--slowlog-log-slower-than", "0", password=PASSWORD) as running:
        yield running


@pytest.fixture
def target(server: RedisServer, tmp_path: Path) -> CacheTarget:
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    return CacheTarget("sessions", server.url, file)


def unchanged(text: str, place: str) -> str:
    return text


def test_the_ratio_of_hits_is_of_the_time_between_two_readings(server: RedisServer, target: CacheTarget) -> None:
    server.client.set("a", "1")
    for _ in range(10):
        server.client.get("absent")

    def work(_seconds: float) -> None:
        for key in ("a", "a", "a", "absent"):
            server.client.get(key)

    document = collected(Redis(target, "7", unchanged, work)).read("cache/sessions.json")
    assert document["over_2_s"]["hit_ratio"] == 0.75
    assert document["since_start"]["hit_ratio"] < 0.75
    assert document["commands"]["cmdstat_get"]["calls"] >= 14
    assert document["latency_us"]["latency_percentiles_usec_get"]["p99"] > 0
    assert (document["role"], document["redis_role"]) == ("cache", "primary")


def test_slow_commands_are_told_without_keys_and_values(server: RedisServer, target: CacheTarget) -> None:
    server.client.set("session:key-canary", "value-canary")
    server.client.set("key-canary", "value-canary")
    server.client.hset("cart:9", mapping={"field-canary": "value-canary"})
    server.client.eval("return 'script-canary'", 1, "key-canary")

    kept = collected(Redis(target, "7", unchanged, lambda _seconds: None))
    slow = [entry["command"] for entry in kept.read("cache/sessions.json")["slow"]]
    assert {"SET session:? (1 more words)", "SET ? (1 more words)", "HSET cart:? (2 more words)"} <= set(slow)
    assert "canary" not in kept.files["cache/sessions.json"]


def test_only_commands_that_cost_the_same_whatever_the_server_holds_are_sent(
    server: RedisServer, target: CacheTarget
) -> None:
    server.client.config_resetstat()
    collected(Redis(target, "7", unchanged, lambda _seconds: None))
    used = {name.removeprefix("cmdstat_") for name in server.client.info("commandstats")}
    assert used - {"config|resetstat"} <= {
        "auth", "hello", "client|setname", "client|setinfo", "client|maint_notifications", "select",
        "info", "slowlog|get", "latency|latest",
    }  # fmt: skip


def test_a_wrong_password_is_said_and_not_told(server: RedisServer, target: CacheTarget) -> None:
    assert target.password_file is not None
    target.password_file.write_text("wrong-canary")
    with pytest.raises(CollectingError, match=r"Redis sessions did not answer|cannot be reached") as caught:
        collected(Redis(target, "7", unchanged))
    assert "canary" not in str(caught.value)


def test_a_server_that_is_gone_is_one_sentence() -> None:
    with redis_server() as gone:
        target = CacheTarget("gone", gone.url)
    with pytest.raises(CollectingError, match=r"Redis gone (did not answer|cannot be reached)"):
        collected(Redis(target, "7", unchanged))


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ("GET user:42:name", "GET user:?"),
        ("get anna@example.com", "GET ?"),
        ("GET 4711", "GET ?"),
        ("AUTH anna s3cret", "AUTH (2 words)"),
        ("s3cret\x00", "?"),
        ("PING", "PING"),
    ],
)
def test_a_command_is_told_by_its_name_and_the_first_part_of_its_key(sent: str, told: str) -> None:
    assert command(sent) == told
