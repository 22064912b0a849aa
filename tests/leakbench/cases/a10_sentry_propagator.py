"""sentry-sdk 2.60.0, #6267: every inject() runs __init__ again, which appends a global event processor.

Mended in 2.61.0.
"""

from __future__ import annotations

from tests.leakbench.case import FIXED, LEAKY, Case, Operation, Site

CASE = Case(
    id="A10",
    title="sentry-sdk 2.60.0: an event processor per inject()",
    sites=(Site("sentry_sdk/integrations/opentelemetry/span_processor.py"), Site("sentry_sdk/scope.py")),
    holder="global_event_processors",
    bytes_per_operation=250,
    per_second=100,
    environments={LEAKY: "sentry-sdk-2.60.0", FIXED: "sentry-sdk-2.61.0"},
)


def setup(fixed: bool) -> Operation:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from sentry_sdk.integrations.opentelemetry import SentryPropagator

    trace.set_tracer_provider(TracerProvider())
    tracer = trace.get_tracer("shop")
    propagator = SentryPropagator()

    def operation(number: int) -> dict[str, str]:
        carrier: dict[str, str] = {}
        with tracer.start_as_current_span("call"):
            propagator.inject(carrier)
        return carrier

    return operation
