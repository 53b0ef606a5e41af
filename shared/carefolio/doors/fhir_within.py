"""A request to the FHIR door from within: of an entry of a Bundle, or one that is answered later."""

from __future__ import annotations

from collections.abc import Iterable
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, NamedTuple

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Scope

from carefolio.fhir import text
from carefolio.mapping.serialise import dumps
from carefolio.record.rows import instant


class Answer(NamedTuple):
    """What the door said; a body is FHIR's JSON, or nothing."""

    status: int
    headers: Headers
    body: bytes


async def ask(door: ASGIApp, scope: Scope, body: bytes = b"") -> Answer:
    """Have the door answer the request that ``scope`` tells."""
    status, found, made = 0, Headers(), bytearray()
    sent = False

    async def receive() -> Message:
        nonlocal sent
        if sent:
            return {"type": "http.disconnect"}
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def collect(message: Message) -> None:
        nonlocal status, found
        if message["type"] == "http.response.start":
            status, found = message["status"], Headers(raw=message["headers"])
        else:
            made.extend(message.get("body", b""))

    await door(scope, receive, collect)
    return Answer(status, found, bytes(made))


def entry(answer: Answer, told: Iterable[str] = ("etag",)) -> str:
    """An answer as an entry of a Bundle (R4 Bundle.entry.response), with what its headers of these names tell."""
    said: dict[str, Any] = {"status": f"{answer.status} {HTTPStatus(answer.status).phrase}"}
    said |= {name: value for name in told if (value := answer.headers.get(name))}
    if changed := said.pop("last-modified", None):
        said["lastModified"] = instant(parsedate_to_datetime(changed))
    if answer.status >= HTTPStatus.BAD_REQUEST:
        return dumps({"response": said | ({"outcome": text.loads(answer.body)} if answer.body else {})}).decode()
    resource = f'"resource":{answer.body.decode()},' if answer.body else ""
    return f'{{{resource}"response":{dumps(said).decode()}}}'
