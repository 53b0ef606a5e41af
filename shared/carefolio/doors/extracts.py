"""Agreements and their extracts, for the operator's own client: scope ``system/Extract.…`` (ours, not FHIR's)."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, RootModel
from starlette.exceptions import HTTPException

from carefolio.doors import rest
from carefolio.doors.rest import SYSTEM, Call, Endpoint
from carefolio.emis.errors import ExtractError
from carefolio.extracts import agreements, fetching, status, steps
from carefolio.extracts.agreements import EVERY_TWO_HOURS, KEEP, Agreement, AgreementError, Wanted
from carefolio.extracts.sftp import FetchError

_Text = Annotated[str, Field(max_length=2000, pattern=r"^[^\x00]*$")]
_Key = Annotated[str, Field(max_length=100_000, pattern=r"^[^\x00]*$")]


class Terms(BaseModel):
    """An agreement as it is registered. Keys are their text; what is secret and left out stays as it was."""

    model_config = ConfigDict(extra="forbid", strict=True)
    guid: _Text
    host: _Text = ""
    port: Annotated[int, Field(ge=1, le=65535)] = 22
    host_keys: Annotated[list[_Text], Field(max_length=20)] = []
    username: _Text = ""
    path: _Text = "."
    ssh_key: _Key | None = None
    ssh_passphrase: _Key | None = None
    password: _Key | None = None
    decrypt_keys: Annotated[list[_Key], Field(max_length=20)] | None = None
    passphrase: _Key | None = None
    verify_keys: Annotated[list[_Key], Field(max_length=20)] | None = None
    schedule: _Text = EVERY_TWO_HOURS
    practices: Annotated[list[_Text], Field(max_length=10_000)] = []
    roll_off: _Text = KEEP
    stale_hours: Annotated[int, Field(ge=1, le=10_000)] = 36


class Again(BaseModel):
    """How a batch that failed goes on: with its files, or (``fetch_again``) with new ones."""

    model_config = ConfigDict(extra="forbid", strict=True)
    fetch_again: bool = False


class Settled(BaseModel):
    """Why something parked is dismissed."""

    model_config = ConfigDict(extra="forbid", strict=True)
    reason: Annotated[str, Field(max_length=1000, pattern=r"^[^\x00]*$")] = ""


class AgreementShown(RootModel[dict[str, Any]]):
    """An agreement, without its secrets."""


class Agreements(BaseModel):
    """Every agreement."""

    agreements: list[AgreementShown]


class Overview(RootModel[dict[str, Any]]):
    """An agreement's practices, batches and files, and how much is parked."""


class Parked(BaseModel):
    """What could not be applied, and why."""

    parked: list[dict[str, Any]]


class Fetched(RootModel[dict[str, Any]]):
    """What a fetch did."""


class Tried(BaseModel):
    """How many parked patients were tried again."""

    patients: int


async def list_agreements(call: Call) -> Any:
    return {"agreements": [_shown(each) for each in await agreements.all_of_them(call.pool)]}


async def put_agreement(call: Call) -> Any:
    said: dict[str, Any] = call.body.model_dump(exclude_unset=True)
    try:
        guid = uuid.UUID(said.pop("guid").strip("{}"))
    except ValueError:
        raise HTTPException(422, "guid: the agreement's GUID is needed") from None
    given: dict[str, Any] = {name: _bytes(value) if name in _SECRET else value for name, value in said.items()}
    try:
        return _shown(await agreements.add(call.pool, Wanted(call.path["name"], guid, **given)))
    except AgreementError as error:
        raise HTTPException(422, str(error)) from None


_SECRET = frozenset({"ssh_key", "ssh_passphrase", "password", "passphrase", "decrypt_keys", "verify_keys"})


def _bytes(value: str | Sequence[str] | None) -> bytes | list[bytes] | None:
    if value is None or isinstance(value, str):
        return value.strip("\n").encode() if value is not None else None
    return [each.encode() for each in value]


async def show_agreement(call: Call) -> Any:
    return await status.overview(call.pool, await _agreement(call))


async def end_agreement(call: Call) -> None:
    await agreements.end(call.pool, (await _agreement(call)).name)


async def fetch(call: Call) -> Any:
    agreement = await _agreement(call)
    if not agreement.host:
        raise HTTPException(409, "the agreement has no server")
    try:
        made = await fetching.fetch(call.pool, agreement)
    except FetchError as error:
        raise HTTPException(502, str(error)) from None
    if made.busy:
        raise HTTPException(409, "it is being fetched already")
    return asdict(made)


async def retry_batch(call: Call) -> None:
    try:
        await steps.retry(call.pool, await _agreement(call), call.path["stamp"], again=call.body.fetch_again)
    except ExtractError as error:
        raise HTTPException(409, str(error)) from None


async def list_parked(call: Call) -> Any:
    dismissed = call.query.get("dismissed") == "true"
    return {"parked": await status.parked(call.pool, await _agreement(call), dismissed=dismissed)}


async def retry_parked(call: Call) -> Any:
    try:
        return {"patients": await status.retry(call.pool, await _agreement(call))}
    except AgreementError as error:
        raise HTTPException(409, str(error)) from None


async def dismiss_parked(call: Call) -> None:
    await _agreement(call)
    await _settled(status.dismiss(call.pool, call.number("id"), call.reader.actor, call.body.reason))


async def approve_parked(call: Call) -> None:
    await _agreement(call)
    await _settled(status.decide(call.pool, call.number("id"), call.reader.actor, approve=True))


async def reject_parked(call: Call) -> None:
    await _agreement(call)
    await _settled(status.decide(call.pool, call.number("id"), call.reader.actor, approve=False))


async def _settled(work: Any) -> None:
    try:
        await work
    except AgreementError as error:
        raise HTTPException(409, str(error)) from None


async def _agreement(call: Call) -> Agreement:
    try:
        return await agreements.find(call.pool, call.path["name"])
    except AgreementError as error:
        raise HTTPException(404, str(error)) from None


def _shown(agreement: Agreement) -> dict[str, Any]:
    made = asdict(agreement)
    made.pop("id")
    return made


def _of(method: str, path: str, work: rest.Work, right: str, summary: str, **more: Any) -> Endpoint:
    return Endpoint(method, f"/agreements{path}", work, "Extract", right, summary, (SYSTEM,), **more)


_ONE = "/{name}"
ENDPOINTS = (
    _of("GET", "", list_agreements, "s", "every agreement", answer=Agreements),
    _of("GET", _ONE, show_agreement, "r", "its practices, batches and files, and how much is parked", answer=Overview),
    _of("PUT", _ONE, put_agreement, "u", "register it, or change it; secrets are not shown again", body=Terms,
        answer=AgreementShown),
    _of("DELETE", _ONE, end_agreement, "d", "fetch no more; what was loaded stays"),
    _of("POST", f"{_ONE}/fetch", fetch, "u", "do at once what the schedule does", answer=Fetched),
    _of("POST", f"{_ONE}/batches/{{stamp}}/retry", retry_batch, "u", "a batch that failed goes on", body=Again),
    _of("GET", f"{_ONE}/parked", list_parked, "r", "what could not be applied, and why", answer=Parked,
        query=(("dismissed", "true for what was dismissed"),)),
    _of("POST", f"{_ONE}/parked/retry", retry_parked, "u", "read every parked patient anew", answer=Tried),
    _of("POST", f"{_ONE}/parked/{{id}}/dismiss", dismiss_parked, "u", "leave it, with a reason", body=Settled),
    _of("POST", f"{_ONE}/parked/{{id}}/approve", approve_parked, "u", "say yes to what a parked patient asks"),
    _of("POST", f"{_ONE}/parked/{{id}}/reject", reject_parked, "u", "say no to it"),
)  # fmt: skip
