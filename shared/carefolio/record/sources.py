"""A stored message as the record takes it: mapped with what was agreed with its sender, and its own codes' meanings."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from typing import Any
from zoneinfo import ZoneInfo

from carefolio.cloud.database import Connection, Pool
from carefolio.hl7 import Message, read
from carefolio.identity.sender_settings import SenderSettings
from carefolio.mapping import Mapped, Source, check_applicable, map_parts

# A row of table message with ods_code and codes_version of its organisation and the settings of its sender.
StoredMessage = Mapping[str, Any]
Codes = Mapping[tuple[str, str], Mapping[str, str]]
_LARGE = 64 * 1024
# Of each organisation: the version of its code map that this process knows.
_remembered: dict[uuid.UUID, tuple[int, Codes]] = {}


async def source_of(
    pool: Pool | Connection, organisation_id: uuid.UUID, ods_code: str, codes_version: int, settings: SenderSettings
) -> Source:
    """The source of a message, for mapping it. ``codes_version`` is the organisation's at this moment."""
    version, codes = _remembered.get(organisation_id, (0, {}))
    if version != codes_version:
        rows = await pool.fetch(
            """
            SELECT system, code, target_system, target_code, target_display FROM local_code
            WHERE organisation_id = $1 AND target_code IS NOT NULL
            """,
            organisation_id,
        )
        codes = {
            (row["system"], row["code"]): {"system": row["target_system"], "code": row["target_code"]}
            | ({"display": row["target_display"]} if row["target_display"] else {})
            for row in rows
        }
        _remembered[organisation_id] = (codes_version, codes)
    return Source(
        ods_code,
        ZoneInfo(settings.zone),
        authorities=settings.authorities,
        codes=codes,
        z_fields=settings.z_fields,
        r_deletes=settings.r_deletes,
    )


def map_stored(raw: bytes, settings: SenderSettings, source: Source) -> tuple[Message, list[Mapped]]:
    """A message as the record takes it: without its header, which the message itself keeps.

    Raises UnsupportedTypeError, HL7Error and ValueError.
    """
    parsed = read(raw, settings.character_set)
    check_applicable(parsed)
    parts = map_parts(parsed, source)
    for mapped in parts:
        before = mapped.prior.patient if mapped.prior else None
        mapped.entries = [e for e in mapped.entries if e.type != "MessageHeader" and e is not before]
        if before is not None and mapped.patient is not None:
            # Who was merged is a record of its own, or none: the Bundle alone shows him as a resource.
            mapped.patient.resource.pop("link", None)
            mapped.patient.references = [(r, to) for r, to in mapped.patient.references if to is not before]
    return parsed, parts


async def map_beside(raw: bytes, settings: SenderSettings, source: Source) -> tuple[Message, list[Mapped]]:
    """``map_stored``, of a large message beside the loop, so that the others need not wait for it."""
    if len(raw) > _LARGE:
        return await asyncio.to_thread(map_stored, raw, settings, source)
    return map_stored(raw, settings, source)
