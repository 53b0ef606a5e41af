"""A document made of a Composition: it, and what it names, in one Bundle (R4 Composition $document).

(http://hl7.org/fhir/R4/composition-operation-document.html) What the reader may not see is not in it; its reference
stays.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

from carefolio.cloud.database import Pool
from carefolio.fhir import text
from carefolio.record import reading
from carefolio.record.access import Reader
from carefolio.record.ids import uuid7
from carefolio.record.includes import Found, include, logical_id
from carefolio.record.rows import instant
from carefolio.record.search import masked_page


async def make(pool: Pool, reader: Reader, composition: uuid.UUID, base: str) -> dict[str, Any] | None:
    """The Bundle; None where the reader sees no such Composition. ``base``: the server's address."""
    found = await reading.read(pool, reader, "Composition", composition)
    if found is None or found.content is None:
        return None
    first = Found("Composition", found.id, found.content)
    named, _ = await include(pool, reader, [("*", False, False)], [first])
    rest = await masked_page(pool, reader, [each for each in named if reader.may(each.type, "r")])
    entries = [
        {"fullUrl": f"{base}/{each.type}/{logical_id(each.content)}", "resource": text.loads(each.content)}
        for each in (first, *rest)
    ]
    return {
        "resourceType": "Bundle",
        "identifier": {"system": "urn:ietf:rfc:3986", "value": f"urn:uuid:{uuid7()}"},
        "type": "document",
        "timestamp": instant(datetime.now(UTC)),
        "entry": entries,
    }
