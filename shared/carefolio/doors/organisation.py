"""REST: what an organisation administers: senders, apps, codes, invitations, joins; misfiled data; tracing; its trail.

For the organisation's own client and its administrators (the trail: its privacy officers).
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, RootModel
from starlette.exceptions import HTTPException

from carefolio.doors.consent import Said, has_role
from carefolio.doors.rest import PROFESSIONAL, SYSTEM, Call, Endpoint
from carefolio.doors.structure import administrator
from carefolio.fhir.definitions import resource_types
from carefolio.identity import accounts, invitations, registry, scopes, sender_settings, senders
from carefolio.identity.accounts import AccountError
from carefolio.identity.demographics import DemographicsError
from carefolio.identity.registry import AppSettings, RegistryError
from carefolio.identity.sender_settings import SettingsError
from carefolio.record import audit_search, decisions, items, local_codes, matching, purging, replay, sharing, tracing
from carefolio.record.access import check_scope
from carefolio.record.arguments import SearchError
from carefolio.record.audit_search import AuditLine
from carefolio.record.decisions import DecisionError
from carefolio.record.ids import internal_id
from carefolio.record.purging import Purge
from carefolio.record.sharing import SharingError
from carefolio.record.tracing import Trace

T = TypeVar("T")
# What only the operator of this installation gives to a client.
_OPERATORS = frozenset({"Extract"})
# And what reads more than administrators do.
_OFFICERS = frozenset({"Audit", "Freeze", "Purge"})
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]*$")]
Plain = Annotated[str, Field(max_length=500, pattern=r"^[^\x00]*$")]


class NewSender(Said):
    """A system that posts HL7 messages, with the networks (CIDR) that it posts from."""

    name: Name
    networks: Annotated[list[Plain], Field(min_length=1, max_length=50)]
    team: Plain | None = None


class SenderMade(BaseModel):
    """``password`` is told here and never again."""

    name: str
    username: str
    password: str


class SenderShown(BaseModel):
    """A sender; ``settings`` are what was agreed with it."""

    name: str
    username: str
    networks: list[str]
    version: int
    settings: dict[str, Any]


class Senders(BaseModel):
    """An organisation's senders."""

    senders: list[SenderShown]


class Agreed(RootModel[dict[str, Any]]):
    """What is agreed with a sender: the whole of it (docs/hl7.md)."""


class NewClient(Said):
    """An app or a system, and the scopes that it may have; ``redirect_uris`` where people sign in to it."""

    name: Name
    scope: Annotated[str, Field(min_length=1, max_length=4000)]
    public: bool = False
    redirect_uris: Annotated[list[Plain], Field(max_length=20)] = Field(default=[])
    jwks: Annotated[str, Field(max_length=20_000)] | None = None
    jwks_uri: Plain | None = None


class ClientMade(BaseModel):
    """``client_secret`` is told here and never again; null where the client signs, or is public."""

    client_id: str
    client_secret: str | None
    scope: str


class ClientShown(BaseModel):
    """A client."""

    id: str
    name: str
    scope: str
    public: bool
    redirect_uris: list[str]


class Clients(BaseModel):
    """An organisation's living clients."""

    clients: list[ClientShown]


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


async def list_senders(call: Call) -> Any:
    await administrator(call)
    found = await senders.of_organisation(call.pool, call.reader.organisation_id)
    return {"senders": [await _sender(call, each["name"], each) for each in found]}


async def add_sender(call: Call) -> Any:
    await administrator(call)
    said: NewSender = call.body
    code = await registry.ods_code(call.pool, call.reader.organisation_id)
    made = await told(registry.add_sender(call.pool, said.name, code, said.networks, team=said.team))
    await _note(call, f"sender {made.name} added")
    return {"name": made.name, "username": made.username, "password": made.password}


async def show_sender(call: Call) -> Any:
    await administrator(call)
    found = await senders.of_organisation(call.pool, call.reader.organisation_id, call.path["sender"])
    if not found:
        raise HTTPException(404, "the organisation has no such sender")
    return await _sender(call, found[0]["name"], found[0])


async def change_sender(call: Call) -> Any:
    await administrator(call)
    known = await sender_settings.load(call.pool, call.path["sender"], call.reader.organisation_id)
    if known is None:
        raise HTTPException(404, "the organisation has no such sender")
    try:
        wanted = sender_settings.read_settings(call.body.root)
    except SettingsError as error:
        raise HTTPException(422, str(error)) from None
    if await sender_settings.store(call.pool, known, wanted, call.reader.actor) is None:
        raise HTTPException(409, "somebody else changed the settings at this moment: read them again")
    return await show_sender(call)


async def _sender(call: Call, name: str, row: Any) -> dict[str, Any]:
    known = await sender_settings.load(call.pool, name, call.reader.organisation_id)
    assert known is not None
    return {"name": name, "username": row["username"], "networks": [str(each) for each in row["networks"]],
            "version": known.version, "settings": asdict(known.settings)}  # fmt: skip


async def list_clients(call: Call) -> Any:
    await administrator(call)
    found = await registry.clients_of(call.pool, call.reader.organisation_id)
    return {"clients": [{name: each[name] for name in ClientShown.model_fields} for each in found]}


async def add_client(call: Call) -> Any:
    await administrator(call)
    said: NewClient = call.body
    officer = call.reader.account is None or await accounts.has_role(call.pool, call.reader.account, "privacy-officer")
    for text in said.scope.split():
        known = scopes.read_scope(text)
        if known is not None and known.type in _OPERATORS:
            raise HTTPException(422, f"scope: {text} is the operator's to give")
        if (
            known is not None
            and call.reader.account is None
            and not scopes.granted(text, call.token.scope, person=known.context != "system")
        ):
            raise HTTPException(422, f"scope: {text} is more than the caller has itself")
        if known is not None and not officer and (known.context == "system" or known.type in _OFFICERS):
            raise HTTPException(422, f"scope: {text} is given by an administrator who is privacy officer too")
        try:
            check_scope(text)
        except SearchError as error:
            raise HTTPException(422, f"scope: {error}") from None
    grants = ["authorization_code", "refresh_token"] if said.redirect_uris else []
    if any(text.startswith("system/") for text in said.scope.split()):
        grants.append("client_credentials")
    app = AppSettings(said.public, tuple(said.redirect_uris), tuple(grants or ["client_credentials"]), said.jwks_uri,
                      None, call.reader.actor)  # fmt: skip
    made = await told(
        registry.add_client_of(call.pool, said.name, call.reader.organisation_id, said.scope, said.jwks, app)
    )
    await _note(call, f"client {made.client_id} added: {made.scope}")
    return {"client_id": made.client_id, "client_secret": made.client_secret, "scope": made.scope}


async def end_client(call: Call) -> None:
    await administrator(call)
    known = await registry.clients_of(call.pool, call.reader.organisation_id)
    if call.path["client"] not in [each["id"] for each in known]:
        raise HTTPException(404, "the organisation has no such client")
    await told(registry.end_client(call.pool, call.path["client"]))
    await _note(call, f"client {call.path['client']} ended")


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


async def _note(call: Call, what: str) -> None:
    """Who may send and read changes with it: it is in the trail."""
    await call.pool.execute(
        "INSERT INTO audit (actor, organisation_id, action, query) VALUES ($1, $2, 'administer', $3)",
        call.reader.actor, call.reader.organisation_id, what,
    )  # fmt: skip


_WHO = (PROFESSIONAL, SYSTEM)
ENDPOINTS = (
    Endpoint("GET", "/senders", list_senders, "Sender", "s", "the organisation's senders", _WHO, answer=Senders),
    Endpoint("POST", "/senders", add_sender, "Sender", "c", "a new sender", _WHO, body=NewSender, answer=SenderMade,
             status=201),
    Endpoint("GET", "/senders/{sender}", show_sender, "Sender", "r", "a sender, and what is agreed with it", _WHO,
             answer=SenderShown),
    Endpoint("PUT", "/senders/{sender}", change_sender, "Sender", "u", "change what is agreed", _WHO, body=Agreed,
             answer=SenderShown),
    Endpoint("GET", "/clients", list_clients, "Client", "s", "the organisation's apps and systems", _WHO,
             answer=Clients),
    Endpoint("POST", "/clients", add_client, "Client", "c", "a new app or system", _WHO, body=NewClient,
             answer=ClientMade, status=201),
    Endpoint("DELETE", "/clients/{client}", end_client, "Client", "d", "end a client and its tokens", _WHO),
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
