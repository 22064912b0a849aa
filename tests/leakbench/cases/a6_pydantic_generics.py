"""pydantic 2.0.3, #6672: generic models defined in a function stay in the cache of generic types, with its namespace.

Mended in 2.1.1.
"""

from typing import Generic, TypeVar

from tests.leakbench.case import FIXED, LEAKY, Case, Operation, Site

CASE = Case(
    id="A6",
    title="pydantic 2.0.3: generic models of a function",
    sites=(
        Site("pydantic/_internal/_generics.py"),
        Site("pydantic/_internal/_model_construction.py"),
        Site("pydantic/main.py"),
    ),
    holder="_GENERIC_TYPES_CACHE",
    bytes_per_operation=64_000,
    per_second=8,
    environments={LEAKY: "pydantic-2.0.3", FIXED: "pydantic-2.1.1"},
)

First = TypeVar("First")
Second = TypeVar("Second")


def setup(fixed: bool) -> Operation:
    import pydantic

    def operation(number: int) -> object:
        class Pair(pydantic.BaseModel, Generic[First, Second]):
            first: First
            second: Second

        class Page(pydantic.BaseModel, Generic[Second]):
            pair: Pair[int, Second]

        text_page = Page[str]

        class Answer(pydantic.BaseModel):
            page: text_page

        return Answer(page=text_page(pair={"first": number, "second": "text"}))

    return operation
