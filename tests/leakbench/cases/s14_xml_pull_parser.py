"""An XMLPullParser on an endless stream whose elements are never cleared: the root has all of them as children.

Mended: the root is cleared when an element has been dealt with.
"""

from __future__ import annotations

from xml.etree.ElementTree import Element, XMLPullParser

from tests.leakbench.case import Case, Operation, kept

CASE = Case(
    id="S14",
    title="XMLPullParser never cleared",
    sites=kept(__file__),
    holder="Element",
    bytes_per_operation=380,
)


def setup(fixed: bool) -> Operation:
    parser = XMLPullParser(["start", "end"])
    parser.feed("<stream>")
    root: Element = next(element for _, element in parser.read_events())

    def operation(number: int) -> int:
        parser.feed(f'<message id="{number}">text of message {number}</message>')  # kept
        seen = sum(event == "end" for event, _ in parser.read_events())
        if fixed:
            root.clear()
        return seen

    return operation
