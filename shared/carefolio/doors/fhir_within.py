"""A request to the FHIR door from within: of an entry of a Bundle, or one that is answered later."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, NamedTuple

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Scope

from carefolio.doors import fhir_formats
from carefolio.fhir import text
from carefolio.mapping.serialise import dumps
from carefolio.record.rows import instant


class Answer(NamedTuple):
    """What the door said."""

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
    # A server drops the body of an answer to HEAD, and here there is none.
    return Answer(status, found, b"" if scope["method"] == "HEAD" else bytes(made))


def entry(answer: Answer, told: Iterable[str] = ("etag",)) -> str:
    """An answer as an entry of a Bundle (R4 Bundle.entry.response), with what its headers of these names tell.

    What is not FHIR's, as GraphQL's answer is not, becomes a Binary.
    """
    said: dict[str, Any] = {"status": f"{answer.status} {HTTPStatus(answer.status).phrase}"}
    said |= {name: value for name in told if (value := answer.headers.get(name))}
    if changed := said.pop("last-modified", None):
        said["lastModified"] = instant(parsedate_to_datetime(changed))
    media = answer.headers.get("content-type", "")
    body = answer.body.decode("utf-8", "replace")
    if body and not fhir_formats.is_fhir_json(media):
        data = base64.b64encode(answer.body).decode()
        body = dumps({"resourceType": "Binary", "contentType": media, "data": data}).decode()
    elif answer.status >= HTTPStatus.BAD_REQUEST and body:
        said["outcome"], body = text.loads(body), ""
    resource = f'"resource":{body},' if body else ""
    return f'{{{resource}"response":{dumps(said).decode()}}}'
