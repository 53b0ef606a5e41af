"""A file's bytes -> Bundle, or a list of them for a batch."""

from __future__ import annotations

from typing import Any

from carefolio.hl7 import is_batch, read, split_batch
from carefolio.mapping.bundle import to_bundle
from carefolio.mapping.message import map_message
from carefolio.mapping.model import Source


def map_bytes(raw: bytes, ods_code: str) -> dict[str, Any] | list[dict[str, Any]]:
    """Map one message or a batch, taken as from the organisation ``ods_code``.

    Raises HL7Error, UnsupportedTypeError, or ValueError for a message that cannot be mapped.
    """
    source = Source(ods_code)
    if is_batch(raw):
        return [to_bundle(map_message(read(single), source), source) for single in split_batch(raw)]
    return to_bundle(map_message(read(raw), source), source)
