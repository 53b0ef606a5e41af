"""REST: the review queues of an organisation: messages that wait for a person, and where they belong.

For the organisation's own client and its administrators.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, RootModel
from starlette.exceptions import HTTPException

from carefolio.doors.rest import PROFESSIONAL, SYSTEM, Call, Endpoint
from carefolio.doors.structure import administrator
from carefolio.record import decisions, messages, moves, sharing
from carefolio.record.decisions import DecisionError


class Where(BaseModel):
    """The record that a message belongs to."""

    model_config = ConfigDict(extra="forbid")
    patient: uuid.UUID


class MessageShown(BaseModel):
    """What became of a message; nothing of what it says."""

    id: uuid.UUID
    received_at: datetime
    sender: str
    message_type: str
    control_id: str
    ack_code: str
    status: str
    reason: str | None
    attempts: int


class Messages(BaseModel):
    """A page of messages, the newest first."""

    messages: list[MessageShown]
    next: str | None


class MessageWhole(RootModel[dict[str, Any]]):
    """A message: its life, its bytes, what it wrote."""


class Answered(BaseModel):
    """The question that was answered."""

    reason: str


class Moved(BaseModel):
    """The resources that changed."""

    resources: list[uuid.UUID]


async def list_messages(call: Call) -> Any:
    await administrator(call)
    status = call.query.get("status")
    if status is not None and status not in messages.STATUSES:
        raise HTTPException(422, f"status: one of {', '.join(messages.STATUSES)}")
    found = await messages.list_messages(
        call.pool, status=status, control_id=call.query.get("control_id"), organisation_id=call.reader.organisation_id,
        before=call.after, limit=call.count + 1,
    )  # fmt: skip
    page = found[: call.count]
    shown = [{name: each[name] for name in MessageShown.model_fields} for each in page]
    return {"messages": shown, "next": call.cursor(page[-1]["seq"]) if len(found) > call.count else None}


async def show_message(call: Call) -> Any:
    await administrator(call)
    found = await messages.show_message(
        call.pool, call.number("message"), call.reader.actor, organisation_id=call.reader.organisation_id
    )
    if found is None:
        raise HTTPException(404, "the organisation has no such message")
    return found


async def approve_message(call: Call) -> Any:
    return await _answered(call, approve=True)


async def reject_message(call: Call) -> Any:
    return await _answered(call, approve=False)


async def _answered(call: Call, *, approve: bool) -> Any:
    number = await _own(call)
    try:
        return {"reason": await decisions.review(call.pool, number, call.reader.actor, approve=approve)}
    except DecisionError as error:
        raise HTTPException(409, str(error)) from None


async def move_message(call: Call) -> Any:
    number = await _own(call)
    if not await sharing.is_of_organisation(call.pool, call.body.patient, call.reader.organisation_id):
        raise HTTPException(409, "patient: the organisation contributes to no such record")
    try:
        return {"resources": await moves.give(call.pool, [number], call.body.patient, call.reader.actor)}
    except DecisionError as error:
        raise HTTPException(409, str(error)) from None


async def _own(call: Call) -> uuid.UUID:
    """The message in the path, which is one of the organisation's."""
    await administrator(call)
    number = call.number("message")
    if not await messages.is_of(call.pool, number, call.reader.organisation_id):
        raise HTTPException(404, "the organisation has no such message")
    return number


_WHO = (PROFESSIONAL, SYSTEM)
_ONE = "/messages/{message}"
ENDPOINTS = (
    Endpoint("GET", "/messages", list_messages, "Message", "s", "the organisation's messages, the newest first", _WHO,
             answer=Messages, paged=True,
             query=(("status", "one of " + ", ".join(messages.STATUSES)), ("control_id", "MSH-10"))),
    Endpoint("GET", _ONE, show_message, "Message", "r", "a message: its life, its bytes, what it wrote", _WHO,
             answer=MessageWhole),
    Endpoint("POST", f"{_ONE}/approve", approve_message, "Message", "u", "say yes to what a held message asks", _WHO,
             answer=Answered),
    Endpoint("POST", f"{_ONE}/reject", reject_message, "Message", "u", "say no to it", _WHO, answer=Answered),
    Endpoint("POST", f"{_ONE}/move", move_message, "Message", "u", "it belongs to another record", _WHO, body=Where,
             answer=Moved),
)  # fmt: skip
