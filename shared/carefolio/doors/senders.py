"""What an integration engineer asks: what became of my messages, what was agreed, which of our codes are unknown.

Messages are shown to the sender that posted them (its own credentials); settings and codes to clients of the
organisation, with the scope system/Sender.
"""

from __future__ import annotations

import uuid
from dataclasses import asdict
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from carefolio.cloud import database
from carefolio.cloud.http import read_body
from carefolio.doors.bearer import authorised
from carefolio.doors.hl7 import sender_of
from carefolio.identity import registry, sender_settings
from carefolio.identity.sender_settings import SettingsError, Stored
from carefolio.identity.tokens import Token
from carefolio.record import local_codes, messages, replay

_LONGEST = 256 * 1024
_MOST = 1000


async def list_own(request: Request) -> Response:
    """GET /hl7/messages?control_id=&status=&_count=: the sender's messages, the newest first, without contents."""
    sender = await sender_of(request)
    asked = dict(request.query_params)
    if unknown := asked.keys() - {"control_id", "status", "_count"}:
        raise HTTPException(400, f"{min(unknown)}: not a parameter here")
    status, count = asked.get("status"), asked.get("_count", "50")
    if status and status not in messages.STATUSES:
        raise HTTPException(400, f"status: one of {', '.join(messages.STATUSES)}")
    if not (count.isascii() and count.isdigit() and 1 <= int(count) <= _MOST):
        raise HTTPException(400, f"_count: a number from 1 to {_MOST}")
    rows = await messages.list_messages(
        await database.pool(), status=status, control_id=asked.get("control_id"), sender_id=sender.id, limit=int(count)
    )
    return _json({"messages": [{name: value for name, value in row.items() if name != "seq"} for row in rows]})


async def show_own(request: Request) -> Response:
    """GET /hl7/messages/[id]: the life of one of the sender's messages, and the resources that it touched."""
    sender = await sender_of(request)
    number = _uuid(request.path_params["id"])
    found = number and await messages.show_message(
        await database.pool(), number, f"sender/{sender.id}", sender_id=sender.id
    )
    if not found:
        raise HTTPException(404, "no such message of this sender")
    return _json(found)


async def _administrator(request: Request, right: str) -> tuple[Token, uuid.UUID]:
    """The client that administers its organisation's senders; a person's app does not."""
    token = await authorised(request, "Sender", right)
    if token.account_id is not None or token.organisation_id is None:
        raise HTTPException(403, "senders are administered by a client of the organisation itself")
    return token, token.organisation_id


async def read_settings(request: Request) -> Response:
    """GET /hl7/senders/[name]: what was agreed; its version is the ETag."""
    _, organisation = await _administrator(request, "r")
    return _settings(await _stored(request, organisation))


async def write_settings(request: Request) -> Response:
    """PUT /hl7/senders/[name]: the whole document, with If-Match."""
    token, organisation = await _administrator(request, "u")
    known = await _stored(request, organisation)
    wanted = request.headers.get("if-match")
    if wanted is None:
        raise HTTPException(428, "If-Match with the ETag of the settings that are changed is needed")
    document = await _object(request)
    try:
        changed = sender_settings.read_settings(document)
    except SettingsError as error:
        raise HTTPException(422, str(error)) from None
    stored = None
    if wanted == f'W/"{known.version}"':
        stored = await sender_settings.store(await database.pool(), known, changed, f"client/{token.client_id}")
    if stored is None:
        raise HTTPException(412, "the settings have changed meanwhile")
    return _settings(stored)


async def list_codes(request: Request) -> Response:
    """GET /hl7/codes[?solved=true]: the organisation's own codes that nobody has explained, or those explained."""
    _, organisation = await _administrator(request, "r")
    pool = await database.pool()
    ods_code = await registry.ods_code(pool, organisation)
    solved = request.query_params.get("solved", "false") == "true"
    return _json({"codes": await local_codes.work(pool, ods_code, solved=solved)})


async def solve_code(request: Request) -> Response:
    """PUT /hl7/codes: what one of the organisation's codes means; what came with it is mapped again."""
    token, organisation = await _administrator(request, "u")
    pool = await database.pool()
    document = await _object(request)
    names = ("system", "code", "target_system", "target_code")
    if any(not isinstance(document.get(name), str) for name in names):
        raise HTTPException(422, f"{', '.join(names)} are needed, and target_display may be")
    ods_code = await registry.ods_code(pool, organisation)
    actor = f"client/{token.client_id}"
    target = (document["target_system"], document["target_code"], str(document.get("target_display", "")))
    try:
        patients = await local_codes.solve(pool, ods_code, (document["system"], document["code"]), target, actor)
    except local_codes.CodeError as error:
        raise HTTPException(422, str(error)) from None
    written = [made.written async for made in replay.rebuild_records(pool, patients, actor, apply=True)]
    return _json({"records": len(written), "resources": sum(written)})


async def _stored(request: Request, organisation_id: uuid.UUID) -> Stored:
    known = await sender_settings.load(await database.pool(), request.path_params["name"], organisation_id)
    if known is None:
        raise HTTPException(404, "the organisation has no such sender")
    return known


async def _object(request: Request) -> dict[str, Any]:
    try:
        document = orjson.loads(await read_body(request, _LONGEST))
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        raise HTTPException(400, "a JSON object is needed")
    return document


def _settings(stored: Stored) -> Response:
    response = _json(asdict(stored.settings))
    response.headers["ETag"] = f'W/"{stored.version}"'
    return response


def _uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None


def _json(made: Any) -> Response:
    return Response(orjson.dumps(made, default=str), media_type="application/json")
