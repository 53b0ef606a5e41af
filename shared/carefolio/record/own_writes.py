"""What the product itself changes in a resource that an app wrote, such as a Subscription's status."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from carefolio.cloud.database import Connection
from carefolio.record.ids import uuid7
from carefolio.record.rows import make_row, without_head
from carefolio.record.write import Origin, known, write


async def rewrite(
    connection: Connection, kind: str, number: uuid.UUID, change: Callable[[dict[str, Any]], dict[str, Any]], actor: str
) -> bool:
    """Write ``change`` of a resource, in the caller's transaction; False where it is not there, or says so already.

    Raises ChangedMeanwhileError and the like (record.write.RETRIED), which must undo it all.
    """
    before = (await known(connection, [number], [kind], aliases=False)).get(number)
    if before is None or before.content is None:
        return False
    source, now = uuid7(), datetime.now(UTC)
    row = make_row(
        number,
        change(without_head(before.content)),
        before,
        patient_id=before.patient_id,
        organisations=before.organisations,
        source=source,
        now=now,
        label=before.label,
        logical_id=json.loads(before.content)["id"],
    )
    if row is None:
        return False
    await write(connection, Origin(source, actor), [row], now, patients=[])
    return True
