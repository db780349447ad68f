"""SM3 (GB/T 32905) by hashlib, and HMAC with it (RFC 2104).

The hash itself is core's, because the journal is made of it and core imports nothing of ours; here it has its
name beside the MAC.
"""

from __future__ import annotations

import hmac

from edgegw.core.journal import HASH_BYTES, sm3

__all__ = ["HASH_BYTES", "hmac_sm3", "sm3"]


def hmac_sm3(key: bytes, message: bytes) -> bytes:
    """The MAC of message under key, 32 bytes; ValueError for an empty key."""
    if not key:
        raise ValueError("the key of an HMAC-SM3 is empty; anyone could make that MAC")
    return hmac.digest(key, message, "sm3")
