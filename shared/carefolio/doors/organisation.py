"""REST: what an organisation administers besides its systems: codes, invitations, joins; misfiled data; tracing; its
trail.

For the organisation's own client and its administrators (the trail: its privacy officers).
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable
from datetime import datetime
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, RootModel
from starlette.exceptions import HTTPException

from carefolio.doors.consent import Said, has_role
from carefolio.doors.rest import PROFESSIONAL, SYSTEM, Call, Endpoint
from carefolio.doors.structure import administrator
from carefolio.doors.systems import Plain
from carefolio.fhir.definitions import resource_types
from carefolio.identity import accounts, invitations, registry
from carefolio.identity.accounts import AccountError
from carefolio.identity.demographics import DemographicsError
from carefolio.identity.registry import RegistryError
from carefolio.record import audit_search, decisions, items, local_codes, matching, purging, replay, sharing, tracing
from carefolio.record.audit_search import AuditLine
from carefolio.record.decisions import DecisionError
from carefolio.record.ids import internal_id
from carefolio.record.purging import Purge
from carefolio.record.sharing import SharingError
from carefolio.record.tracing import Trace

T = TypeVar("T")


class CodeShown(BaseModel):
    """A code of the organisation's own, and what it means where somebody has said so."""

    system: str
    code: str
    display: str
    seen_at: datetime
    target_system: str | None
    target_code: str | None
    target_display: str | None


class Codes(BaseModel):
    """Codes of the organisation's own."""

    codes: list[CodeShown]


class Meaning(Said):
    """What a code of the organisation's own means in a system that others know."""

    system: Plain
    code: Plain
    target_system: Plain
    target_code: Plain
    target_display: Plain = ""


class Remapped(BaseModel):
    """In how many records and resources it was mapped again."""

    records: int
    resources: int


class JoinShown(BaseModel):
    """Two records that are one person's."""

    id: uuid.UUID
    kind: str
    survivor: uuid.UUID
    other: uuid.UUID
    created_at: datetime
    undone_at: datetime | None


class Joins(BaseModel):
    """Joins of records, in force and undone."""

    joins: list[JoinShown]


class NewJoin(Said):
    """Two records of one person."""

    survivor: uuid.UUID
    other: uuid.UUID


class JoinMade(BaseModel):
    """A join."""

    id: uuid.UUID


class Missing(BaseModel):
    """An identifier that no record has, and a message that waits for it."""

    message: uuid.UUID
    control_id: str
    received_at: datetime
    system: str
    value: str


class MissingIdentifiers(BaseModel):
    """What messages wait for."""

    identifiers: list[Missing]


class NewInvitation(Said):
    """A patient by NHS number, or a professional by name and e-mail address, into teams."""

    nhs_number: Annotated[str, Field(max_length=20)] = ""
    name: Annotated[str, Field(max_length=100, pattern=r"^[^\x00-\x1f]*$")] = ""
    email: Annotated[str, Field(max_length=254)] = ""
    teams: Annotated[list[uuid.UUID], Field(max_length=20)] = Field(default=[])


class InvitationMade(BaseModel):
    """``code`` is told here and in the letter, and never again; empty for who gave no address of his own."""

    code: str
    name: str
    expires: str


class InvitationShown(BaseModel):
    """An invitation that was not used yet."""

    id: uuid.UUID
    kind: str
    name: str
    email: str | None
    created_at: datetime
    expires_at: datetime


class Invitations(BaseModel):
    """Invitations that were not used yet."""

    invitations: list[InvitationShown]


class NewPurge(Said):
    """What is taken out of a record for good: messages, and items (``Type/id``) that apps wrote or that were moved."""

    patient: uuid.UUID
    reason: Annotated[str, Field(min_length=10, max_length=1000, pattern=r"^[^\x00]*$")]
    messages: Annotated[list[uuid.UUID], Field(max_length=500)] = Field(default=[])
    items: Annotated[list[Annotated[str, Field(pattern=r"^[A-Z][A-Za-z]{2,40}/[A-Za-z0-9.-]{1,64}$")]],
                     Field(max_length=500)] = Field(default=[])  # fmt: skip


class PurgeShown(RootModel[Purge]):
    """What was taken out."""


class Purges(BaseModel):
    """What was taken out, the newest first."""

    purges: list[Purge]


class TraceShown(RootModel[Trace]):
    """What the national register says of a person."""


class Traces(BaseModel):
    """Records whose latest trace ended so."""

    traces: list[Trace]


class Trail(BaseModel):
    """A page of the organisation's trail, the newest first."""

    lines: list[AuditLine]
    next: str | None


async def list_codes(call: Call) -> Any:
    await administrator(call)
    code = await registry.ods_code(call.pool, call.reader.organisation_id)
    found = await local_codes.work(call.pool, code, solved=call.query.get("solved") == "true")
    return {"codes": [{name: each[name] for name in CodeShown.model_fields} for each in found]}


async def solve_code(call: Call) -> Any:
    await administrator(call)
    said: Meaning = call.body
    code = await registry.ods_code(call.pool, call.reader.organisation_id)
    patients = await told(
        local_codes.solve(call.pool, code, (said.system, said.code),
                          (said.target_system, said.target_code, said.target_display), call.reader.actor)
    )  # fmt: skip
    written = [
        made.written async for made in replay.rebuild_records(call.pool, patients, call.reader.actor, apply=True)
    ]
    return {"records": len(written), "resources": sum(written)}


async def list_joins(call: Call) -> Any:
    await administrator(call)
    record = call.query.get("patient", "")
    try:
        number = uuid.UUID(record)
    except ValueError:
        raise HTTPException(422, "patient: the record whose joins are asked for") from None
    await _ours(call, number)
    found = await decisions.joins(call.pool, number)
    return {"joins": [{name: each[name] for name in JoinShown.model_fields} for each in found]}


async def join_records(call: Call) -> Any:
    await administrator(call)
    said: NewJoin = call.body
    for number in (said.survivor, said.other):
        if not await sharing.is_its_own(call.pool, number, call.reader.organisation_id):
            raise SharingError("the organisation does not contribute to both of the records", missing=True)
    return {"id": await told(decisions.join(call.pool, said.survivor, said.other, call.reader.actor))}


async def undo_join(call: Call) -> None:
    await administrator(call)
    number = call.number("join")
    for record in await decisions.records_of(call.pool, number):
        if not await sharing.is_its_own(call.pool, record, call.reader.organisation_id):
            raise SharingError("the organisation does not contribute to both of the records", missing=True)
    await told(decisions.undo(call.pool, number, call.reader.actor))


async def _ours(call: Call, record: uuid.UUID) -> None:
    """Raise for a record to which the organisation does not contribute."""
    if not await sharing.is_of_organisation(call.pool, record, call.reader.organisation_id):
        raise SharingError("the organisation contributes to no such record", missing=True)


async def list_missing(call: Call) -> Any:
    await administrator(call)
    found = await matching.missing(call.pool, call.reader.organisation_id, limit=1000)
    return {"identifiers": [dict(each) for each in found]}


async def list_invitations(call: Call) -> Any:
    await administrator(call)
    found = await invitations.waiting(call.pool, call.reader.organisation_id)
    return {"invitations": [{name: each[name] for name in InvitationShown.model_fields} for each in found]}


async def invite(call: Call) -> Any:
    said: NewInvitation = call.body
    owner = call.reader.organisation_id
    if said.nhs_number:
        return await _invite_patient(call, said)
    if said.name.strip() and said.email:
        await administrator(call)
        made = await told(invitations.invite_professional(call.pool, owner, said.name.strip(), said.email, said.teams))
    else:
        raise HTTPException(422, "nhs_number, or name and email, are needed")
    return {"code": made.code, "name": made.name, "expires": made.expires}


async def _invite_patient(call: Call, said: NewInvitation) -> Any:
    """By the organisation to any address, with the code; by who treats him to the address that the record has."""
    owner, account = call.reader.organisation_id, call.reader.account
    trusted = account is None or await accounts.has_role(call.pool, account, "administrator")
    if not trusted:
        record = await invitations.record_of(call.pool, said.nhs_number)
        if said.email or record is None or await items.one(call.pool, call.reader, record, record) is None:
            raise SharingError("invite patients whose records you see, by the address that the record has",
                               forbidden=True)  # fmt: skip
    made = await told(
        invitations.invite_patient(call.pool, owner, nhs_number=said.nhs_number, email=said.email or None,
                                   actor=call.reader.actor, known_address=not trusted)
    )  # fmt: skip
    return {"code": made.code if trusted else "", "name": made.name, "expires": made.expires}


async def withdraw_invitation(call: Call) -> None:
    await administrator(call)
    await told(invitations.end(call.pool, call.number("invitation"), call.reader.organisation_id), missing=True)


async def list_purges(call: Call) -> Any:
    await administrator(call)
    return {"purges": await purging.of_organisation(call.pool, call.reader.organisation_id)}


async def purge(call: Call) -> Any:
    await administrator(call)
    said: NewPurge = call.body
    await _ours(call, said.patient)
    items = []
    for each in said.items:
        kind, _, name = each.partition("/")
        if kind not in resource_types():
            raise HTTPException(422, f"items: {kind} is no resource type in FHIR R4")
        items.append(internal_id(kind, name))
    return await told(
        purging.purge(call.pool, call.reader.actor, said.patient, said.reason, messages=said.messages, items=items,
                      organisation=call.reader.organisation_id)
    )  # fmt: skip


async def trace(call: Call) -> Any:
    await administrator(call)
    await _ours(call, call.patient)
    try:
        return await tracing.trace(call.pool, call.reader, call.patient)
    except DemographicsError as error:
        raise HTTPException(503, str(error)) from None


async def list_traces(call: Call) -> Any:
    await administrator(call)
    outcome = call.query.get("outcome", tracing.DIFFERENT)
    if outcome not in tracing.OUTCOMES:
        raise HTTPException(422, f"outcome: one of {', '.join(tracing.OUTCOMES)}")
    return {"traces": await tracing.of_organisation(call.pool, call.reader.organisation_id, outcome)}


async def search_trail(call: Call) -> Any:
    if call.reader.account is not None:
        await has_role(call, "privacy-officer")
    asked: dict[str, Any] = {"action": call.query.get("action", "")}
    for name in ("patient", "account"):
        if text := call.query.get(name):
            try:
                asked[name] = uuid.UUID(text)
            except ValueError:
                raise HTTPException(422, f"{name}: not a number of ours") from None
    for name in ("since", "until"):
        if text := call.query.get(name):
            try:
                asked[name] = datetime.fromisoformat(text.replace(" ", "+"))
            except ValueError:
                raise HTTPException(422, f"{name}: a moment, such as 2026-11-27T09:00:00Z") from None
            if asked[name].tzinfo is None:
                raise HTTPException(422, f"{name}: with Z, or an offset from UTC")
    found = await audit_search.lines(call.pool, call.reader, before=call.after, count=call.count + 1, **asked)
    page = found[: call.count]
    return {"lines": page, "next": call.cursor(page[-1].id) if len(found) > call.count else None}


async def told(work: Awaitable[T], *, missing: bool = False) -> T:
    """What is said no to, as a problem."""
    try:
        return await work
    except DecisionError as error:
        raise HTTPException(409, str(error)) from None
    except (RegistryError, AccountError, local_codes.CodeError) as error:
        raise HTTPException(404 if missing else 422, str(error)) from None


_WHO = (PROFESSIONAL, SYSTEM)
ENDPOINTS = (
    Endpoint("GET", "/codes", list_codes, "Code", "s", "codes of the organisation's own", _WHO, answer=Codes,
             query=(("solved", "true: those that have a meaning"),)),
    Endpoint("PUT", "/codes", solve_code, "Code", "u", "what a code means; what came with it is mapped again", _WHO,
             body=Meaning, answer=Remapped),
    Endpoint("GET", "/joins", list_joins, "Join", "s", "the joins of a record", _WHO, answer=Joins,
             query=(("patient", "whose"),)),
    Endpoint("POST", "/joins", join_records, "Join", "c", "two records are one person's", _WHO, body=NewJoin,
             answer=JoinMade, status=201),
    Endpoint("DELETE", "/joins/{join}", undo_join, "Join", "d", "take a join back", _WHO),
    Endpoint("GET", "/missing-identifiers", list_missing, "Message", "s", "numbers that messages wait for", _WHO,
             answer=MissingIdentifiers),
    Endpoint("GET", "/invitations", list_invitations, "Invitation", "s", "invitations that were not used", _WHO,
             answer=Invitations),
    Endpoint("POST", "/invitations", invite, "Invitation", "c", "invite a patient or a professional", _WHO,
             body=NewInvitation, answer=InvitationMade, status=201),
    Endpoint("DELETE", "/invitations/{invitation}", withdraw_invitation, "Invitation", "d", "withdraw an invitation",
             _WHO),
    Endpoint("GET", "/purges", list_purges, "Purge", "s", "what was taken out of records for good", _WHO,
             answer=Purges),
    Endpoint("POST", "/purges", purge, "Purge", "c", "take misfiled data out of a record, through every version", _WHO,
             body=NewPurge, answer=PurgeShown, status=201),
    Endpoint("POST", "/patients/{patient}/trace", trace, "Trace", "c", "look a person up in the national register",
             _WHO, answer=TraceShown, status=201),
    Endpoint("GET", "/traces", list_traces, "Trace", "s", "records whose latest trace ended so", _WHO, answer=Traces,
             query=(("outcome", "one of " + ", ".join(tracing.OUTCOMES)),)),
    Endpoint("GET", "/audit", search_trail, "Audit", "s", "what the organisation's people and systems did", _WHO,
             answer=Trail, paged=True,
             query=(("patient", "about whom"), ("account", "who"), ("action", "what, such as read or write"),
                    ("since", "from this moment on"), ("until", "before this moment"))),
)  # fmt: skip
