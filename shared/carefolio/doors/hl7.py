"""POST /hl7 and its companions: a hospital's messages, and what it may ask about them while a feed is set up."""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import resources
from xml.sax.saxutils import escape

import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from carefolio.cloud import database
from carefolio.cloud.http import Door, read_body
from carefolio.cloud.settings import settings
from carefolio.cloud.telemetry import Event, log, span, where
from carefolio.hl7 import HL7Error, Message, batch_answer, is_batch, read, soap, split_batch
from carefolio.hl7.conformance import conformance
from carefolio.hl7.reader import MAX_BYTES
from carefolio.identity.senders import RefusedError, Sender, authenticate
from carefolio.mapping.explain import explain
from carefolio.record.ids import uuid7
from carefolio.record.intake import Answer, refusal_of_ours, take_in
from carefolio.record.sources import source_of

_MEDIA_TYPES = re.compile(
    r"(application/hl7-v2|text/plain|x-application/hl7-v2\+er7|application/octet-stream)\b", re.IGNORECASE
)
_MOST_IN_BATCH = 10_000
# For messages that are looked at, not taken in: nobody needs to send a scanned letter to be told where it goes.
_LONGEST_SAMPLE = 256 * 1024


async def post_message(request: Request) -> Response:
    """POST /hl7: one message, or a batch, in the body."""
    kind = request.headers.get("content-type", "text/plain")
    if not _MEDIA_TYPES.match(kind):
        return plain(415, "send the message as application/hl7-v2 or text/plain")
    sender = await sender_of(request)
    raw = await read_body(request, MAX_BYTES)
    return Response(await _answer(request, sender, raw), media_type="application/hl7-v2; charset=utf-8")


async def post_envelope(request: Request) -> Response:
    """POST /services/hl7: the same in the SOAP envelope of the reference product (operation acceptMessage)."""
    sender = await sender_of(request)
    body = await read_body(request, MAX_BYTES + soap.OVERHEAD)
    try:
        raw = soap.unwrap(body)
    except soap.EnvelopeError as error:
        return Response(soap.fault(str(error)), 500, media_type="text/xml")
    ack = await _answer(request, sender, raw)
    return Response(soap.wrap(ack), media_type="text/xml")


async def check_message(request: Request) -> Response:
    """POST /hl7/check: a conformance report; nothing is stored."""
    _, message = await _onboarding(request)
    findings = await anyio.to_thread.run_sync(
        lambda: conformance(message, datetime.now(UTC), production=settings().production)
    )
    return JSONResponse({"findings": [asdict(finding) for finding in findings]})


async def explain_message(request: Request) -> Response:
    """POST /hl7/explain: for every value the element that it goes to; nothing is stored, no value is repeated."""
    sender, message = await _onboarding(request)
    source = await source_of(
        await database.pool(), sender.organisation_id, sender.ods_code, sender.codes_version, sender.settings
    )
    lines = await anyio.to_thread.run_sync(lambda: explain(message, source))
    shown = [{"position": line.position, "path": line.path or None, "rule": line.rule} for line in lines]
    return JSONResponse({"values": shown})


async def _onboarding(request: Request) -> tuple[Sender, Message]:
    """A sender with good credentials, and the one message in the body."""
    sender = await sender_of(request)
    raw = await read_body(request, _LONGEST_SAMPLE)
    try:
        return sender, read(raw, sender.settings.character_set)
    except HL7Error as error:
        raise HTTPException(422, str(error)) from None


async def get_wsdl(request: Request) -> Response:
    """GET /services/hl7?wsdl."""
    text = resources.files("carefolio.hl7").joinpath("acceptMessage.wsdl.xml").read_text()
    return Response(text.replace("{address}", escape(f"{settings().public_url}/services/hl7")), media_type="text/xml")


async def sender_of(request: Request) -> Sender:
    """Who posts, by HTTP Basic and its address. Raises RefusedError."""
    address = request.client.host if request.client else ""
    with span("authenticate"):
        return await authenticate(await database.pool(), request.headers.get("authorization", ""), address)


async def _answer(request: Request, sender: Sender, raw: bytes) -> bytes:
    if not is_batch(raw):
        return (await _take_in(request, sender, raw)).ack
    messages = split_batch(raw)
    if len(messages) > _MOST_IN_BATCH:
        raise HTTPException(413, f"a batch holds at most {_MOST_IN_BATCH} messages")
    answers = [(await _take_in(request, sender, single)).ack for single in messages]
    return batch_answer(answers, datetime.now(UTC), uuid7().hex[:20])


async def _take_in(request: Request, sender: Sender, raw: bytes) -> Answer:
    remote = request.client.host if request.client else ""
    now = datetime.now(UTC)
    with span("take in"):
        try:
            answer = await take_in(await database.pool(), sender, raw, remote, now, production=settings().production)
        except database.UNAVAILABLE:
            raise
        except Exception as error:
            log(Event.UNEXPECTED, function="hl7", error=type(error).__name__, where=where(error))
            return refusal_of_ours(raw, now, enhanced=sender.settings.enhanced_acks)
    log(
        Event.MESSAGE_ANSWERED,
        message_id=answer.message_id,
        sender_id=sender.id,
        message_type=answer.message_type,
        code=answer.code,
        duplicate=answer.duplicate or None,
        bytes=len(raw),
    )
    return answer


def plain(status: int, reason: str) -> Response:
    """An error in a line of text."""
    return PlainTextResponse(reason + "\n", status)


class SenderDoor(Door):
    """Refused credentials become 401 with a challenge, or 403."""

    def _failure(self, error: Exception) -> Response:
        if isinstance(error, RefusedError):
            log(Event.SENDER_REFUSED, reason=error.reason, sender_id=error.sender_id)
            response = plain(error.status, error.reason)
            if error.status == 401:
                response.headers["WWW-Authenticate"] = 'Basic realm="carefolio-hl7", charset="UTF-8"'
            return response
        return super()._failure(error)
