"""A message is tried: its acknowledgement, what strays from its version, what it would make. Nothing is stored."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

from carefolio.cloud.database import Pool
from carefolio.hl7 import HL7Error, acknowledge, check, read
from carefolio.hl7.conformance import Finding, conformance
from carefolio.identity.sender_settings import Stored
from carefolio.mapping import UnsupportedTypeError, map_parts
from carefolio.mapping.explain import Line, explain
from carefolio.mapping.serialise import dumps
from carefolio.record.sources import source_of

LONGEST = 256 * 1024


@dataclass(frozen=True, slots=True)
class Tried:
    """``code`` is MSA-1, ``ack`` the whole answer; ``lines`` say where each value goes; ``resources`` are JSON."""

    code: str
    ack: str
    findings: tuple[Finding, ...]
    lines: tuple[Line, ...]
    resources: tuple[tuple[str, str], ...]
    error: str


async def try_out(pool: Pool, organisation: uuid.UUID, sender: Stored, raw: bytes) -> Tried:
    """What would be answered and made of a message of a sender. Whose record it would go to is not looked up."""
    now = datetime.now(UTC)
    message = None
    try:
        message = read(raw, sender.settings.character_set)
        check(message, now, production=False)
    except HL7Error as error:
        refused = acknowledge(message, "AR", now, "trial", error, enhanced=sender.settings.enhanced_acks)
        finding = Finding("error", str(error.place), error.reason)
        return Tried("AR", _shown(refused), (finding,), (), (), str(error))
    ack = _shown(acknowledge(message, "AA", now, "trial", enhanced=sender.settings.enhanced_acks))
    findings = tuple(conformance(message, now, production=False))
    row = await pool.fetchrow("SELECT ods_code, codes_version FROM organisation WHERE id = $1", organisation)
    source = await source_of(pool, organisation, row["ods_code"], row["codes_version"], sender.settings)
    try:
        parts = map_parts(message, source)
        lines = tuple(explain(message, source))
    except (UnsupportedTypeError, HL7Error) as error:
        return Tried("AA", ack, findings, (), (), str(error))
    except ValueError:
        return Tried("AA", ack, findings, (), (), "the message could not be mapped")
    made = tuple((entry.type, dumps(entry.resource, indent=True).decode()) for part in parts for entry in part.entries)
    return Tried("AA", ack, findings, lines, made, "")


def _shown(ack: bytes) -> str:
    return ack.decode("utf-8", "replace").replace("\r", "\n")
