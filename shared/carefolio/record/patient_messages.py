"""A Patient in a FHIR message, as the HL7 message that a hospital's system would have sent of him (domain rules A10).

So everything holds that holds for HL7: how a record is found, what is held for a person to decide, what is erased.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from carefolio.cloud.database import Pool
from carefolio.cloud.settings import settings
from carefolio.fhir.errors import error
from carefolio.identity import senders
from carefolio.identity.senders import Sender
from carefolio.mapping import outbound
from carefolio.mapping.serialise import dumps
from carefolio.record import intake
from carefolio.record.national import nhs_numbers
from carefolio.record.sources import source_of

# By what the message says that happened the HL7 event that says the same.
EVENTS = {"create": "A28", "update": "A31", "invite": "A28"}
_ABSENT = "http://hl7.org/fhir/StructureDefinition/data-absent-reason"
_ODS = "https://fhir.nhs.uk/Id/ods-organization-code"
_ERASED = '""'
# How long an answer waits for what becomes of the message.
_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Outcome:
    """``status`` is the message's (received while it is on its way); ``patient`` where it was applied."""

    message: uuid.UUID
    status: str
    reason: str
    patient: uuid.UUID | None


def check(patient: dict[str, Any], ods_code: str) -> None:
    """Whether what is needed is there, and nobody else's organisation is named. Raises FhirError naming the element."""
    name: dict[str, Any] = next(iter(patient.get("name", [])), {})
    there = {
        "Patient.name[0].given": bool(name.get("given")),
        "Patient.name[0].family": bool(name.get("family")),
        "Patient.birthDate": "birthDate" in patient,
        "Patient.gender": "gender" in patient,
        "Patient.identifier": bool(nhs_numbers(patient)),
    }
    if missing := next((place for place, is_there in there.items() if not is_there), None):
        reason = "a valid NHS number is needed" if missing == "Patient.identifier" else "is needed"
        raise error(422, "required", reason, missing)
    for number, tag in enumerate(patient.get("meta", {}).get("tag", [])):
        if tag.get("system") == _ODS and str(tag.get("code", "")).upper() != ods_code:
            raise error(403, "forbidden", "another organisation than the client's", f"Patient.meta.tag[{number}]")


async def sender_of(pool: Pool, organisation: uuid.UUID, name: str) -> Sender:
    """The organisation's sender as whose message it counts: the one named, or its only one. Raises FhirError."""
    found = [each for each in await senders.all_of(pool, organisation) if not each[1].partner]
    named = [each for each in found if each[0] == name]
    if len(named or found) != 1:
        listed = ", ".join(each for each, _ in found) or "none is registered (carefolio sender add)"
        reason = f"names the organisation's sender whose settings count: {listed}"
        raise error(422, "required", reason, "MessageHeader.source.name")
    return (named or found)[0][1]


async def take(pool: Pool, sender: Sender, event: str, patient: dict[str, Any], sent: str) -> Outcome:
    """Hand it in, and wait a while for what becomes of it; the same once more gets what became of the first."""
    raw = await _as_hl7(pool, sender, event, patient, sent)
    answer = await intake.take_in(pool, sender, raw, "", datetime.now(UTC), production=settings().production)
    if answer.code != "AA":
        reason = await pool.fetchval("SELECT reason FROM message WHERE id = $1", answer.message_id)
        raise error(422, "processing", f"it could not be taken in: {reason or 'see the message'}", "Patient")
    return await _settled(pool, answer.message_id)


async def _as_hl7(pool: Pool, sender: Sender, event: str, patient: dict[str, Any], sent: str) -> bytes:
    source = await source_of(pool, sender.organisation_id, sender.ods_code, sender.codes_version, sender.settings)
    at = outbound.stamp(sent)
    # The same Patient of the same moment is the same message.
    control = hashlib.blake2b(dumps([event, sent, patient]), digest_size=10).hexdigest()
    header = f"MSH|^~\\&|FHIR|{outbound.escaped(sender.ods_code)}|CAREFOLIO||{at}||ADT^{event}|{control}|P|2.4"
    pid = _with_erased(outbound.pid(patient, source).split("|"), patient)
    return "\r".join([header, f"EVN|{event}|{at}", "|".join(pid), ""]).encode()


def _with_erased(fields: list[str], patient: dict[str, Any]) -> list[str]:
    """PID with ``""`` where the Patient says that something is not there any more (data-absent-reason)."""
    erased = {
        11: _is_absent(patient.get("address")),
        13: _is_absent([each for each in patient.get("telecom", []) if each.get("use") != "work"]),
        14: _is_absent([each for each in patient.get("telecom", []) if each.get("use") == "work"]),
        29: _is_absent(patient.get("_deceasedDateTime")),
        30: _is_absent(patient.get("_deceasedBoolean")) or _is_absent(patient.get("_deceasedDateTime")),
    }
    last = max([number for number, gone in erased.items() if gone], default=0)
    made = fields + [""] * (last + 1 - len(fields))
    return [_ERASED if erased.get(number) else value for number, value in enumerate(made)]


def _is_absent(said: Any) -> bool:
    listed = said if isinstance(said, list) else [said] if said else []
    return bool(listed) and all(
        any(extension.get("url") == _ABSENT for extension in each.get("extension", [])) for each in listed
    )


async def _settled(pool: Pool, number: uuid.UUID) -> Outcome:
    loop = asyncio.get_running_loop()
    until = loop.time() + _SECONDS
    while True:
        row = await pool.fetchrow("SELECT status, reason, patient_id FROM message WHERE id = $1", number)
        if row["status"] != "received" or loop.time() > until:
            return Outcome(number, row["status"], row["reason"] or "", row["patient_id"])
        await asyncio.sleep(0.1)
