"""docs/sample.md says what is true."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.postgres import Cluster
from tests.support.sampled import KEY, dump

pytestmark = pytest.mark.once

SCHEMA = """CREATE TABLE orders (id int PRIMARY KEY, status text); CREATE TABLE logs (order_no text);
INSERT INTO orders VALUES (4711, 'paid'); INSERT INTO logs VALUES ('4711');"""


def test_the_example_takes_a_sample_and_loads_it(root: Path, postgres: Cluster) -> None:
    page = (root / "docs" / "sample.md").read_text()
    [example] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    with postgres.database(SCHEMA) as name, postgres.database() as other:
        pre_data, post_data = (dump(postgres.standby, name, section) for section in ("pre-data", "post-data"))
        known: dict[str, Any] = {
            "replica": postgres.standby.conninfo(name),
            "mirror": postgres.primary.conninfo(other),
            "key": KEY,
            "pre_data": pre_data,
            "post_data": post_data,
        }
        exec(example, known)
        statement = "SELECT count(*), min(status) FROM orders JOIN logs ON order_no = orders.id::text AND id <> 4711"
        assert postgres.primary.run(statement, database=other) == [(1, "paid")]
