"""MSH, SFT, MSA -> MessageHeader: what the message is, for whoever reads it as a Bundle.

The record does not store it: there the message itself is kept, with all of this (carefolio.record.messages).
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from carefolio.hl7 import Message, Repetition
from carefolio.mapping import codes
from carefolio.mapping import datatypes as dt
from carefolio.mapping.model import Context, Entry

_RESPONSE = {"AA": "ok", "CA": "ok", "AE": "transient-error", "CE": "transient-error", "AR": "fatal-error",
             "CR": "fatal-error"}  # fmt: skip


def map_header(message: Message, context: Context) -> Entry:
    """The MessageHeader, with the message type as it was sent in its event's display."""
    header = message.header
    entry = context.own("MessageHeader", (header.get(10).strip(),), "MSH")
    context.claim(header, entry)
    resource = entry.resource
    typed = "^".join(part for at in (1, 2, 3) if (part := header.get(9, at).strip()))
    event = message.event or message.code
    resource["eventCoding"] = {
        "system": "http://terminology.hl7.org/CodeSystem/v2-0003",
        "code": event,
        "display": typed,
    }
    resource["source"] = _party(header.repetitions(3), "source")
    if sender := _named(header.repetitions(4)):
        resource["sender"] = sender
    destination = _party(header.repetitions(5), "destination")
    if receiver := _named(header.repetitions(6)):
        destination["receiver"] = receiver
    if header.field(5) or header.field(6):
        resource["destination"] = [destination]
    tags = [
        {"system": f"http://terminology.hl7.org/CodeSystem/v2-{table}", "code": code}
        for field, at, table in ((9, 1, "0076"), (9, 3, "0354"), (11, 1, "0103"), (12, 1, "0104"))
        if (code := header.get(field, at).strip())
    ]
    for repetition in header.repetitions(21):
        if profile := dt.value(repetition, 1):
            system = codes.oid(dt.value(repetition, 3) or "") or f"{codes.BASE}/v2/profile"
            tags.append(
                {"system": system, "code": profile} | ({"display": name} if (name := dt.value(repetition, 2)) else {})
            )
    if responsible := _named(header.repetitions(22)):
        resource["responsible"] = responsible
    if tags:
        resource["meta"] = {"tag": tags}
    header.get(7), header.get(10)
    if software := message.first("SFT"):
        context.claim(software, entry)
        for element, field in (("software", 3), ("version", 2)):
            if stated := software.get(field).strip():
                resource["source"][element] = stated
    if answered := message.first("MSA"):
        context.claim(answered, entry)
        outcome = _RESPONSE.get(answered.get(1).strip())
        if outcome and (number := answered.get(2).strip()):
            resource["response"] = {"identifier": number, "code": outcome}
    return entry


def _party(repetitions: list[Repetition], fallback: str) -> dict[str, Any]:
    """HD -> name and endpoint; FHIR wants an endpoint, which HL7 v2 has none of."""
    made: dict[str, Any] = {}
    name: str | None = None
    universal: str | None = None
    for repetition in repetitions[:1]:
        name, universal = dt.value(repetition, 1), dt.value(repetition, 2)
        _iso(repetition)
    if name:
        made["name"] = name
    made["endpoint"] = (codes.oid(universal) if universal else None) or (
        f"{codes.BASE}/v2/application/{quote(universal or name or fallback, safe='')}"
    )
    return made


def _iso(repetition: Repetition) -> None:
    """HD.3 says what kind of universal id HD.2 is: ``ISO`` is what urn:oid: says, others are kept."""
    if dt.value(repetition, 3) != "ISO":
        repetition.forget(3)


def _named(repetitions: list[Repetition]) -> dict[str, Any] | None:
    for repetition in repetitions[:1]:
        name, universal = dt.value(repetition, 1), dt.value(repetition, 2)
        shown: dict[str, Any] = {"display": name or universal}
        _iso(repetition)
        if universal:
            shown["identifier"] = {"system": "urn:ietf:rfc:3986", "value": codes.oid(universal) or universal}
        if name or universal:
            return shown
    return None
