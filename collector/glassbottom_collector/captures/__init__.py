"""Files of deep captures, and the record of every attempt, in `captures/` of the data directory."""

from __future__ import annotations

from .store import CaptureStore

__all__ = ["CaptureStore"]
