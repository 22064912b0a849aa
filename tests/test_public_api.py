"""The names a user may rely on: a change here is a decision, not an accident."""

from __future__ import annotations

import glassbottom


def test_the_public_names_are_these() -> None:
    assert sorted(glassbottom.__all__) == sorted(
        [
            "AsgiMiddleware",
            "AsyncioConfig",
            "CollectorUnavailable",
            "Config",
            "ConfigError",
            "GlassbottomError",
            "HeapConfig",
            "ProfileConfig",
            "RuntimeConfig",
            "SpansConfig",
            "TlsConfig",
            "TransportConfig",
            "WsgiMiddleware",
            "__version__",
            "describe",
            "flush",
            "init",
            "profile",
            "shutdown",
            "snapshot",
            "status",
        ]
    )


def test_every_public_name_exists_and_says_what_it_is() -> None:
    for name in glassbottom.__all__:
        thing = getattr(glassbottom, name)
        assert isinstance(thing, str) or thing.__doc__, f"glassbottom.{name} has no docstring"


def test_the_agent_and_the_collector_carry_the_version_of_the_distribution() -> None:
    from importlib.metadata import version

    import glassbottom_collector

    assert glassbottom.__version__ == glassbottom_collector.__version__ == version("glassbottom")
