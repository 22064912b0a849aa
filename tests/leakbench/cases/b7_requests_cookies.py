"""A process-long requests.Session that talks to thousands of hosts: its jar keeps the cookies of each.

Mended: cleared after each host.
"""

from __future__ import annotations

from tests.leakbench.case import Case, Operation, kept

CASE = Case(
    id="B7",
    title="requests.Session with cookies per host",
    sites=kept(__file__),
    holder="_cookies",
    bytes_per_operation=900,
    environments={"both": "misuse"},
)


def setup(fixed: bool) -> Operation:
    import requests

    session = requests.Session()

    def operation(number: int) -> None:
        session.cookies.set("session", f"value {number}", domain=f"host{number}.example", path="/")  # kept
        if fixed:
            session.cookies.clear()

    return operation
