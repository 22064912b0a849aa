"""pydantic 1.9.0, #3829: GenericModel[create_model()] stays in _generic_types_cache.

1.10 holds its entries weakly.
"""

from typing import Generic, TypeVar

from tests.leakbench.case import FIXED, LEAKY, Case, Operation, Site

CASE = Case(
    id="A7",
    title="pydantic 1.9.0: _generic_types_cache",
    sites=(Site("pydantic/generics.py"), Site("pydantic/main.py")),
    holder="_generic_types_cache",
    bytes_per_operation=19_600,
    per_second=10,
    environments={LEAKY: "pydantic-1.9.0", FIXED: "pydantic-1.10.17"},
)

Item = TypeVar("Item")


def setup(fixed: bool) -> Operation:
    import pydantic
    from pydantic.generics import GenericModel

    class Page(GenericModel, Generic[Item]):
        items: list[Item]

    def operation(number: int) -> object:
        row = pydantic.create_model("Row", number=(int, ...))
        return Page[row](items=[row(number=number)])

    return operation
