"""REST: the systems of an organisation: what posts for it, and the apps that read and write.

For the organisation's own client and its administrators.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import asdict
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, RootModel
from starlette.exceptions import HTTPException

from carefolio.doors.consent import Said
from carefolio.doors.rest import PROFESSIONAL, SYSTEM, Call, Endpoint
from carefolio.doors.structure import administrator
from carefolio.identity import accounts, registry, scopes, sender_settings, senders
from carefolio.identity.registry import AppSettings, RegistryError
from carefolio.identity.sender_settings import SettingsError
from carefolio.record.access import check_scope
from carefolio.record.arguments import SearchError

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


class Networks(Said):
    """All networks (CIDR) that a sender may post from; none: from nowhere."""

    networks: Annotated[list[Plain], Field(max_length=50)]


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


async def list_senders(call: Call) -> Any:
    await administrator(call)
    found = await senders.of_organisation(call.pool, call.reader.organisation_id)
    return {"senders": [await _sender(call, each["name"], each) for each in found]}


async def add_sender(call: Call) -> Any:
    await administrator(call)
    said: NewSender = call.body
    code = await registry.ods_code(call.pool, call.reader.organisation_id)
    made = await told(registry.add_sender(call.pool, said.name, code, said.networks, team=said.team))
    await note(call, f"sender {made.name} added")
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


async def renew_password(call: Call) -> Any:
    await administrator(call)
    made = await _named(registry.renew_password(call.pool, call.path["sender"], call.reader.organisation_id))
    await note(call, f"sender {made.name}: a new password")
    return {"name": made.name, "username": made.username, "password": made.password}


async def set_networks(call: Call) -> Any:
    await administrator(call)
    said: Networks = call.body
    await _named(registry.set_networks(call.pool, call.path["sender"], said.networks, call.reader.organisation_id))
    await note(call, f"sender {call.path['sender']}: other networks")
    return await show_sender(call)


async def _named(work: Awaitable[T]) -> T:
    """What is said of a sender that is not there is 404, of a network that is none 422."""
    try:
        return await work
    except registry.RegistryError as error:
        raise HTTPException(404 if "no sender" in str(error) else 422, str(error)) from None


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
    await note(call, f"client {made.client_id} added: {made.scope}")
    return {"client_id": made.client_id, "client_secret": made.client_secret, "scope": made.scope}


async def end_client(call: Call) -> None:
    await administrator(call)
    known = await registry.clients_of(call.pool, call.reader.organisation_id)
    if call.path["client"] not in [each["id"] for each in known]:
        raise HTTPException(404, "the organisation has no such client")
    await told(registry.end_client(call.pool, call.path["client"]))
    await note(call, f"client {call.path['client']} ended")


async def told(work: Awaitable[T], *, missing: bool = False) -> T:
    """What the register says no to, as a problem."""
    try:
        return await work
    except RegistryError as error:
        raise HTTPException(404 if missing else 422, str(error)) from None


async def note(call: Call, what: str) -> None:
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
    Endpoint("PUT", "/senders/{sender}/networks", set_networks, "Sender", "u", "from where it may post", _WHO,
             body=Networks, answer=SenderShown),
    Endpoint("POST", "/senders/{sender}/password", renew_password, "Sender", "u", "a new password, in place of the old",
             _WHO, answer=SenderMade),
    Endpoint("GET", "/clients", list_clients, "Client", "s", "the organisation's apps and systems", _WHO,
             answer=Clients),
    Endpoint("POST", "/clients", add_client, "Client", "c", "a new app or system", _WHO, body=NewClient,
             answer=ClientMade, status=201),
    Endpoint("DELETE", "/clients/{client}", end_client, "Client", "d", "end a client and its tokens", _WHO),
)  # fmt: skip
