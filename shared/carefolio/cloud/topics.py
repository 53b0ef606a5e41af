"""The topics and who is called for them. Terraform makes the same subscriptions from the same file of facts."""

from __future__ import annotations

from dataclasses import dataclass

MESSAGE_STORED = "message-stored"
MESSAGE_DEAD = "message-stored-dead"
LETTER_WRITTEN = "letter-written"
EXTRACT_STEP = "extract-step"
WEBHOOK_EVENT = "webhook-event"


@dataclass(frozen=True, slots=True)
class Subscription:
    """``path`` on the function; ``dead_letter`` is where a message goes after ``attempts`` deliveries."""

    topic: str
    function: str
    path: str
    attempts: int
    dead_letter: str | None


SUBSCRIPTIONS = (
    # Ingest itself gives up on a message that it cannot apply; the queue's limit is for hours of outage.
    Subscription(MESSAGE_STORED, "ingest", "/ingest", 100, MESSAGE_DEAD),
    # A mail server may be away for hours; what nobody could send for days is not worth sending.
    Subscription(LETTER_WRITTEN, "notify", "/notify", 100, None),
    # A receiver that does not answer is tried again by the clock, not by the queue.
    Subscription(WEBHOOK_EVENT, "notify", "/notify/webhook", 100, None),
    # A step that fails is tried until its batch is marked as failed; what the queue loses the sweep finds.
    Subscription(EXTRACT_STEP, "emis_load", "/emis_load", 100, None),
    Subscription(MESSAGE_DEAD, "ingest", "/ingest/dead", 100, None),
)
