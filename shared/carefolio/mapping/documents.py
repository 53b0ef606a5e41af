"""TXA and its OBX -> DocumentReference (MDM)."""

from __future__ import annotations

import base64
from typing import Any

from carefolio.hl7 import Message, Segment
from carefolio.mapping import actors
from carefolio.mapping import datatypes as dt
from carefolio.mapping.engine import apply, put
from carefolio.mapping.model import Context, Entry, Rule
from carefolio.mapping.release import delay_by
from carefolio.mapping.results import attachment

DOCUMENT = (
    Rule(2, "type", dt.table_concept("0270")),
    Rule(4, "context.period.start", dt.instant_of_day),
    Rule(12, "masterIdentifier", dt.entity_identifier),
    Rule(13, "relatesTo[]", lambda r, _: None),
    Rule(14, "identifier[]", dt.entity_identifier),
    Rule(15, "identifier[]", dt.entity_identifier),
    Rule(25, "description", dt.text),
)
_DOC_STATUS = {"AU": "final", "LA": "final", "DO": "preliminary", "IN": "preliminary", "IP": "preliminary",
               "PA": "preliminary", "DI": "preliminary"}  # fmt: skip


def map_document(
    message: Message, header: Segment, patient: Entry | None, encounter: Entry | None, context: Context
) -> Entry:
    """One document; its key is TXA-12.1, and a later message with it replaces it as a whole (domain rules A4)."""
    number = header.get(12).strip() or header.get(12, 3).strip() or message.control_id
    entry = context.own("DocumentReference", (number,), "TXA")
    own, resource = context.of(entry), entry.resource
    resource["status"] = "entered-in-error" if header.get(19).strip().upper() == "CA" else "current"
    if status := _DOC_STATUS.get(header.get(17).strip().upper()):
        resource["docStatus"] = status
    apply(DOCUMENT, header, own)
    if level := header.get(18).strip():
        system = "http://terminology.hl7.org/CodeSystem/v2-0272"
        resource["securityLabel"] = [{"coding": [{"system": system, "code": level}]}]
    when = next((t for at in (6, 7, 8) for r in header.repetitions(at) if (t := dt.instant(r, own))), None)
    if when:
        resource["date"] = when
    for at, element in ((9, "author[]"), (5, "author[]"), (11, "author[]")):
        for repetition in header.repetitions(at):
            if person := actors.practitioner(repetition, own):
                put(resource, element, actors.reference(entry, person))
    for repetition in (*header.repetitions(10), *header.repetitions(22)):
        if person := actors.practitioner(repetition, own):
            resource.setdefault("authenticator", actors.reference(entry, person))
    if patient:
        resource["subject"] = entry.refer(patient)
    if encounter:
        resource.setdefault("context", {})["encounter"] = [entry.refer(encounter)]
    _contents(message, header, entry, own)
    return entry


def _contents(message: Message, header: Segment, entry: Entry, context: Context) -> None:
    """Text lines become one attachment, each embedded file one of its own."""
    lines: list[str] = []
    contents: list[dict[str, Any]] = []
    for segment in message.all("OBX"):
        if id(segment) in context.claims:
            continue
        context.claim(segment, entry)
        delay_by(segment, None, entry, context)
        if segment.get(2).strip().upper() in ("ED", "RP"):
            if made := attachment(segment, context):
                contents.append({"attachment": made})
        else:
            lines += [r.whole() for r in segment.repetitions(5)]
    if lines:
        data = base64.b64encode("\n".join(lines).encode()).decode()
        contents.insert(0, {"attachment": {"contentType": "text/plain; charset=utf-8", "data": data}})
    name, place = header.get(16).strip(), {"TX": "text/plain", "FT": "text/plain"}.get(header.get(3).strip().upper())
    if not contents:
        contents = [{"attachment": {"contentType": place or "text/plain", "title": name or "document"}}]
    if name:
        contents[0]["attachment"]["title"] = name
    entry.resource["content"] = contents
