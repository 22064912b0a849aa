"""Programs that really leak, their mended versions, and programs that only look like it: what is found, what is wrong.

    python -m tests.bench.leaks --cases s1 a8

The same as `python -m tests.leakbench.run`, whose help says more. How the verdict does on made-up curves, where
thousands can be drawn, is measured by tests/bench/curves.py.
"""

from __future__ import annotations

from tests.leakbench.run import main

if __name__ == "__main__":
    raise SystemExit(main())
