"""A mapped message as a FHIR Bundle, for people and for tests; the record does not need it."""

from __future__ import annotations

import uuid
from typing import Any

from carefolio.mapping import codes
from carefolio.mapping.model import Entry, Mapped, Source

_NAMESPACE = uuid.UUID("5b0f3a4e-1f0e-5f52-9a3c-6a0c5a3f1d11")


def to_bundle(mapped: Mapped, source: Source) -> dict[str, Any]:
    """A message Bundle, its MessageHeader first; the same message gives the same ids."""
    who = "|".join(f"{i.system}|{i.value}" for i in mapped.identifiers)
    ids = {id(entry): _id(entry, source, who) for entry in mapped.entries}
    entries = []
    for entry in mapped.entries:
        for reference, target in entry.references:
            reference["reference"] = f"urn:uuid:{ids[id(target)]}"
        resource = {"resourceType": entry.type, "id": ids[id(entry)]} | entry.resource
        entries.append({"fullUrl": f"urn:uuid:{ids[id(entry)]}", "resource": resource})
    bundle: dict[str, Any] = {"resourceType": "Bundle", "type": "message", "entry": entries}
    if mapped.control_id:
        bundle["identifier"] = {"system": f"{codes.BASE}/Id/message", "value": mapped.control_id}
    if mapped.time.precision >= 12:
        bundle["timestamp"] = mapped.time.fhir
    return bundle


def _id(entry: Entry, source: Source, who: str) -> str:
    scope = {"patient": f"{source.ods_code}|{who}", "organisation": source.ods_code, "shared": ""}[entry.scope]
    return str(uuid.uuid5(_NAMESPACE, "\x1f".join((entry.type, scope, *entry.key))))
