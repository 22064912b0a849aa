"""What stands where a secret stood: `<redacted:RULE:7f3a90c2>`.

The last part is the beginning of an HMAC-SHA256 of the value. Under one key the same secret is the same token
wherever it stood, so that one can still see that two services share a password; without the key nothing can be tried
out on it.
"""

from __future__ import annotations

import hashlib
import hmac

from .spans import pattern

KEY_BYTES_MIN = 16
DIGITS = 8  # 32 bits: among 1 000 secrets the chance that two share a token is 1 in 8 600
TOKEN = rb"<redacted:[a-z0-9-]{1,64}:[0-9a-f]{8}>"
OURS = pattern(TOKEN)


class Tokens:
    """Makes tokens under one key."""

    def __init__(self, key: bytes) -> None:
        """Raises ValueError for a key of fewer than 16 bytes."""
        if len(key) < KEY_BYTES_MIN:
            raise ValueError(f"The key of a redaction has {len(key)} bytes; it must have at least {KEY_BYTES_MIN}.")
        self._key = key

    def token(self, rule: str, value: bytes) -> bytes:
        return b"<redacted:%s:%s>" % (rule.encode(), self.digest(b"value\0", value).hex()[:DIGITS].encode())

    def digest(self, domain: bytes, value: bytes) -> bytes:
        """32 bytes that depend on the key, the domain and the value."""
        return hmac.digest(self._key, domain + value, hashlib.sha256)
