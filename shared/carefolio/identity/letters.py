"""Letters: what people are told by e-mail.

A letter is written in the transaction that gives the reason for it, sealed, and sent by the function ``notify``; then
its text is gone. It never holds anything of a record.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from carefolio.cloud import outbox
from carefolio.cloud.database import Connection
from carefolio.cloud.settings import settings
from carefolio.cloud.topics import LETTER_WRITTEN
from carefolio.identity import sealed

if TYPE_CHECKING:
    from jinja2 import Environment


@dataclass(frozen=True, slots=True)
class Letter:
    """A letter as it is sent."""

    kind: str
    address: str
    subject: str
    body: str


async def write(connection: Connection, kind: str, address: str, **facts: Any) -> None:
    """Write a letter in the caller's transaction; ``kick`` after it."""
    number = uuid.uuid4()
    content = json.dumps({"address": address, "facts": facts}).encode()
    await connection.execute(
        """
        WITH written AS (INSERT INTO letter (id, kind, sealed) VALUES ($1, $2, $3))
        INSERT INTO outbox (topic, ordering_key, data, attributes) VALUES ($4, $1::uuid::text, $5, '{}')
        """,
        number,
        kind,
        sealed.seal(content),
        LETTER_WRITTEN,
        json.dumps({"letter": str(number)}).encode(),
    )


def kick() -> None:
    """After the commit: let it go out now."""
    outbox.kick()


async def take(connection: Connection, number: uuid.UUID) -> tuple[str, str, dict[str, Any]] | None:
    """Kind, address and facts of a letter that was not sent yet, which is then this transaction's to send."""
    row = await connection.fetchrow(
        "SELECT kind, sealed FROM letter WHERE id = $1 AND sent_at IS NULL FOR UPDATE SKIP LOCKED", number
    )
    if row is None:
        return None
    content = json.loads(sealed.unseal(bytes(row["sealed"])))
    return row["kind"], content["address"], content["facts"]


async def sent(connection: Connection, number: uuid.UUID) -> None:
    """It went out, or there is nobody to send it to."""
    await connection.execute("UPDATE letter SET sent_at = now(), sealed = NULL WHERE id = $1", number)


def compose(kind: str, address: str, facts: dict[str, Any]) -> Letter:
    """The text: the template's first line is the subject."""
    text = _templates().get_template(f"{kind}.txt").render(facts, base=settings().public_url)
    subject, _, body = text.partition("\n")
    return Letter(kind, address, subject.strip(), body.strip() + "\n")


@lru_cache(maxsize=1)
def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("carefolio.identity", "letter_texts"),
        autoescape=False,  # noqa: S701 - plain text
        undefined=StrictUndefined,
        trim_blocks=True,
    )
