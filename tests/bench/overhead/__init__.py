"""What glassbottom costs the process it watches, beside its peers, in one run: `python -m tests.bench.overhead`.

How it is measured and how to read the figures: docs/benchmarks/overhead.md. Time only; memory is footprint.py.
"""
