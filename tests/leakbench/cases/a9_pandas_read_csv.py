"""pandas 2.2.0, #57039: the C parser does not free its buffers, surely when the file is opened and not read to its end.

Mended in 2.2.1.
"""

from __future__ import annotations

import io

from tests.leakbench.case import FIXED, LEAKY, NATIVE, Case, Operation

CASE = Case(
    id="A9",
    title="pandas 2.2.0: buffers of the C parser of read_csv",
    kinds=(NATIVE,),
    bytes_per_operation=127_000,
    per_second=8,
    environments={LEAKY: "pandas-2.2.0", FIXED: "pandas-2.2.1"},
)


def setup(fixed: bool) -> Operation:
    import pandas

    text = "a,b,c\n" + "".join(f"{each},{each * 2},text{each}\n" for each in range(700))

    def operation(number: int) -> bool:
        return pandas.read_csv(io.StringIO(text), iterator=True) is not None

    return operation
