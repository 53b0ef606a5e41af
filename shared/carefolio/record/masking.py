"""References to what the reader may not see: masked, so that they tell neither that it is there nor what it is.

For people: what they see is chosen out of a record. A system reads what its own organisation wrote, with references.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Set
from typing import Any

from carefolio.cloud.database import Connection, Pool
from carefolio.fhir import text
from carefolio.mapping.serialise import dumps
from carefolio.record.access import SHARED, Reader, readable
from carefolio.record.ids import internal_id
from carefolio.record.includes import local_references

# Whose record it is, and who is in the directory, is no hint of anything in a record.
_NO_HINT = frozenset({"Patient", *SHARED})
_REFERENCE = re.compile(r'"reference": ?"([^"]{3,300})"')
_ABSENT = "http://hl7.org/fhir/StructureDefinition/data-absent-reason"
_MASKED = {"url": _ABSENT, "valueCode": "masked"}


async def masked(
    pool: Pool | Connection, reader: Reader, contents: Iterable[str | None], shown: Iterable[uuid.UUID] = ()
) -> list[str | None]:
    """The contents as the reader may have them; what is ``shown`` beside them needs no second look."""
    given = list(contents)
    if reader.account is None:
        return given
    said = {text for content in given if content is not None for text in _REFERENCE.findall(content)}
    hidden = await _closed(pool, reader, said, frozenset(shown))
    if not hidden:
        return given
    return [_without(content, hidden) if content is not None else None for content in given]


async def _closed(
    pool: Pool | Connection, reader: Reader, said: Iterable[str], shown: Set[uuid.UUID] = frozenset()
) -> set[str]:
    """Of these references those to what is here, or was, and is not open to the reader."""
    named = {
        text: internal_id(kind, name)
        for text in said
        for kind, name in local_references([text])
        if kind not in _NO_HINT
    }
    asked = sorted({number for number in named.values() if number not in shown})
    if not asked:
        return set()
    arguments: list[Any] = [asked]
    now, then = readable(reader, arguments), readable(reader, arguments, "resource_history")
    rows = await pool.fetch(
        # As of now, whenever the record is read as of.
        f"""
        SELECT id FROM resource WHERE id = ANY($1) AND ({now}) IS NOT TRUE
        UNION ALL
        SELECT id FROM resource_history WHERE id = ANY($1) AND valid_to = 'infinity' AND ({then}) IS NOT TRUE
        """,  # noqa: S608 - the predicates are ours, their values are arguments
        *arguments,
    )
    closed = {row["id"] for row in rows}
    return {text for text, number in named.items() if number in closed}


async def with_marks(pool: Pool | Connection, reader: Reader, resource: Any) -> dict[str, Any]:
    """Mask a resource in place, for somebody who is about to patch it; what was masked, by the mark that it left."""
    kept: dict[str, Any] = {}
    if reader.account is not None:
        hidden = await _closed(pool, reader, set(_REFERENCE.findall(dumps(resource).decode())))
        if hidden:
            _mask(resource, hidden, kept)
    return kept


def restore(resource: Any, kept: dict[str, Any]) -> None:
    """Put back what ``with_marks`` took out, wherever its mark stands now."""
    for each in resource if isinstance(resource, list) else resource.values() if isinstance(resource, dict) else ():
        if isinstance(each, dict) and _is_mask(each) and each["extension"][0].get("id") in kept:
            original = kept[each["extension"][0]["id"]]
            each.clear()
            each.update(original)
        elif isinstance(each, dict | list):
            restore(each, kept)


def _is_mask(value: dict[str, Any]) -> bool:
    extension = value.get("extension")
    return (
        len(value) == 1 and isinstance(extension, list) and len(extension) == 1 and isinstance(extension[0], dict)
        and (extension[0].get("url"), extension[0].get("valueCode")) == (_ABSENT, "masked")
    )  # fmt: skip


def is_masked(resource: Any) -> bool:
    """Whether a reference in a resource was masked: written back, it would be lost."""
    if isinstance(resource, list):
        return any(is_masked(each) for each in resource)
    if not isinstance(resource, dict):
        return False
    return _is_mask(resource) or any(is_masked(each) for each in resource.values())


def _without(content: str, hidden: set[str]) -> str:
    if not hidden.intersection(_REFERENCE.findall(content)):
        return content
    resource = text.loads(content)
    _mask(resource, hidden)
    return dumps(resource).decode()


def _mask(value: Any, hidden: set[str], kept: dict[str, Any] | None = None) -> None:
    """Every Reference that is one of ``hidden`` loses what it says: target, type, identifier and display."""
    if isinstance(value, list):
        for each in value:
            _mask(each, hidden, kept)
    elif isinstance(value, dict):
        if isinstance(value.get("reference"), str) and value["reference"] in hidden:
            mask: dict[str, Any] = dict(_MASKED)
            if kept is not None:
                mask["id"] = f"masked-{len(kept)}"
                kept[mask["id"]] = dict(value)
            value.clear()
            value["extension"] = [mask]
            return
        for each in value.values():
            _mask(each, hidden, kept)
