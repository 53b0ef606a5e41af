"""From where each element of a resource came (FHIR R4 Provenance): the message, its segment and field.

Made when it is asked for, from the versions of the resource and the messages that wrote them, which are kept as they
were.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from typing import Any

import asyncpg
import orjson

from carefolio.cloud.database import Pool
from carefolio.fhir.definitions import resource_types
from carefolio.hl7 import HL7Error
from carefolio.identity.sender_settings import parse_settings
from carefolio.mapping import codes
from carefolio.mapping.explain import sources
from carefolio.mapping.serialise import dumps
from carefolio.record.access import Reader, readable
from carefolio.record.apply import SELECT_MESSAGE
from carefolio.record.ids import internal_id
from carefolio.record.includes import Found, local_references, logical_id
from carefolio.record.reading import Version
from carefolio.record.rows import instant
from carefolio.record.sources import map_stored, source_of

_MOST_VERSIONS = 50
_ID = re.compile(r"([0-9a-f]{32})-([1-9][0-9]{0,8})\Z")
_ODS = "https://fhir.nhs.uk/Id/ods-organization-code"
_OPERATION = "http://terminology.hl7.org/CodeSystem/v3-DataOperation"
MESSAGE = f"{codes.BASE}/message"
EXTRACT = f"{codes.BASE}/extract-file"
_FILE = """
    SELECT f.path, coalesce((
        SELECT o.ods_code FROM organisation o
        JOIN extract_practice p ON p.organisation_id = o.id AND p.agreement_id = b.agreement_id
        WHERE o.id = ANY($2) LIMIT 1
    ), '') AS ods_code
    FROM extract_file f JOIN extract_batch b ON b.id = f.batch_id WHERE f.id = $1
"""
ELEMENT = f"{codes.BASE}/StructureDefinition/element-source"


async def search(pool: Pool, reader: Reader, query: Sequence[tuple[str, str]]) -> list[Found]:
    """What ``Provenance?target=Type/id`` finds besides stored Provenances; nothing for other searches."""
    targets = [value for name, value in query if name == "target"]
    others = {name for name, _ in query} - {"target", "_count", "_format", "_pretty", "_total", "_at"}
    if len(targets) != 1 or others:
        return []
    found = []
    for kind, name in local_references(targets[0].split(",")):
        if kind in resource_types() and reader.may(kind, "r"):
            made = await of_target(pool, reader, kind, internal_id(kind, name))
            found += [Found("Provenance", uuid.UUID(int=0), dumps(each).decode()) for each in made]
    return found


async def read(pool: Pool, reader: Reader, number: str) -> Version | None:
    """A Provenance by the id that a search gave it; None where it is none of these."""
    match = _ID.match(number)
    if not match:
        return None
    target = uuid.UUID(match.group(1))
    kind = await pool.fetchval("SELECT type FROM resource WHERE id = $1", target)
    if kind is None or not reader.may(kind, "r"):
        return None
    made = next((each for each in await of_target(pool, reader, kind, target) if each["id"] == number), None)
    if made is None:
        return None
    at = await pool.fetchval("SELECT last_updated FROM resource WHERE id = $1", target)
    return Version("Provenance", target, 1, at, dumps(made).decode())


async def of_target(pool: Pool, reader: Reader, kind: str, number: uuid.UUID) -> list[dict[str, Any]]:
    """One Provenance for each version that an element of the present one came with, the newest first."""
    arguments: list[Any] = [number, kind, reader.actor, reader.organisation_id]
    now, then = readable(reader, arguments), readable(reader, arguments, "resource_history")
    columns = "version, message_id, place, content, patient_id, organisations"
    rows = await pool.fetch(
        f"""
        WITH found AS (
            SELECT {columns}, last_updated AS at, true AS now FROM resource WHERE id = $1 AND type = $2 AND {now}
            UNION ALL
            SELECT {columns}, valid_from, false FROM resource_history
            WHERE id = $1 AND type = $2 AND {then} AND content IS NOT NULL
        ), noted AS (
            INSERT INTO audit (actor, organisation_id, action, patient_id, resource_type, resource_id)
            SELECT $3, $4, 'provenance', patient_id, $2, $1 FROM found WHERE now
        )
        SELECT * FROM found ORDER BY version DESC LIMIT {_MOST_VERSIONS}
        """,  # noqa: S608 - the predicates are ours, their values are arguments
        *arguments,
    )
    if not rows or not rows[0]["now"]:
        return []
    elements = _written_with(rows)
    return [
        await _provenance(pool, kind, number, row, elements[row["version"]])
        for row in rows
        if elements.get(row["version"])
    ]


def _written_with(rows: Sequence[asyncpg.Record]) -> dict[int, list[str]]:
    """Of each version the elements of the newest that came with it and have stood since."""
    versions = [(row["version"], _leaves(orjson.loads(row["content"]))) for row in rows]
    written: dict[int, list[str]] = {}
    for path, value in versions[0][1].items():
        since = versions[0][0]
        for version, leaves in versions[1:]:
            if leaves.get(path) != value:
                break
            since = version
        written.setdefault(since, []).append(path)
    return written


def _leaves(resource: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                walk(inner, f"{path}.{name}")
        elif isinstance(value, list):
            for at, inner in enumerate(value):
                walk(inner, f"{path}[{at}]")
        else:
            found[path] = value

    kind = resource["resourceType"]
    for name, inner in resource.items():
        if name not in ("resourceType", "id", "meta"):
            walk(inner, f"{kind}.{name}")
    return found


async def _provenance(
    pool: Pool, kind: str, number: uuid.UUID, row: asyncpg.Record, elements: Sequence[str]
) -> dict[str, Any]:
    version = row["version"]
    message = None
    if row["message_id"] is not None:
        message = await pool.fetchrow(f"{SELECT_MESSAGE} WHERE message.id = $1", row["message_id"])
    made: dict[str, Any] = {
        "resourceType": "Provenance",
        "id": f"{number.hex}-{version}",
        "meta": {"versionId": "1", "lastUpdated": instant(row["at"])},
        "target": [{"reference": f"{kind}/{logical_id(row['content'])}/_history/{version}"}],
        "recorded": instant(row["at"]),
        "activity": {"coding": [{"system": _OPERATION, "code": "CREATE" if version == 1 else "UPDATE"}]},
        "agent": [{"who": {"display": "an app"}}],
    }
    fields: dict[str, str] = {}
    file = None
    if message is None and row["message_id"] is not None:
        file = await pool.fetchrow(_FILE, row["message_id"], row["organisations"])
    if file is not None:
        made["agent"] = [{"who": {"identifier": {"system": _ODS, "value": file["ods_code"]}}}]
    if message is not None:
        made["agent"] = [{"who": {"identifier": {"system": _ODS, "value": message["ods_code"]}}}]
        fields = await _fields(pool, message, kind, row["place"])
    said = [
        {
            "url": ELEMENT,
            "extension": [
                {"url": "element", "valueString": path},
                *([{"url": "field", "valueString": fields[path]}] if path in fields else []),
            ],
        }
        for path in elements
    ]
    what: dict[str, Any] = {"display": "written by an app"}
    if message is not None:
        shown = f"{message['message_type']} {message['control_id']}, {row['place'] or 'MSH'}"
        what = {"identifier": {"system": MESSAGE, "value": str(message["id"])}, "display": shown}
    if file is not None:
        # The row of the extract, by the name under which EMIS published its file.
        shown = f"{row['place']}, {file['path'].rpartition('/')[2]}"
        what = {"identifier": {"system": EXTRACT, "value": str(row["message_id"])}, "display": shown}
    return made | {"entity": [{"extension": said, "role": "source", "what": what}]}


async def _fields(pool: Pool, message: asyncpg.Record, kind: str, place: str | None) -> dict[str, str]:
    """Element -> field of what a message says at a place, as it is mapped today."""
    settings = parse_settings(message["settings"])
    source = await source_of(pool, message["organisation_id"], message["ods_code"], message["codes_version"], settings)
    try:
        parsed, parts = map_stored(message["raw"], settings, source)
    except (HL7Error, ValueError):
        return {}
    for part in parts:
        for entry in part.entries:
            if (entry.type, entry.place) == (kind, place):
                return sources(parsed, part, entry, source)
    return {}
