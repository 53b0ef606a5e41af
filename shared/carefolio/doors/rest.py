"""REST: one table of endpoints, from which come the routes, the checks and the OpenAPI document.

Bodies and answers are JSON, errors application/problem+json (RFC 9457), pages cursors, POSTs repeatable with an
Idempotency-Key, changes conditional with If-Match.
"""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from carefolio.cloud import database
from carefolio.cloud.database import Pool
from carefolio.cloud.http import read_body
from carefolio.doors.bearer import authorised, check_scope
from carefolio.identity import sealed
from carefolio.identity.tokens import Token
from carefolio.record.access import Reader
from carefolio.record.sharing import SharingError

BASE = "/api/v1"
PATIENT, PROFESSIONAL, SYSTEM = "patient", "professional", "system"
ANYBODY = (PATIENT, PROFESSIONAL, SYSTEM)
_LONGEST = 256 * 1024
MOST = 200
COUNT = 50
PROBLEM = "application/problem+json"
LONGEST_KEY = 200


@dataclass(slots=True)
class Call:
    """One request, checked: who calls, what its path names, its body."""

    request: Request
    token: Token
    reader: Reader
    pool: Pool
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: Any = None
    count: int = COUNT
    after: Any = None

    def number(self, name: str) -> uuid.UUID:
        """A number in the path; 404 where it is none, for then nothing is there."""
        return number(self.path[name])

    @property
    def patient(self) -> uuid.UUID:
        """The record in the path; ``me`` is the caller's own."""
        if self.path["patient"] == "me":
            if self.reader.own is None or self.reader.acts_for is not None:
                raise HTTPException(404, "patient: the caller has no record of his own")
            return self.reader.own
        return self.number("patient")

    def cursor(self, after: Any) -> str:
        """Where the next page begins; good for this caller and this list alone."""
        said = json.dumps(after, default=str)
        return base64.urlsafe_b64encode(f"{self._mark(said)}{said}".encode()).decode()

    def read_cursor(self, text: str) -> Any:
        try:
            plain = base64.urlsafe_b64decode(text.encode()).decode()
            mark, said = plain[:32], plain[32:]
            if mark == self._mark(said):
                return json.loads(said)
        except (ValueError, UnicodeDecodeError):
            pass
        raise HTTPException(422, "cursor: not one of this list's, or not this caller's")

    def _mark(self, said: str) -> str:
        return sealed.mac("cursor", f"{self.reader.actor} {self.request.url.path} {said}").hex()[:32]


Work = Callable[[Call], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """``path`` is below /api/v1; the scope is ``area`` and ``right``; ``answer`` None: 204.

    ``who`` may call: a patient's, a professional's or a system's token. ``query``: further parameters and what they
    mean; ``paged``: a list with ``count`` and ``cursor``; ``media`` of an answer that is a file; ``longest``
    body, in bytes.
    """

    method: str
    path: str
    work: Work
    area: str
    right: str
    summary: str
    who: tuple[str, ...]
    body: type[BaseModel] | None = None
    answer: type[BaseModel] | None = None
    status: int = 200
    query: tuple[tuple[str, str], ...] = ()
    paged: bool = False
    media: str = ""
    longest: int = _LONGEST


def number(text: str) -> uuid.UUID:
    """A number that a path names; 404 where it is none."""
    try:
        return uuid.UUID(text)
    except ValueError:
        raise HTTPException(404, "there is nothing at this address") from None


def problem(status: int, reason: str) -> Response:
    """The error body (RFC 9457)."""
    try:
        title = HTTPStatus(status).phrase
    except ValueError:
        title = "Error"
    return JSONResponse({"type": "about:blank", "title": title, "status": status, "detail": reason}, status,
                        media_type=PROBLEM)  # fmt: skip


def routes(endpoints: Sequence[Endpoint]) -> list[Route]:
    """The table's routes."""
    shown = {(each.method, each.path): each for each in endpoints}
    return [
        Route(BASE + each.path, _handler(each, shown.get(("GET", each.path))), methods=[each.method])
        for each in endpoints
    ]


def _handler(endpoint: Endpoint, present: Endpoint | None) -> Callable[[Request], Awaitable[Response]]:
    async def handle(request: Request) -> Response:
        call = await _call(endpoint, request)
        try:
            if endpoint.method == "POST" and (key := request.headers.get("idempotency-key")):
                return await _once(call, endpoint, key)
            if present is not None and endpoint.method in ("PUT", "DELETE") and "if-match" in request.headers:
                now = _json(await present.work(await _call(present, request, reading=False)))
                if _etag(now) not in request.headers["if-match"]:
                    raise HTTPException(412, "it was changed since, or is not there")
            return _answer(call, endpoint, await endpoint.work(call))
        except SharingError as refused:
            if refused.forbidden:
                await _note(call, endpoint)
            raise HTTPException(refused.status, str(refused)) from None
        except HTTPException as refused:
            if refused.status_code == 403:
                await _note(call, endpoint)
            raise

    handle.__name__ = endpoint.work.__name__
    return handle


async def _call(endpoint: Endpoint, request: Request, *, reading: bool = True) -> Call:
    token = await authorised(request, "", "")
    kind = SYSTEM if token.account_id is None else PROFESSIONAL if token.organisation_id else PATIENT
    reader = _reader(token)
    call = Call(request, token, reader, await database.pool(), request.path_params, dict(request.query_params))
    try:
        check_scope(token, endpoint.area, endpoint.right)
    except HTTPException:
        await _note(call, endpoint)
        raise
    if kind not in endpoint.who:
        await _note(call, endpoint)
        raise HTTPException(403, f"this is for a {' or a '.join(endpoint.who)}, and the token is a {kind}'s")
    known = {name for name, _ in endpoint.query} | ({"count", "cursor"} if endpoint.paged else set())
    if reading and (unknown := sorted(call.query.keys() - known)):
        raise HTTPException(422, f"{unknown[0][:40]}: not a parameter here")
    if endpoint.paged:
        text = call.query.get("count", str(COUNT))
        if not (text.isascii() and text.isdigit() and len(text) < 4 and 1 <= int(text) <= MOST):
            raise HTTPException(422, f"count: a number from 1 to {MOST}")
        call.count = int(text)
        if cursor := call.query.get("cursor"):
            call.after = call.read_cursor(cursor)
    if endpoint.body is not None and reading:
        call.body = _read(endpoint.body, await read_body(request, endpoint.longest))
    return call


def _reader(token: Token) -> Reader:
    if token.account_id is None:
        assert token.organisation_id is not None
        return Reader(f"client/{token.client_id}", token.organisation_id, token.scope)
    return Reader.of_person(token.account_id, token.organisation_id, token.record_id, client=token.client_id,
                            scope=token.scope, patient=token.patient_id)  # fmt: skip


def needs_body(model: type[BaseModel]) -> bool:
    """Whether a body of this kind must be there: not where it has nothing that must be said."""
    return any(field.is_required() for field in model.model_fields.values())


def _read(model: type[BaseModel], body: bytes) -> BaseModel:
    if not body and not needs_body(model):
        return model()
    try:
        return model.model_validate_json(body)
    except ValidationError as wrong:
        first = wrong.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part)[:40] for part in first["loc"]) or "the body"
        raise HTTPException(422, f"{place}: {first['msg']}") from None


def _answer(call: Call, endpoint: Endpoint, made: Any) -> Response:
    if isinstance(made, Response):
        return made
    if endpoint.answer is None:
        return Response(status_code=204)
    body = _json(made)
    headers = {"ETag": _etag(body)}
    if endpoint.method == "GET" and headers["ETag"] in call.request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(body, endpoint.status, headers, "application/json")


def _json(made: Any) -> bytes:
    return json.dumps(made, default=_plain, ensure_ascii=False, separators=(",", ":")).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return str(value)


def _etag(body: bytes) -> str:
    return f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'


async def _note(call: Call, endpoint: Endpoint) -> None:
    """What was refused leaves its line too, in the access log of whom it was about."""
    try:
        about = uuid.UUID(call.path.get("patient", ""))
    except ValueError:
        about = None
    await call.pool.execute(
        """
        INSERT INTO audit (actor, organisation_id, action, patient_id, query)
        VALUES ($1, $2, 'refused', (SELECT id FROM record WHERE id = $3), $4)
        """,
        call.reader.actor,
        call.reader.organisation_id,
        about,
        f"{endpoint.method} {endpoint.path}",
    )


async def _once(call: Call, endpoint: Endpoint, key: str) -> Response:
    """A POST with a key is done once, and answered the same for a day."""
    if not 1 <= len(key) <= LONGEST_KEY:
        raise HTTPException(422, f"Idempotency-Key: 1 to {LONGEST_KEY} characters")
    said = call.body.model_dump_json() if call.body is not None else ""
    request = hashlib.sha256(f"{call.request.url.path}?{call.request.url.query}\n{said}".encode()).digest()
    name = sealed.mac("repeatable", f"{call.reader.actor} {key}")
    mine = await call.pool.fetchval(
        """
        WITH old AS (DELETE FROM repeatable WHERE created_at < now() - interval '1 day' AND key <> $1)
        INSERT INTO repeatable AS known (key, request) VALUES ($1, $2)
        ON CONFLICT (key) DO UPDATE SET request = excluded.request, status = NULL, answer = NULL, created_at = now()
        WHERE known.created_at < CASE WHEN known.status IS NULL THEN now() - interval '1 minute'
            ELSE now() - interval '1 day' END RETURNING true
        """,
        name,
        request,
    )
    if not mine:
        row = await call.pool.fetchrow("SELECT request, status, answer FROM repeatable WHERE key = $1", name)
        if row is None or row["status"] is None:
            raise HTTPException(409, "Idempotency-Key: the first request with it is still at work")
        if bytes(row["request"]) != request:
            raise HTTPException(422, "Idempotency-Key: it was used for another request")
        answer = sealed.unseal(bytes(row["answer"]))
        return Response(answer, row["status"], media_type="application/json")
    try:
        made = _answer(call, endpoint, await endpoint.work(call))
    except BaseException:
        # Nothing was done: the same key may try again.
        await call.pool.execute("DELETE FROM repeatable WHERE key = $1", name)
        raise
    await call.pool.execute(
        "UPDATE repeatable SET status = $2, answer = $3 WHERE key = $1",
        name,
        made.status_code,
        sealed.seal(bytes(made.body)),
    )
    return made
