"""The kill switch, apart from everything else so that a process where it is set pays for nothing."""

from __future__ import annotations

import os


def is_disabled() -> bool:
    """Whether GLASSBOTTOM_DISABLE is set: generous about spelling, any value but a clear no counts."""
    text = os.environ.get("GLASSBOTTOM_DISABLE", "").strip().lower()
    return text not in ("", "0", "false", "no", "off")
