"""Configuration: what is wrong is refused with the key and what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest
from glassbottom_collector.config import CollectorConfig, default_data_directory, load, parse_bytes
from glassbottom_collector.errors import ConfigError


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "collector.yaml"
    path.write_text(text)
    return path


def test_without_a_file_the_defaults_hold() -> None:
    config = load(None)
    assert config == CollectorConfig()
    assert (config.listen.host, config.listen.port) == ("127.0.0.1", 7411)
    assert config.storage.path.name == "glassbottom"


def test_a_file_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        listen:
          port: 9000
        storage:
          path: ~/elsewhere
          bytes_max: 2GiB
          commit: {wait_ms_max: 50}
        ingest:
        """,
    )
    config = load(path)
    assert config.listen.port == 9000
    assert config.listen.host == "127.0.0.1"
    assert config.storage.path == Path.home() / "elsewhere"
    assert config.storage.bytes_max == 2 * 2**30
    assert config.storage.commit.wait_ms_max == 50
    assert config.storage.commit.rows_max == 20_000


def test_an_override_beats_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "listen: {port: 9000, host: 127.0.0.2}")
    config = load(path, {"listen.port": 0, "storage.bytes_max": "1GiB"})
    assert (config.listen.host, config.listen.port) == ("127.0.0.2", 0)
    assert config.storage.bytes_max == 2**30


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("storage: {retension_days: 3}", "Unknown configuration key storage.retension_days: did you mean storage.ret"),
        ("storge: {}", "did you mean storage?"),
        ("listen: {retention_days: 3}", "did you mean storage.retention_days?"),
        ("qwertz: 1", "known keys: captures, captures."),
        ("listen: 7411", "listen must hold further keys, not 7411"),
        ("listen: {port: many}", "listen.port must be a whole number, not 'many'"),
        ("listen: {port: true}", "listen.port must be a whole number"),
        ("listen: {port: 70000}", "between 0 and 65535"),
        ("listen: {host: ''}", "listen.host is empty"),
        ("listen: {host: 5}", "listen.host must be text"),
        ("listen: {insecure: 'yes'}", "listen.insecure must be true or false"),
        ("listen: {tls: {certificate: a.pem}}", "both certificate and key"),
        ("storage: {path: 5}", "storage.path must be a path"),
        ("storage: {retention_days: 0}", "storage.retention_days must be at least 1"),
        ("storage: {bytes_max: 10 apples}", "storage.bytes_max must be a size such as"),
        ("storage: {bytes_max: 1}", "storage.bytes_max must be at least"),
        ("storage: {retention_days: 10GiB}", "storage.retention_days must be a whole number"),
        ("ingest: {sessions_max: 0}", "ingest.sessions_max must be at least 1"),
        ("ingest: {batch_bytes_max: 16MiB}", "one message of at most"),
        ("ingest: {pending_bytes_max: 1MiB}", "no large batch fits"),
        ("storage: {queue_bytes_max: 1MiB}", "storage.queue_bytes_max must be at least ingest.pending_bytes_max"),
        ("- a\n- b", "must hold keys such as listen"),
        ("listen: [", "is not YAML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, text))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "missing.yaml")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "collector.internal"])
def test_off_loopback_plain_text_has_to_be_asked_for(host: str) -> None:
    with pytest.raises(ConfigError, match=r"no TLS: set listen\.tls\.certificate"):
        load(None, {"listen.host": host})
    assert load(None, {"listen.host": host, "listen.insecure": True}).listen.host == host
    tls = {"listen.tls.certificate": "cert.pem", "listen.tls.key": "key.pem"}
    assert load(None, {"listen.host": host, **tls}).listen.tls.enabled


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost"])
def test_loopback_needs_nothing(host: str) -> None:
    assert load(None, {"listen.host": host}).listen.host == host


@pytest.mark.parametrize(
    ("text", "size"), [("4096", 4096), ("1 KiB", 1024), ("1.5MiB", 3 * 2**19), ("2gib", 2**31), ("7B", 7)]
)
def test_sizes_may_be_written_with_units(text: str, size: int) -> None:
    assert parse_bytes("key", text) == size


def test_data_go_where_the_desktop_standard_says() -> None:
    assert default_data_directory({"XDG_DATA_HOME": "/data"}) == Path("/data/glassbottom")
    assert default_data_directory({}) == Path.home() / ".local/share/glassbottom"


DATABASE = """
databases:
  - name: orders
    service: checkout
    kind: postgresql
    replica: host=replica dbname=orders user=watcher
    sample: {rows_per_table: 10, allow: [orders.status]}
  - {name: cache, kind: redis, replica: "redis://cache:6379/0"}
"""


def test_databases_are_a_list_of_their_own(tmp_path: Path) -> None:
    orders, cache = load(written(tmp_path, DATABASE)).databases

    assert (orders.name, orders.sample.rows_per_table, orders.sample.allow) == ("orders", 10, ("orders.status",))
    assert (cache.kind, cache.service, cache.sample.rows_per_table) == ("redis", "", 1_000)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("databases: orders", "databases must be a list"),
        ("databases: [orders]", "each of databases must hold keys such as name"),
        ("databases: [{name: a b, replica: x}]", "databases.name must be 1 to 50 letters"),
        ("databases: [{name: a, kind: oracle, replica: x}]", "databases.kind of a must be one of postgresql"),
        ("databases: [{name: a}]", "databases.replica of a is empty"),
        ("databases: [{name: a, replica: x}, {name: a, replica: y}]", "databases has one name twice"),
        ("databases: [{name: a, replica: 'host=x password=hunter2'}]", "holds a password; put it into password_file"),
        ("databases: [{name: a, replica: 'postgresql://me:hunter2@x/y'}]", "holds a password"),
        ("databases: [{name: a, replcia: x}]", "did you mean databases.replica?"),
        ("incidents: {on_slo_error_ratio: 2}", "incidents.on_slo_error_ratio must be between 0 and 1"),
        ("incidents: {log_files: /var/log/app.log}", "incidents.log_files must be a list"),
    ],
)
def test_a_source_that_makes_no_sense_is_refused_and_no_password_is_repeated(
    tmp_path: Path, text: str, sentence: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, text))
    assert sentence in str(caught.value)
    assert "hunter2" not in str(caught.value)
