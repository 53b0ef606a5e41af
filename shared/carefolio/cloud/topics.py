"""The topics and who is called for them. Terraform makes the same from the same file of facts (wiring.json)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

MESSAGE_STORED = "message-stored"
LETTER_WRITTEN = "letter-written"
EXTRACT_STEP = "extract-step"
WEBHOOK_EVENT = "webhook-event"
JOB_PART = "job-part"
RECORD_CHANGED = "record-changed"
SUBSCRIPTION_DUE = "subscription-due"


@dataclass(frozen=True, slots=True)
class Subscription:
    """``path`` on the function; ``dead_letter`` is where a message goes after ``attempts`` deliveries.

    ``ordered``: of one key one after the other. ``waits``: its work is to wait for others' servers, not our own.
    """

    topic: str
    function: str
    path: str
    attempts: int
    dead_letter: str | None
    ordered: bool
    waits: bool


def wiring() -> dict[str, Any]:
    """The facts (wiring.json), of which Terraform makes the same subscriptions and jobs."""
    found: dict[str, Any] = json.loads(resources.files("carefolio.cloud").joinpath("wiring.json").read_text())
    return found


# Functions give up by themselves; the queue's limit is for hours of outage. What it loses the clock finds again.
SUBSCRIPTIONS = tuple(Subscription(**each) for each in wiring()["subscriptions"])
