"""opentelemetry-sdk 1.27.0, PR 4224: a set in the class MeterProvider keeps all metric readers there ever were.

Mended in 1.28.0.
"""

from __future__ import annotations

from tests.leakbench.case import FIXED, LEAKY, Case, Operation, Site

CASE = Case(
    id="A3",
    title="opentelemetry-sdk 1.27.0: MeterProvider keeps all readers",
    sites=(
        Site("opentelemetry/sdk/metrics/_internal/__init__.py"),
        Site("_internal/export/__init__.py"),
    ),
    holder="_all_metric_readers",
    bytes_per_operation=2900,
    per_second=25,
    environments={LEAKY: "opentelemetry-sdk-1.27.0", FIXED: "opentelemetry-sdk-1.28.0"},
)


def setup(fixed: bool) -> Operation:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    def operation(number: int) -> None:
        provider = MeterProvider(metric_readers=[InMemoryMetricReader()], shutdown_on_exit=False)
        provider.shutdown()

    return operation
