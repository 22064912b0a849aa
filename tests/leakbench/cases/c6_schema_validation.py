"""jsonschema's validate(), which makes a validator each time. Must not be called a leak."""

from __future__ import annotations

from tests.leakbench.case import NONE, Case, Operation

CASE = Case(id="C6", title="jsonschema 4.21 validate", kinds=(NONE,), per_second=25, environments={"both": "misuse"})


def setup(fixed: bool) -> Operation:
    import jsonschema

    schema = {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]}

    def operation(number: int) -> None:
        jsonschema.validate({"number": number, "text": f"text {number}"}, schema)

    return operation
