"""A boto3 session and client per operation: megabytes that come and go in cycles. Must not be called a leak."""

from __future__ import annotations

from tests.leakbench.case import NONE, Case, Operation

CASE = Case(
    id="C4", title="boto3 session and client per call", kinds=(NONE,), per_second=1.5, environments={"both": "misuse"}
)


def setup(fixed: bool) -> Operation:
    import boto3

    def operation(number: int) -> str:
        session = boto3.Session(aws_access_key_id="none", aws_secret_access_key="none", region_name="eu-west-1")
        return str(session.client("sqs").meta.region_name)

    return operation
