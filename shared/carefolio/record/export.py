"""Everything of a record that a reader sees, as a PDF to read (its FHIR form is $everything)."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import anyio.to_thread

from carefolio.cloud.database import Pool
from carefolio.record import items, reading
from carefolio.record.access import Reader
from carefolio.record.items import Item
from carefolio.record.sharing import SharingError
from carefolio.view import pdf
from carefolio.view.pdf import Line, Part
from carefolio.view.sections import SECTIONS
from carefolio.view.telling import tell

# Of each section; who needs more has FHIR and the portal.
_MOST = 1000


async def as_pdf(pool: Pool, reader: Reader, record: uuid.UUID) -> bytes:
    """The PDF. Raises SharingError where the reader does not see whose record it is."""
    person = await items.one(pool, reader, record, record)
    if person is None:
        raise SharingError("there is no such record, or it is not open", missing=True)
    parts = []
    for section in SECTIONS.values():
        found = await items.of_section(pool, reader, record, section, count=_MOST + 1)
        parts.append(Part(section, [Line(tell(each.resource), source(each)) for each in found[:_MOST]],
                          more=len(found) > _MOST))  # fmt: skip
    made_for = await pool.fetchval("SELECT name FROM account WHERE id = $1", reader.account) or "an organisation"
    return await anyio.to_thread.run_sync(
        lambda: pdf.make(person.resource, parts, made_for=made_for, now=datetime.now(UTC))
    )


async def as_bundle(pool: Pool, reader: Reader, record: uuid.UUID) -> bytes:
    """All of it as one FHIR Bundle (collection). Raises SharingError."""
    entries: list[str] = []
    after = None
    while True:
        page = await reading.everything(pool, reader, record, count=1000, after=after)
        if page is None:
            raise SharingError("there is no such record, or it is not open", missing=True)
        entries += [f'{{"resource":{found.content}}}' for found in page.found]
        if page.cursor is None:
            break
        after = uuid.UUID(page.cursor)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    head = f'{{"resourceType":"Bundle","type":"collection","timestamp":"{now}","entry":['
    return (head + ",".join(entries) + "]}").encode()


def is_by(item: Item, name: str, *, own: bool) -> bool:
    """Whether an entry is the patient's own writing (``own``), or that of a carer of this name: his to take back."""
    tags = item.resource.get("meta", {}).get("tag", [])
    carers = [tag.get("display") for tag in tags if tag.get("code") == "carer"]
    return not carers if own else name in carers


def source(item: Item) -> str:
    """Who sent an item, in words."""
    if item.own:
        tags = item.resource.get("meta", {}).get("tag", [])
        carer = next((tag.get("display", "") for tag in tags if tag.get("code") == "carer"), "")
        return f"{carer}, for the patient" if carer else "the patient"
    return ", ".join(filter(None, (item.team, *item.organisations)))
