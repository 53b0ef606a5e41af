"""Sharings as FHIR Consents: one for each grantee, a version for each word of the patient (R4 Consent)."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from carefolio.cloud.database import Connection
from carefolio.identity import sealed
from carefolio.record import labels
from carefolio.record.access import Reader
from carefolio.record.rows import make_row
from carefolio.record.write import Origin, known, write

# By which a Consent names whom it is about.
GRANTEE = "https://fhir.carefolio.uk/Id/grantee"
_RECIPIENT = {"team": "CareTeam", "professional": "Practitioner", "carer": "RelatedPerson"}
_CODES = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode"}


@dataclass(frozen=True, slots=True)
class Sharing:
    """Who (a team or an account) sees which labels of a record; none: the patient said no.

    ``contributed``: a team that sees what it contributed itself, whatever is shared; ``acts``: a carer who adds to it
    in the patient's name.
    """

    grantee: uuid.UUID
    role: str
    kind: str
    name: str
    organisation: str
    labels: tuple[str, ...]
    confidential: bool
    contributed: bool
    acts: bool
    since: datetime
    until: datetime | None


async def write_consent(
    connection: Connection, reader: Reader, record: uuid.UUID, number: uuid.UUID, made: Sharing
) -> None:
    """The patient's word as a FHIR Consent: one for each grantee, a version for each change."""
    says_yes = bool(made.labels)
    who: dict[str, Any] = {
        "type": _RECIPIENT[made.role],
        "identifier": {"system": GRANTEE, "value": str(made.grantee)},
        "display": ", ".join(filter(None, (made.name, made.organisation))),
    }
    provision: dict[str, Any] = {
        "type": "permit" if says_yes else "deny",
        "period": {"start": made.since.isoformat()} | ({"end": made.until.isoformat()} if made.until else {}),
        "actor": [{
            "role": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "code": "IRCP",
                                 "display": "information recipient"}]},
            "reference": who,
        }],
        "action": [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentaction", "code": action}]}
                   for action in (("access", "collect") if made.acts else ("access",))],
    }  # fmt: skip
    if says_yes:
        provision["securityLabel"] = [{"system": labels.SYSTEM, "code": label} for label in made.labels]
    consent = {
        "resourceType": "Consent",
        # Not for everybody with whom something is shared.
        "meta": {"security": [labels.RESTRICTED]},
        "status": "active",
        "scope": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope",
                              "code": "patient-privacy"}]},
        "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0", "display": "Consent Document"}]}],
        "patient": {"reference": f"Patient/{record}"},
        "dateTime": made.since.isoformat(),
        "policyRule": {"coding": [_CODES | {"code": "OPTIN" if says_yes else "OPTOUT"}]},
        "provision": provision,
    }  # fmt: skip
    # A number that nobody can guess: whether the patient said something of somebody is his own affair.
    key = uuid.UUID(bytes=sealed.mac("consent", f"{record} {made.grantee}")[:16], version=4)
    current = (await known(connection, [key], (), aliases=False)).get(key)
    now = datetime.now(UTC)
    row = make_row(key, consent, current, patient_id=record, organisations=[reader.organisation_id], source=number,
                   now=now)  # fmt: skip
    if row is not None:
        origin = Origin(number, reader.actor, organisation_id=reader.organisation_id, app=True)
        await write(connection, origin, [row], now, patients=[record])
