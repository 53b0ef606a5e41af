"""REST: webhooks, by which an organisation's own system is told that something waits."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable
from datetime import datetime
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from carefolio.doors.consent import Said
from carefolio.doors.rest import PROFESSIONAL, SYSTEM, Call, Endpoint
from carefolio.doors.structure import administrator
from carefolio.identity import webhooks
from carefolio.identity.webhooks import EVENTS, WebhookError

T = TypeVar("T")


class NewWebhook(Said):
    """Where events go (HTTPS), and which."""

    url: Annotated[str, Field(min_length=1, max_length=1000, pattern=r"^[^\x00]*$")]
    events: Annotated[list[Annotated[str, Field(max_length=50)]], Field(max_length=20)]


class WebhookShown(BaseModel):
    """A receiver; nothing is sent before the operator has ``allowed`` it."""

    id: uuid.UUID
    url: str
    events: list[str]
    allowed: bool
    result: str
    last_at: datetime | None
    waiting: int


class WebhookMade(WebhookShown):
    """``secret`` is told here and never again."""

    secret: str


class WebhookSecret(BaseModel):
    """``secret`` is told here and never again; what is sent from now on is signed with it."""

    secret: str


class Webhooks(BaseModel):
    """An organisation's receivers."""

    webhooks: list[WebhookShown]


async def list_webhooks(call: Call) -> Any:
    await administrator(call)
    found = await webhooks.of_organisation(call.pool, call.reader.organisation_id)
    return {"webhooks": [_shown(each) for each in found]}


async def add_webhook(call: Call) -> Any:
    await administrator(call)
    said: NewWebhook = call.body
    made, secret = await _told(
        webhooks.add(call.pool, call.reader.organisation_id, call.reader.actor, said.url, said.events)
    )
    return _shown(made) | {"secret": secret}


async def renew_secret(call: Call) -> Any:
    await administrator(call)
    number = call.number("webhook")
    return {"secret": await _told(webhooks.renew_secret(call.pool, call.reader.organisation_id, number))}


async def end_webhook(call: Call) -> None:
    await administrator(call)
    await _told(webhooks.end(call.pool, call.reader.organisation_id, call.number("webhook")))


def _shown(webhook: webhooks.Webhook) -> dict[str, Any]:
    return {name: getattr(webhook, name) for name in WebhookShown.model_fields}


async def _told(work: Awaitable[T]) -> T:
    try:
        return await work
    except WebhookError as error:
        raise HTTPException(404 if error.missing else 422, str(error)) from None


_WHO = (PROFESSIONAL, SYSTEM)
ENDPOINTS = (
    Endpoint("GET", "/webhooks", list_webhooks, "Webhook", "s", "where events are sent", _WHO, answer=Webhooks),
    Endpoint("POST", "/webhooks", add_webhook, "Webhook", "c",
             f"have events sent ({', '.join(EVENTS)}), when the operator has allowed it", _WHO, body=NewWebhook,
             answer=WebhookMade, status=201),
    Endpoint("POST", "/webhooks/{webhook}/secret", renew_secret, "Webhook", "c",
             "a new secret for a receiver, also of subscriptions", _WHO, answer=WebhookSecret, status=201),
    Endpoint("DELETE", "/webhooks/{webhook}", end_webhook, "Webhook", "d", "send nothing there any more", _WHO),
)  # fmt: skip
