"""marshmallow registers every subclass of Schema by its name; classes made per request stay in its registry.

Mended: one class, with the fields chosen when it is used.
"""

from __future__ import annotations

from tests.leakbench.case import Case, Operation, kept

CASE = Case(
    id="B2",
    title="marshmallow Schema subclass per request",
    sites=kept(__file__),
    holder="_registry",
    bytes_per_operation=3900,
    per_second=25,
    environments={"both": "misuse"},
)


def setup(fixed: bool) -> Operation:
    from marshmallow import Schema, fields

    class Order(Schema):
        number = fields.Integer()
        text = fields.String()

    def mended(number: int) -> object:
        return Order(only=["number"]).dump({"number": number})

    def leaky(number: int) -> object:
        kind = type(f"Order{number}", (Schema,), {"number": fields.Integer()})  # kept
        return kind().dump({"number": number})  # kept

    return mended if fixed else leaky
