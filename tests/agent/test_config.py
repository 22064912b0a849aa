"""Settings: one table for Python and the environment, and a clear sentence for everything that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from glassbottom import Config, ConfigError, HeapConfig, TlsConfig
from glassbottom._options import from_env


def test_without_any_setting_the_defaults_reach_a_collector_on_this_machine():
    config = from_env({})
    assert config.endpoint == "127.0.0.1:7411"
    assert config.service == "unknown_service:python"
    assert config.heap == HeapConfig()
    assert not config.transport.tls.in_use


def test_arguments_win_over_our_variables_which_win_over_opentelemetrys():
    environ = {"OTEL_SERVICE_NAME": "from-otel", "OTEL_RESOURCE_ATTRIBUTES": "service.name=from-attributes"}
    assert from_env({"OTEL_RESOURCE_ATTRIBUTES": "service.name=from-attributes"}).service == "from-attributes"
    assert from_env(environ).service == "from-otel"
    environ["GLASSBOTTOM_SERVICE"] = "from-ours"
    assert from_env(environ).service == "from-ours"
    assert from_env(environ, service="from-code").service == "from-code"


def test_options_of_every_kind_can_be_given_in_the_environment(tmp_path: Path):
    pem = tmp_path / "x.pem"
    pem.touch()
    environ = {
        "GLASSBOTTOM_SNAPSHOT_INTERVAL_S": "30",
        "GLASSBOTTOM_INTERVAL_BYTES": "65536",
        "GLASSBOTTOM_WINDOW_SHARE": "0.25",
        "GLASSBOTTOM_HEAP": "0",
        "GLASSBOTTOM_COMMANDS": "none",
        "GLASSBOTTOM_QUEUE_BYTES_MAX": "100000",
        "GLASSBOTTOM_TLS_CA_FILE": str(pem),
    }
    config = from_env(environ)
    assert (config.heap.snapshot_interval_s, config.heap.interval_bytes, config.heap.window_share) == (30, 65536, 0.25)
    assert not config.heap.enabled
    assert config.commands == frozenset()
    assert config.transport.queue_bytes_max == 100_000
    assert config.transport.tls == TlsConfig(ca_file=pem)
    assert config.transport.tls.in_use


def test_the_same_names_work_as_arguments():
    config = from_env({}, options={"snapshot_interval_s": 2, "attributes": {"service.version": "1"}, "commands": []})
    assert config.heap.snapshot_interval_s == 2
    assert config.attributes == {"service.version": "1"}
    assert config.commands == frozenset()


@pytest.mark.parametrize(
    ("environ", "options", "sentence"),
    [
        ({"GLASSBOTTOM_INTERVAL_BYTE": "1"}, {}, "did you mean GLASSBOTTOM_INTERVAL_BYTES?"),
        ({}, {"snapshot_intervals": 1}, "did you mean snapshot_interval_s?"),
        ({"GLASSBOTTOM_QQQ": "1"}, {}, "docs/agent.md"),
        ({"GLASSBOTTOM_INTERVAL_BYTES": "many"}, {}, "must be a whole number"),
        ({"GLASSBOTTOM_HEAP": "maybe"}, {}, "must be 1 or 0"),
        ({}, {"interval_bytes": 100}, "between 4096"),
        ({}, {"window_share": 2.0}, "between 0.001 and 1"),
        ({}, {"snapshot_interval_s": float("nan")}, "out of range"),
        ({"GLASSBOTTOM_ENDPOINT": "http://collector:7411"}, {}, "without http://"),
        ({"GLASSBOTTOM_ENDPOINT": "collector"}, {}, "HOST:PORT"),
        ({"GLASSBOTTOM_COMMANDS": "shell"}, {}, "shell"),
        ({"GLASSBOTTOM_TLS_CA_FILE": "/no/such"}, {}, "which is no file"),
        ({}, {"service": ""}, "service must be a name"),
        ({}, {"backoff_s_min": 10, "backoff_s_max": 5}, "backoff_s_max"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_to_do(environ: dict[str, str], options: dict[str, object], sentence: str):
    with pytest.raises(ConfigError, match=r".") as refused:
        from_env(environ, options=options)
    assert sentence in str(refused.value)


def test_a_key_without_its_certificate_is_refused(tmp_path: Path):
    pem = tmp_path / "x.pem"
    pem.touch()
    with pytest.raises(ConfigError, match="belong together"):
        TlsConfig(key_file=pem)


def test_variables_of_the_command_line_and_the_collector_are_not_ours_to_judge():
    assert from_env({"GLASSBOTTOM_ADDR": "x:1", "GLASSBOTTOM_COLLECTOR_DATA": "/x"}) == from_env({})


def test_resource_attributes_are_decoded_and_a_malformed_one_is_left_out(caplog: pytest.LogCaptureFixture):
    config = from_env(
        {"OTEL_RESOURCE_ATTRIBUTES": "service.version=1.4%2C2,nonsense,deployment.environment.name = prod"}
    )
    assert config.attributes == {"service.version": "1.4,2", "deployment.environment.name": "prod"}
    assert "nonsense" in caplog.text


def test_a_configuration_cannot_be_changed():
    with pytest.raises(AttributeError):
        Config().service = "other"  # type: ignore[misc]
