"""References to what the reader may not see: masked, so that they tell neither that it is there nor what it is.

For people: what they see is chosen out of a record. A system reads what its own organisation wrote, with references.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from typing import Any

from carefolio.cloud.database import Connection, Pool
from carefolio.fhir import text
from carefolio.mapping.serialise import dumps
from carefolio.record.access import SHARED, Reader, readable
from carefolio.record.ids import internal_id

# Whose record it is, and who is in the directory, is no hint of anything in a record.
_NO_HINT = frozenset({"Patient", *SHARED})
_REFERENCE = re.compile(r'"reference": ?"([A-Z][A-Za-z]+)/([A-Za-z0-9\-.]{1,64})')
_MASKED = {"url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason", "valueCode": "masked"}


async def masked(
    pool: Pool | Connection, reader: Reader, contents: Iterable[str | None], shown: Iterable[uuid.UUID] = ()
) -> list[str | None]:
    """The contents as the reader may have them; what is ``shown`` beside them needs no second look."""
    given = list(contents)
    if reader.account is None:
        return given
    named = {
        f"{kind}/{name}": internal_id(kind, name)
        for content in given
        if content is not None
        for kind, name in _REFERENCE.findall(content)
        if kind not in _NO_HINT
    }
    there = set(shown)
    asked = sorted({number for number in named.values() if number not in there})
    if not asked:
        return given
    arguments: list[Any] = [asked]
    rows = await pool.fetch(
        # As of now, whenever the record is read as of.
        f"SELECT id FROM resource WHERE id = ANY($1) AND ({readable(reader, arguments)}) IS NOT TRUE",  # noqa: S608
        *arguments,
    )
    closed = {row["id"] for row in rows}
    if not closed:
        return given
    hidden = {name for name, number in named.items() if number in closed}
    return [_without(content, hidden) if content is not None else None for content in given]


def is_masked(resource: Any) -> bool:
    """Whether a reference in a resource was masked: written back, it would be lost."""
    if isinstance(resource, list):
        return any(is_masked(each) for each in resource)
    if not isinstance(resource, dict):
        return False
    if resource.get("extension") == [_MASKED] and len(resource) == 1:
        return True
    return any(is_masked(each) for each in resource.values())


def _without(content: str, hidden: set[str]) -> str:
    if not any(f"{kind}/{name}" in hidden for kind, name in _REFERENCE.findall(content)):
        return content
    resource = text.loads(content)
    _mask(resource, hidden)
    return dumps(resource).decode()


def _mask(value: Any, hidden: set[str]) -> None:
    """Every Reference to one of ``hidden`` loses what it says: target, type, identifier and display."""
    if isinstance(value, list):
        for each in value:
            _mask(each, hidden)
    elif isinstance(value, dict):
        reference = value.get("reference")
        if isinstance(reference, str) and reference.partition("/_history")[0] in hidden:
            value.clear()
            value["extension"] = [_MASKED]
            return
        for each in value.values():
            _mask(each, hidden)
