"""A letter goes out."""

from __future__ import annotations

import uuid

from carefolio.cloud import mail
from carefolio.cloud.database import Pool
from carefolio.cloud.telemetry import Event, log
from carefolio.identity import letters, sign_in


async def send(pool: Pool, number: uuid.UUID) -> bool:
    """Send a letter that was not sent yet; False where the mail server did not take it.

    Two deliveries at once send it once. A crash between sending and noting it sends it twice: better than never.
    """
    async with pool.acquire() as connection, connection.transaction():
        taken = await letters.take(connection, number)
        if taken is None:
            return True
        kind, address, facts = taken
        if kind == "forgotten":
            found = await sign_in.reset_facts(pool, address)
            if found is None:
                await letters.sent(connection, number)
                return True
            # To the address as its owner wrote it, whoever asked how.
            address, facts = str(found["address"]), dict(found)
        letter = letters.compose(kind, address, facts)
        try:
            await mail.send(letter.address, letter.subject, letter.body)
        except mail.MailError as error:
            log(Event.LETTER_FAILED, kind=kind, error=error.reason)
            return False
        await letters.sent(connection, number)
    log(Event.LETTER_SENT, kind=kind)
    return True
