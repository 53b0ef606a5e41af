"""Who looked at a record, or changed it: for its patient, in his words (domain rules A8, A9)."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from carefolio.cloud.database import Pool
from carefolio.record.access import Reader
from carefolio.record.sharing import SharingError, decides

_SECTIONS = {
    "Patient": "demographics", "RelatedPerson": "demographics", "EpisodeOfCare": "demographics",
    "Observation": "tests and measurements", "DiagnosticReport": "tests", "Specimen": "tests",
    "ServiceRequest": "tests", "ImagingStudy": "imaging", "Media": "imaging",
    "Condition": "diagnoses", "FamilyMemberHistory": "diagnoses", "ClinicalImpression": "diagnoses",
    "AllergyIntolerance": "medicines", "MedicationRequest": "medicines", "MedicationStatement": "medicines",
    "MedicationAdministration": "medicines", "MedicationDispense": "medicines", "Immunization": "medicines",
    "Appointment": "appointments", "Slot": "appointments", "Encounter": "hospital stays and visits",
    "Procedure": "hospital stays and visits", "DocumentReference": "files", "Binary": "files", "Composition": "files",
    "Communication": "events and messages", "CarePlan": "plans", "Goal": "plans", "CareTeam": "plans",
    "Consent": "sharing",
}  # fmt: skip
_ACTIONS = {"read-nothing": "looked for", "find": "looked up", "read": "read", "search": "read", "history": "read",
            "everything": "read", "write": "wrote", "export": "copied", "notify": "was told of"}  # fmt: skip
EVERYTHING = "the whole record"
_ONE_PAGE = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class Look:
    """One line: who (of which organisation, through which app) did what in which section, when and why."""

    id: int
    at: datetime
    who: str
    organisation: str
    through: str
    own: bool
    action: str
    section: str
    reason: str


async def looks(
    pool: Pool, reader: Reader, record: uuid.UUID, *, own: bool = False, count: int = 50, before: int | None = None
) -> list[Look]:
    """A page of the log, the newest first; ``own``: what the patient did himself, too. Raises SharingError."""
    if not await decides(pool, reader, record):
        raise SharingError("the access log is its patient's", forbidden=True)
    but = None if own else str(reader.account)
    rows = await lines(pool, record, count=count, before=before, but=but)
    return [
        Look(
            row["id"], row["at"], row["who"] or system_name(row["actor"]), row["organisation"],
            row["through"] if row["account"] else "", row["account"] == reader.account,
            _ACTIONS.get(row["action"], row["action"]), _section(row["resource_type"], row["written"]),
            row["reason"] or "",
        )
        for row in rows
    ]  # fmt: skip


def folded(page: Sequence[Look]) -> list[Look]:
    """A page without the lines that only say whose page it was, above the page that the line beside is of."""
    return [
        each
        for at, each in enumerate(page)
        if each.action != "looked up"
        or not any(
            other.who == each.who and other.action != each.action and abs(other.at - each.at) < _ONE_PAGE
            for other in (*page[max(at - 1, 0) : at], *page[at + 1 : at + 2])
        )
    ]


async def lines(
    pool: Pool,
    record: uuid.UUID,
    *,
    count: int,
    before: int | None = None,
    but: str | None = None,
    organisation: uuid.UUID | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[asyncpg.Record]:
    """Lines of the trail about a person, the newest first, with the names of who they are about.

    ``but``: not those of this account; ``organisation``: only those of one; ``since`` and ``until`` bound their times.
    """
    rows: list[asyncpg.Record] = await pool.fetch(
        """
        WITH lines AS (
            SELECT a.id, a.at, a.actor, a.action, a.resource_type, a.written, a.patient_id, a.organisation_id,
                   substring(a.actor FROM '^account/([0-9a-f-]{36})')::uuid AS account,
                   substring(a.actor FROM '^sender/([0-9a-f-]{36})')::uuid AS sender,
                   substring(a.actor FROM 'client/(\\S+)$') AS client
            FROM record asked JOIN record every USING (person_id) JOIN audit a ON a.patient_id = every.id
            WHERE asked.id = $1 AND ($2::bigint IS NULL OR a.id < $2)
              AND ($3::text IS NULL OR a.actor NOT LIKE 'account/' || $3 || '%')
              AND ($4::uuid IS NULL OR a.organisation_id = $4)
              AND ($5::timestamptz IS NULL OR a.at >= $5) AND ($6::timestamptz IS NULL OR a.at < $6)
            ORDER BY a.id DESC LIMIT $7
        )
        SELECT lines.*, coalesce(account.name, sender.name, client.name, '') AS who, client.name AS through,
               coalesce(organisation.name, '') AS organisation,
               (SELECT glass.reason FROM record asked JOIN record every USING (person_id)
                JOIN sharing glass ON glass.record_id = every.id AND glass.kind = 'glass'
                WHERE asked.id = $1 AND glass.grantee = lines.account
                AND lines.at >= glass.created_at AND lines.at <= glass.ends_at LIMIT 1) AS reason
        FROM lines LEFT JOIN account ON account.id = lines.account LEFT JOIN sender ON sender.id = lines.sender
        LEFT JOIN client ON client.id = lines.client
        LEFT JOIN organisation ON organisation.id =
            coalesce(account.organisation_id, sender.organisation_id, lines.organisation_id)
        ORDER BY lines.id DESC
        """,
        record,
        before,
        but,
        organisation,
        since,
        until,
        count,
    )
    return rows


def system_name(actor: str) -> str:
    """Who is neither a person nor an organisation's system."""
    return "the GP practice's extract" if actor.startswith("agreement/") else "Carefolio"


def _section(kinds: str | None, written: list[str] | None) -> str:
    """The parts of a record that a line is about."""
    types = (kinds or "").split(",") if kinds else [each.partition("/")[0] for each in written or ()]
    found = dict.fromkeys(_SECTIONS.get(kind, "other") for kind in types if kind)
    return ", ".join(found) if 0 < len(found) <= 3 else EVERYTHING
