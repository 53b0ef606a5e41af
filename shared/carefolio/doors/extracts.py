"""Agreements and their extracts, for the operator's own client: scope ``system/Extract.…`` (ours, not FHIR's)."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from carefolio.cloud import database
from carefolio.cloud.http import read_body
from carefolio.doors.bearer import authorised
from carefolio.emis.errors import ExtractError
from carefolio.extracts import agreements, fetching, status, steps
from carefolio.extracts.agreements import Agreement, AgreementError, Wanted
from carefolio.extracts.sftp import FetchError

_LONGEST = 256 * 1024
# How an agreement is written: name -> the type that JSON must have for it.
_TEXTS = ("guid", "host", "username", "path", "ssh_key", "ssh_passphrase", "password", "passphrase", "schedule",
          "roll_off")  # fmt: skip
_LISTS = ("host_keys", "decrypt_keys", "verify_keys", "practices")
_KEYS = frozenset({"decrypt_keys", "verify_keys"})
_NUMBERS = ("port", "stale_hours")
_SECRET = frozenset({"ssh_key", "ssh_passphrase", "password", "passphrase"})


async def list_agreements(request: Request) -> Response:
    """GET /api/agreements."""
    await _operator(request, "s")
    return _json({"agreements": [_shown(each) for each in await agreements.all_of_them(await database.pool())]})


async def put_agreement(request: Request) -> Response:
    """PUT /api/agreements/[name]: register it, or change it; keys and passwords are not shown again."""
    await _operator(request, "u")
    wanted = _wanted(str(request.path_params["name"]), await _object(request))
    try:
        return _json(_shown(await agreements.add(await database.pool(), wanted)))
    except AgreementError as error:
        raise HTTPException(422, str(error)) from None


async def show_agreement(request: Request) -> Response:
    """GET /api/agreements/[name]: its practices, batches and files, and how much is parked."""
    await _operator(request, "r")
    return _json(await status.overview(await database.pool(), await _agreement(request)))


async def end_agreement(request: Request) -> Response:
    """DELETE /api/agreements/[name]: fetch no more; what was loaded stays."""
    await _operator(request, "d")
    await agreements.end(await database.pool(), (await _agreement(request)).name)
    return Response(status_code=204)


async def fetch(request: Request) -> Response:
    """POST /api/agreements/[name]/fetch: do at once what the schedule does; 502 where the server cannot be read."""
    await _operator(request, "u")
    agreement = await _agreement(request)
    if not agreement.host:
        raise HTTPException(409, "the agreement has no server")
    try:
        made = await fetching.fetch(await database.pool(), agreement)
    except FetchError as error:
        raise HTTPException(502, str(error)) from None
    if made.busy:
        raise HTTPException(409, "it is being fetched already")
    return _json(asdict(made))


async def retry_batch(request: Request) -> Response:
    """POST /api/agreements/[name]/batches/[timestamp]/retry: a batch that failed goes on (``fetch_again``: anew)."""
    await _operator(request, "u")
    agreement, said = await _agreement(request), await _object(request, may_lack=True)
    try:
        await steps.retry(
            await database.pool(), agreement, str(request.path_params["stamp"]), again=said.get("fetch_again") is True
        )
    except ExtractError as error:
        raise HTTPException(409, str(error)) from None
    return Response(status_code=204)


async def list_parked(request: Request) -> Response:
    """GET /api/agreements/[name]/parked: what could not be applied, and why; ``?dismissed=true`` for what was."""
    await _operator(request, "r")
    dismissed = request.query_params.get("dismissed") == "true"
    return _json({"parked": await status.parked(await database.pool(), await _agreement(request), dismissed=dismissed)})


async def retry_parked(request: Request) -> Response:
    """POST /api/agreements/[name]/parked/retry: read every parked patient anew."""
    await _operator(request, "u")
    try:
        return _json({"patients": await status.retry(await database.pool(), await _agreement(request))})
    except AgreementError as error:
        raise HTTPException(409, str(error)) from None


async def settle_parked(request: Request) -> Response:
    """POST /api/agreements/[name]/parked/[id]/dismiss (with a reason), approve or reject (a question)."""
    actor = await _operator(request, "u")
    await _agreement(request)
    pool, how = await database.pool(), str(request.path_params["how"])
    try:
        number = uuid.UUID(str(request.path_params["id"]))
        if how == "dismiss":
            reason = (await _object(request, may_lack=True)).get("reason", "")
            await status.dismiss(pool, number, actor, reason if isinstance(reason, str) else "")
        elif how in ("approve", "reject"):
            await status.decide(pool, number, actor, approve=how == "approve")
        else:
            raise HTTPException(404, "dismiss, approve or reject")
    except AgreementError as error:
        raise HTTPException(409, str(error)) from None
    except ValueError:
        raise HTTPException(404, "nothing of that id is parked") from None
    return Response(status_code=204)


async def _operator(request: Request, right: str) -> str:
    """The operator's client, for the audit trail; a person's app does not administer."""
    token = await authorised(request, "Extract", right)
    if token.account_id is not None:
        raise HTTPException(403, "this is for a client of the operator's")
    return f"client/{token.client_id}"


async def _agreement(request: Request) -> Agreement:
    try:
        return await agreements.find(await database.pool(), str(request.path_params["name"]))
    except AgreementError as error:
        raise HTTPException(404, str(error)) from None


async def _object(request: Request, *, may_lack: bool = False) -> dict[str, Any]:
    body = await read_body(request, _LONGEST)
    if may_lack and not body:
        return {}
    try:
        said = json.loads(body)
    except ValueError:
        raise HTTPException(400, "the body is no JSON") from None
    if not isinstance(said, dict):
        raise HTTPException(400, "the body is no object")
    return said


def _wanted(name: str, said: Mapping[str, Any]) -> Wanted:
    """The agreement that a body describes. Raises HTTPException that names the member that is wrong."""
    given: dict[str, Any] = {}
    for member, value in said.items():
        if member in _TEXTS and isinstance(value, str) and "\x00" not in value:
            given[member] = value.strip("\n").encode() if member in _SECRET else value
        elif member in _LISTS and isinstance(value, list) and all(isinstance(each, str) for each in value):
            given[member] = [each.encode() for each in value] if member in _KEYS else tuple(value)
        elif member in _NUMBERS and isinstance(value, int) and not isinstance(value, bool):
            given[member] = value
        else:
            raise HTTPException(422, f"{member[:40]}: not a member of an agreement, or not of its type")
    try:
        given["guid"] = uuid.UUID(given.get("guid", "").strip("{}"))
    except ValueError:
        raise HTTPException(422, "guid: the agreement's GUID is needed") from None
    return Wanted(name, **given)


def _shown(agreement: Agreement) -> dict[str, Any]:
    made = asdict(agreement)
    made.pop("id")
    return made


def _json(made: Any) -> Response:
    return JSONResponse(json.loads(json.dumps(made, default=_plain)))


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
