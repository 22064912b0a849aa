"""A label with a value per user: prometheus-client keeps a child for each of them.

Mended: labelled by the kind of user.
"""

from __future__ import annotations

from tests.leakbench.case import Case, Operation, kept

CASE = Case(
    id="B5",
    title="prometheus labels(user=)",
    sites=kept(__file__),
    holder="_metrics",
    bytes_per_operation=600,
    environments={"both": "misuse"},
)


def setup(fixed: bool) -> Operation:
    from prometheus_client import CollectorRegistry, Counter

    requests = Counter("requests", "Served.", ["user"], registry=CollectorRegistry())

    def operation(number: int) -> None:
        requests.labels(user="guest" if fixed else f"user {number}").inc()  # kept

    return operation
