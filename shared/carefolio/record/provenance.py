"""From where each element of a resource came (FHIR R4 Provenance): the message, its segment and field.

Made when it is asked for, from the versions of the resource and the messages that wrote them, which are kept as they
were.
"""

from __future__ import annotations

import itertools
import re
import uuid
from collections.abc import Sequence
from typing import Any

import asyncpg
import orjson

from carefolio.cloud.database import Pool
from carefolio.fhir.definitions import resource_types
from carefolio.hl7 import HL7Error, Message
from carefolio.identity.sender_settings import parse_settings
from carefolio.mapping import Mapped, Source, codes
from carefolio.mapping.explain import sources
from carefolio.mapping.serialise import dumps
from carefolio.record.access import Reader, opened, readable, resources
from carefolio.record.apply import SELECT_MESSAGE
from carefolio.record.arguments import Arguments
from carefolio.record.ids import internal_id
from carefolio.record.includes import Found, local_references, logical_id
from carefolio.record.reading import Version
from carefolio.record.rows import instant
from carefolio.record.search_terms import condition
from carefolio.record.sources import map_beside, source_of

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
    columns = "id, type, version, message_id, place, content, patient_id, organisations"
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
    return await _of_versions(rows, _Origins(pool))


async def of_found(
    pool: Pool, reader: Reader, found: Sequence[tuple[uuid.UUID, int]], *, latest: bool
) -> list[dict[str, Any]]:
    """The Provenances of these versions of resources, which the reader has found: the newest alone, or all of them."""
    arguments: list[Any] = [[number for number, _ in found], [version for _, version in found]]
    then = readable(reader, arguments, "resource_history")
    columns = "id, type, version, message_id, place, content, organisations"
    rows = await pool.fetch(
        f"""
        WITH wanted AS (SELECT * FROM unnest($1::uuid[], $2::int[]) AS t (id, until))
        SELECT {columns}, last_updated AS at FROM resource JOIN wanted USING (id) WHERE version <= until
        UNION ALL
        SELECT {columns}, valid_from FROM resource_history JOIN wanted USING (id)
        WHERE version <= until AND content IS NOT NULL AND (version = until OR {then})
        ORDER BY id, version DESC
        """,  # noqa: S608 - the predicates are ours, their values are arguments
        *arguments,
    )
    origins = _Origins(pool)
    made: list[dict[str, Any]] = []
    for _, versions in itertools.groupby(rows, lambda row: row["id"]):
        of_one = await _of_versions(list(versions)[:_MOST_VERSIONS], origins)
        made += of_one[:1] if latest else of_one
    return made


async def stored(
    pool: Pool, reader: Reader, patients: Sequence[uuid.UUID], targets: Sequence[str], *, latest: bool
) -> dict[uuid.UUID, str]:
    """The Provenances (id -> JSON) that clients have stored of these (Type/id): all of them, or the newest of each.

    Nobody's, or of these patients: one that is in another's record as well is his.
    """
    arguments = Arguments(organisation_id=reader.organisation_id)
    of_them = condition("Provenance", "target", ",".join(targets), arguments)
    whose = f"(patient_id IS NULL OR patient_id = ANY({arguments.add(patients)}::uuid[]))"
    source, may_read = resources(reader, arguments.values), readable(reader, arguments.values)
    rows = await pool.fetch(
        f"""
        WITH found AS MATERIALIZED (
            SELECT id, version, last_updated FROM {source}
            WHERE type = 'Provenance' AND {of_them} AND {whose} AND {may_read}
        ) SELECT id, opened.content FROM found JOIN {opened(reader, arguments.values)} USING (id, version)
        ORDER BY found.last_updated DESC, id
        """,  # noqa: S608 - the predicates are ours, their values are arguments
        *arguments.values,
    )
    left, found = set(targets), {}
    for row in rows:
        about = _targets(row["content"])
        if not latest or about & left:
            found[row["id"]] = row["content"]
        left -= about
    return found


def _targets(content: str) -> set[str]:
    """What a Provenance is about, without server and version."""
    said = [str(each.get("reference", "")).split("/_history/")[0] for each in orjson.loads(content)["target"]]
    return {"/".join(each.split("/")[-2:]) for each in said}


async def _of_versions(rows: Sequence[asyncpg.Record], origins: _Origins) -> list[dict[str, Any]]:
    """Of the versions of one resource, the newest first."""
    elements = _written_with(rows)
    return [await _provenance(origins, row, elements[row["version"]]) for row in rows if elements.get(row["version"])]


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


class _Origins:
    """What resources came from, each read and mapped once: a message makes several."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._messages: dict[uuid.UUID, asyncpg.Record | None] = {}
        self._files: dict[tuple[uuid.UUID, tuple[uuid.UUID, ...]], asyncpg.Record | None] = {}
        self._mapped: dict[uuid.UUID, tuple[Message, list[Mapped], Source] | None] = {}

    async def message(self, number: uuid.UUID) -> asyncpg.Record | None:
        """The message of this number."""
        if number not in self._messages:
            self._messages[number] = await self._pool.fetchrow(f"{SELECT_MESSAGE} WHERE message.id = $1", number)
        return self._messages[number]

    async def file(self, number: uuid.UUID, organisations: Sequence[uuid.UUID]) -> asyncpg.Record | None:
        """The file of an extract of this number, and whose it is among these."""
        key = number, tuple(organisations)
        if key not in self._files:
            self._files[key] = await self._pool.fetchrow(_FILE, number, organisations)
        return self._files[key]

    async def fields(self, message: asyncpg.Record, kind: str, place: str | None) -> dict[str, str]:
        """Element -> field of what a message says at a place, as it is mapped today."""
        if message["id"] not in self._mapped:
            self._mapped[message["id"]] = await self._map(message)
        mapped = self._mapped[message["id"]]
        if mapped is None:
            return {}
        parsed, parts, source = mapped
        for part in parts:
            for entry in part.entries:
                if (entry.type, entry.place) == (kind, place):
                    return sources(parsed, part, entry, source)
        return {}

    async def _map(self, message: asyncpg.Record) -> tuple[Message, list[Mapped], Source] | None:
        settings = parse_settings(message["settings"])
        source = await source_of(
            self._pool, message["organisation_id"], message["ods_code"], message["codes_version"], settings
        )
        try:
            parsed, parts = await map_beside(message["raw"], settings, source)
        except (HL7Error, ValueError):
            return None
        return parsed, parts, source


async def _provenance(origins: _Origins, row: asyncpg.Record, elements: Sequence[str]) -> dict[str, Any]:
    kind, number = row["type"], row["id"]
    version = row["version"]
    message = None
    if row["message_id"] is not None:
        message = await origins.message(row["message_id"])
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
        file = await origins.file(row["message_id"], row["organisations"])
    if file is not None:
        made["agent"] = [{"who": {"identifier": {"system": _ODS, "value": file["ods_code"]}}}]
    if message is not None:
        made["agent"] = [{"who": {"identifier": {"system": _ODS, "value": message["ods_code"]}}}]
        fields = await origins.fields(message, kind, row["place"])
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
