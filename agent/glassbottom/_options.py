"""What settings are called, and where they are read from: arguments, GLASSBOTTOM_*, OTEL_*. Wrong names are refused.

OPTIONS is the single table that names a setting for Python (`init(snapshot_interval_s=30)`) and for the environment
(`GLASSBOTTOM_SNAPSHOT_INTERVAL_S=30`). Nothing is read from the environment anywhere else or later.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from ._config import (
    UNKNOWN_SERVICE,
    AsyncioConfig,
    CapturesConfig,
    Config,
    HeapConfig,
    ProfileConfig,
    RuntimeConfig,
    SpansConfig,
    TlsConfig,
    TransportConfig,
)
from ._errors import ConfigError
from ._log import log


@dataclass(frozen=True)
class Option:
    """One setting: where it goes and how to read it from text."""

    section: str
    name: str
    parse: Callable[[str], Any]


def _bool(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in ("1", "true", "yes", "on"):
        return True
    if lowered in ("", "0", "false", "no", "off"):
        return False
    raise ValueError("1 or 0")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("a number") from None


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("a whole number") from None


def _share(text: str) -> float | str:
    return "auto" if text.strip().lower() == "auto" else _number(text)


def _commands(text: str) -> frozenset[str]:
    names = {part.strip() for part in text.split(",") if part.strip()}
    return frozenset() if names == {"none"} else frozenset(names)


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _signal(text: str) -> str:
    """Also "off", for an environment in which an empty variable is hard to write."""
    return "" if text.strip().lower() in ("", "0", "off", "none") else text.strip().upper()


OPTIONS: dict[str, Option] = {
    "service": Option("", "service", str),
    "endpoint": Option("", "endpoint", str),
    "disable": Option("", "disable", _bool),
    "commands": Option("", "commands", _commands),
    "heap": Option("heap", "enabled", _bool),
    "snapshot_interval_s": Option("heap", "snapshot_interval_s", _number),
    "interval_bytes": Option("heap", "interval_bytes", _integer),
    "window_share": Option("heap", "window_share", _share),
    "complete_every": Option("heap", "complete_every", _integer),
    "runtime": Option("runtime", "enabled", _bool),
    "runtime_interval_s": Option("runtime", "interval_s", _number),
    "asyncio": Option("asyncio", "enabled", _bool),
    "asyncio_interval_s": Option("asyncio", "interval_s", _number),
    "blocked_ms": Option("asyncio", "blocked_ms", _number),
    "stuck_s": Option("asyncio", "stuck_s", _number),
    "scan_tasks_max": Option("asyncio", "scan_tasks_max", _integer),
    "spans": Option("spans", "enabled", _bool),
    "spans_interval_s": Option("spans", "interval_s", _number),
    "slow_span_ms": Option("spans", "slow_ms", _number),
    "span_attributes": Option("spans", "attributes", _names),
    "http_spans": Option("spans", "http", _bool),
    "open_span_s": Option("spans", "open_s", _number),
    "span_debug": Option("spans", "debug", _bool),
    "otlp_endpoint": Option("spans", "otlp_endpoint", str),
    "profile": Option("profile", "enabled", _bool),
    "profile_interval_s": Option("profile", "interval_s", _number),
    "profile_hz": Option("profile", "sample_hz", _number),
    "capture_dir": Option("captures", "directory", Path),
    "capture_bytes_max": Option("captures", "bytes_max", _integer),
    "capture_seconds_max": Option("captures", "seconds_max", _number),
    "log_records": Option("captures", "log_records", _integer),
    "state_env": Option("captures", "state_env", _names),
    "incident_signal": Option("captures", "incident_signal", _signal),
    "queue_bytes_max": Option("transport", "queue_bytes_max", _integer),
    "heartbeat_interval_s": Option("transport", "heartbeat_interval_s", _number),
    "connect_delay_s": Option("transport", "connect_delay_s", _number),
    "backoff_s_min": Option("transport", "backoff_s_min", _number),
    "backoff_s_max": Option("transport", "backoff_s_max", _number),
    "shutdown_timeout_s": Option("transport", "shutdown_timeout_s", _number),
    "tls": Option("tls", "enabled", _bool),
    "tls_ca_file": Option("tls", "ca_file", Path),
    "tls_cert_file": Option("tls", "cert_file", Path),
    "tls_key_file": Option("tls", "key_file", Path),
    "tls_server_name": Option("tls", "server_name", str),
}
"""Every setting by its name; the environment variable is GLASSBOTTOM_ and the name in capitals."""

PREFIX = "GLASSBOTTOM_"
NOT_OURS = tuple(PREFIX + part for part in ("ADDR", "COLLECTOR_", "RUN_", "DEMO_", "BENCH_", "TEST_"))
"""Beginnings of variables that belong to other parts: the command line, the collector, `glassbottom run` and so on."""


def from_env(
    environ: Mapping[str, str],
    *,
    service: str | None = None,
    endpoint: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Config:
    """The configuration from arguments, then GLASSBOTTOM_*, then OTEL_*, then defaults.

    Raises ConfigError for an unknown name or a value out of range.
    """
    values: dict[str, Any] = {}
    for variable, text in environ.items():
        if variable.startswith(PREFIX) and not variable.startswith(NOT_OURS):
            name = _known(variable.removeprefix(PREFIX).lower(), variable)
            values[name] = _parsed(name, variable, text)
    attributes = _resource_attributes(environ.get("OTEL_RESOURCE_ATTRIBUTES", ""))
    if not values.get("service"):
        values["service"] = environ.get("OTEL_SERVICE_NAME") or attributes.get("service.name") or UNKNOWN_SERVICE
    given = dict(options or {})
    attributes.update({str(name): str(value) for name, value in (given.pop("attributes", None) or {}).items()})
    for name, value in given.items():
        values[name] = _typed(_known(name, name), value)
    if service is not None:
        values["service"] = service
    if endpoint is not None:
        values["endpoint"] = endpoint
    return _assemble(values, attributes)


def _assemble(values: Mapping[str, Any], attributes: Mapping[str, str]) -> Config:
    sections: dict[str, dict[str, Any]] = {option.section: {} for option in OPTIONS.values()}
    for name, value in values.items():
        option = OPTIONS[name]
        sections[option.section][option.name] = value
    return Config(
        **sections[""],
        attributes=dict(attributes),
        heap=HeapConfig(**sections["heap"]),
        runtime=RuntimeConfig(**sections["runtime"]),
        asyncio=AsyncioConfig(**sections["asyncio"]),
        spans=SpansConfig(**sections["spans"]),
        profile=ProfileConfig(**sections["profile"]),
        captures=CapturesConfig(**sections["captures"]),
        transport=TransportConfig(**sections["transport"], tls=TlsConfig(**sections["tls"])),
    )


def settings(config: object) -> dict[str, Any]:
    """Every setting by its name, as JSON knows values; sections within."""
    found: dict[str, Any] = {}
    for each in fields(config):  # type: ignore[arg-type]
        value = getattr(config, each.name)
        if is_dataclass(value):
            value = settings(value)
        elif isinstance(value, (frozenset, tuple)):
            value = sorted(value) if isinstance(value, frozenset) else list(value)
        elif isinstance(value, Mapping):
            value = dict(value)
        elif isinstance(value, Path):
            value = str(value)
        found[each.name] = value
    return found


def _known(name: str, shown: str) -> str:
    if name in OPTIONS:
        return name
    nearest = difflib.get_close_matches(name, OPTIONS, n=1)
    in_capitals = shown.startswith(PREFIX)
    if nearest:
        meant = PREFIX + nearest[0].upper() if in_capitals else nearest[0]
        raise ConfigError(f"{shown} is not a setting of glassbottom; did you mean {meant}?")
    raise ConfigError(f"{shown} is not a setting of glassbottom; docs/agent.md lists them all.")


def _parsed(name: str, variable: str, text: str) -> Any:
    try:
        return OPTIONS[name].parse(text)
    except ValueError as error:
        raise ConfigError(f"{variable}={text!r} cannot be read; it must be {error}.") from None


def _typed(name: str, value: Any) -> Any:
    """Brings a Python argument to the type of its field, so that a path may be given as text."""
    parse = OPTIONS[name].parse
    if parse is Path:
        return Path(value)
    if parse is _names and not isinstance(value, str):
        return tuple(value)
    if parse is _names:
        return _names(value)
    if parse is _signal and isinstance(value, str):
        return _signal(value)
    if parse is _commands:
        return _commands(value) if isinstance(value, str) else frozenset(value)
    return value


def _resource_attributes(text: str) -> dict[str, str]:
    """OTEL_RESOURCE_ATTRIBUTES: key=value pairs, comma separated, percent-encoded. Not ours, so tolerant."""
    attributes: dict[str, str] = {}
    for part in text.split(","):
        if not part.strip():
            continue
        name, equals, value = part.partition("=")
        if not equals or not name.strip():
            log().warning("glassbottom: OTEL_RESOURCE_ATTRIBUTES holds %r, which is no key=value; ignored.", part)
            continue
        if "%" in value:
            from urllib.parse import unquote

            value = unquote(value)
        attributes[name.strip()] = value.strip()
    return attributes
