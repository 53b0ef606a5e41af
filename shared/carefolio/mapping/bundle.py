"""A mapped message as a FHIR Bundle, for people and for tests; the record does not need it."""

from __future__ import annotations

import uuid
from typing import Any

from carefolio.mapping.model import Entry, Mapped, Source

_NAMESPACE = uuid.UUID("5b0f3a4e-1f0e-5f52-9a3c-6a0c5a3f1d11")


def to_bundle(mapped: Mapped, source: Source) -> dict[str, Any]:
    """A collection Bundle; the same message gives the same ids."""
    who = "|".join(f"{i.system}|{i.value}" for i in mapped.identifiers)
    ids = {id(entry): _id(entry, source, who) for entry in mapped.entries}
    entries = []
    for entry in mapped.entries:
        for reference, target in entry.references:
            reference["reference"] = f"urn:uuid:{ids[id(target)]}"
        resource = {"resourceType": entry.type, "id": ids[id(entry)]} | entry.resource
        entries.append({"fullUrl": f"urn:uuid:{ids[id(entry)]}", "resource": resource})
    return {"resourceType": "Bundle", "type": "collection", "entry": entries}


def _id(entry: Entry, source: Source, who: str) -> str:
    scope = {"patient": f"{source.ods_code}|{who}", "organisation": source.ods_code, "shared": ""}[entry.scope]
    return str(uuid.uuid5(_NAMESPACE, "\x1f".join((entry.type, scope, *entry.key))))
