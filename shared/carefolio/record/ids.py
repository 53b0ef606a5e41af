"""Identifiers: time-ordered ones for messages, derived ones for what must be one resource for ever."""

from __future__ import annotations

import hashlib
import os
import re
import time
import uuid


def uuid7() -> uuid.UUID:
    """A UUID that sorts by the millisecond of its making (RFC 9562 section 5.7)."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return uuid.UUID(int=value)


def derived(*parts: str) -> uuid.UUID:
    """The same UUID (version 8) for the same parts, for ever."""
    return uuid.UUID(derived_text(*parts))


def derived_text(*parts: str) -> str:
    """``derived`` as text, for those who make very many."""
    found = hashlib.blake2b("\x1f".join(parts).encode(), digest_size=16).hexdigest()
    variant = "89ab"[int(found[16], 16) & 3]
    return f"{found[:8]}-{found[8:12]}-8{found[13:16]}-{variant}{found[17:20]}-{found[20:]}"


_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z")


def internal_id(kind: str, logical_id: str) -> uuid.UUID:
    """The row's id of a resource: its logical id where that is a UUID, else one derived from type and id."""
    return uuid.UUID(logical_id) if _UUID.match(logical_id) else derived("logical id", kind, logical_id)
