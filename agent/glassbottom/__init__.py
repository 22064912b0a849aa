"""Debug a production Python service without touching production: the part that lives in the application.

One line, `glassbottom.init(service="checkout")`, and the process is watched. Importing this module costs next to
nothing: everything with weight is imported when and if the agent starts, and never under
`GLASSBOTTOM_DISABLE=1`.
"""

from __future__ import annotations

from ._errors import CollectorUnavailable, ConfigError, GlassbottomError

TYPE_CHECKING = False  # typing's, without importing typing
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ._config import (
        AsyncioConfig,
        Config,
        HeapConfig,
        ProfileConfig,
        RuntimeConfig,
        SpansConfig,
        TlsConfig,
        TransportConfig,
    )
    from ._profile import profile as profile
    from .spans.asgi import AsgiMiddleware as AsgiMiddleware
    from .spans.wsgi import WsgiMiddleware as WsgiMiddleware

__version__ = "0.1.0"

__all__ = [
    "init",
    "shutdown",
    "flush",
    "snapshot",
    "status",
    "describe",
    "profile",
    "AsgiMiddleware",
    "WsgiMiddleware",
    "Config",
    "HeapConfig",
    "RuntimeConfig",
    "AsyncioConfig",
    "SpansConfig",
    "ProfileConfig",
    "TransportConfig",
    "TlsConfig",
    "GlassbottomError",
    "ConfigError",
    "CollectorUnavailable",
    "__version__",
]

_CONFIG_NAMES = {name for name in __all__ if name.endswith("Config")}


def init(
    service: str | None = None,
    *,
    endpoint: str | None = None,
    config: Config | None = None,
    strict: bool = False,
    **options: Any,
) -> None:
    """Starts watching this process. Calling it again changes nothing.

    Never raises into the application: a process that cannot be watched, or a wrong setting, is logged and shown by
    status(), and the application runs on. strict=True raises ConfigError for wrong settings instead.

    service: OpenTelemetry `service.name`; else GLASSBOTTOM_SERVICE, OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES.
    endpoint: the collector, "HOST:PORT"; else GLASSBOTTOM_ENDPOINT, else 127.0.0.1:7411.
    config: a complete Config; then nothing else may be given and the environment is not read, but for the kill switch.
    options: any option of docs/agent.md by its name, such as snapshot_interval_s=30; they win over the environment.
    """
    from ._switch import is_disabled

    if is_disabled():
        return
    try:
        from . import _process
    except ImportError as error:
        import logging

        logging.getLogger(__name__).warning("glassbottom is off: %s. Install it with what it depends on.", error)
        return

    _process.init(service, endpoint=endpoint, config=config, strict=strict, options=options)


def shutdown(timeout_s: float = 1.0) -> None:
    """Sends what is waiting, for at most timeout_s seconds, then stops watching. init() may be called again."""
    from . import _process

    _process.shutdown(timeout_s)


def flush(timeout_s: float = 5.0) -> bool:
    """Waits until the collector has stored everything read so far; False when timeout_s seconds were not enough."""
    from . import _process

    return _process.flush(timeout_s)


def snapshot(label: str = "", *, wait_s: float = 0.0) -> bool:
    """Asks for a complete reading of the heap now, beside the schedule; False when there will be none.

    label: a name, by which `glassbottom snapshot diff LABEL` finds this moment again; its first 100 characters count.
    wait_s: waits until the heap has been read, some milliseconds as a rule and at most so long; False when it was not.
    What comes after that is not in the snapshot. With 0 it returns at once, and the reading comes a little later.

    `snapshot()` then `flush()` waits until it is stored.
    """
    from . import _process

    return _process.snapshot(label, wait_s)


def status() -> dict[str, Any]:
    """What the agent does, since when it cannot do it, what it costs and what it lost: see docs/status.md.

    Keys: state ("running", "paused", "refused", "stopped", "off") of the heap sampler, reason (also of
    any other part that does not see all), service, instance_id, session_id, endpoint,
    connected, collector (version, store_id, last_error), statistics (by name), probes_disabled (name to reason),
    incident_signal (state and reason: whether SIGUSR2 asks the collector to capture an incident).
    """
    from . import _process

    return _process.status()


def describe(name: str, function: Callable[[], object] | None) -> None:
    """Registers what this process tells of itself under a name when its state is captured, such as feature flags.

    function is called then and only then, in a thread of its own and for half a second at most. It returns a str, int,
    float or bool, or a flat mapping of names to these; anything else is told by its type, an exception by its class.
    Values go through the same search for secrets as everything else, but register nothing secret. The same name
    replaces; None takes back. Raises ValueError for a name without characters or with more than 100, and beyond 64
    names, TypeError for what cannot be called.

    `glassbottom.describe("flags", lambda: {"new_checkout": flags.is_on("new_checkout")})`
    """
    from . import _describe

    _describe.describe(name, function)


def __getattr__(name: str) -> Any:
    if name == "profile":
        from ._profile import profile

        globals()[name] = profile  # the next use finds it without asking here
        return profile
    if name == "AsgiMiddleware":
        from .spans.asgi import AsgiMiddleware

        return AsgiMiddleware
    if name == "WsgiMiddleware":
        from .spans.wsgi import WsgiMiddleware

        return WsgiMiddleware
    if name in _CONFIG_NAMES:
        from . import _config

        return getattr(_config, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
