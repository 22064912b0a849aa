"""Rows of a database that a stranger may have: the newest of each table, every one masked, none without its parents.

A schema without rows reproduces few incidents, and a dump must not leave the house. So a sample is taken on the
replica in one snapshot: the newest rows of each table and all the rows that they refer to, until no reference points
outside (a sample that is not closed does not import: of 1 000 orders, 957 had lost their customer). Every value then
passes a mask that depends on nothing but the key of the bundle, the column that is referred to, and the value: joins,
uniqueness, formats and the share of NULL survive, the values do not. What cannot be classified is masked.

The masks are pseudonyms: who knows that a person is in the sample, and enough of what that person did, may still find
the row. A sample is treated as confidential; it is only no longer a copy.
"""

from .collector import SampleCollector
from .sampler import Sample, SampleSettings, take
from .schema import read_schema

__all__ = ["Sample", "SampleCollector", "SampleSettings", "read_schema", "take"]
