"""What a log says: lines into records, messages into patterns, tracebacks into failures.

Pure: text in, values out. Nothing here reads a file, and nothing is redacted: what is mined has been made harmless
before, or is made so by the sink it goes to.
"""

from __future__ import annotations

from .miner import Miner
from .patterns import Pattern, mine
from .records import Record, records
from .tracebacks import Fingerprint, Raised, fingerprint

__all__ = ["mine", "Pattern", "Record", "records", "fingerprint", "Fingerprint", "Raised", "Miner"]
