"""A protobuf message that lives long and whose submessages are replaced: its arena keeps what was before until it dies.

Some tens of bytes per operation stay in C. The design counts it as no leak, since they go with the message.
"""

from __future__ import annotations

from tests.leakbench.case import NONE, Case, Operation

CASE = Case(id="C15", title="protobuf: a long-lived message assigned again", kinds=(NONE,), per_second=100)


def setup(fixed: bool) -> Operation:
    from google.protobuf import struct_pb2

    message = struct_pb2.Struct()

    def operation(number: int) -> int:
        message.fields["number"].number_value = number
        message.fields["text"].string_value = f"text {number}"
        return len(message.fields)

    return operation
