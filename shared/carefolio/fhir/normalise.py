"""How texts are compared: without case, accents and repeated spaces (R4 3.1.1.4.8)."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

LONGEST = 400


@lru_cache(maxsize=20_000)
def normalised(text: str) -> str:
    """A text without case, accents and repeated spaces (R4 3.1.1.4.8)."""
    plain = unicodedata.normalize("NFKD", text[:LONGEST])
    return " ".join("".join(c for c in plain if not unicodedata.combining(c)).casefold().split())
