"""A record made again from its messages: the same code, the same order, in a transaction that is then taken back.

What comes out is compared with what is there. Nothing changes until the difference is written, as new versions.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import asyncpg
import orjson

from carefolio.cloud.database import Connection
from carefolio.hl7 import HL7Error
from carefolio.identity.sender_settings import parse_settings
from carefolio.mapping import UnsupportedTypeError
from carefolio.record import decisions
from carefolio.record.change import repeat_parts
from carefolio.record.ids import uuid7
from carefolio.record.matching import Held, Rejected
from carefolio.record.rows import Row, deletion, make_row, without_head
from carefolio.record.sources import map_stored, source_of
from carefolio.record.write import Origin, known, write

_MOST_MESSAGES = 20_000
# A Patient whom a practice feeds has its word in him, though a hospital may have written last.
_OF_MESSAGES = "(NOT by_app AND NOT (type = 'Patient' AND id IN (SELECT record_id FROM extract_patient)))"


class RebuildError(Exception):
    """A record that cannot be rebuilt; the text is for an administrator."""


class _Undo(Exception):  # noqa: N818 - how the trial ends
    """Takes the trial back."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A resource of a record, without id and meta."""

    type: str
    patient_id: uuid.UUID
    resource: dict[str, Any]
    organisations: list[uuid.UUID]
    label: str
    available_from: datetime | None
    team_id: uuid.UUID | None
    # Where it was said last, and when; two that differ in nothing else are equal.
    place: str | None = field(compare=False)
    seq: int = field(compare=False)
    source_time: datetime = field(compare=False)


@dataclass(slots=True)
class Rebuilt:
    """``before`` is the live record, ``after`` what its messages make of it today; ``refused`` are those that make
    nothing any more, with the reason."""

    records: list[uuid.UUID]
    messages: int = 0
    before: dict[uuid.UUID, Stored] = field(default_factory=dict)
    after: dict[uuid.UUID, Stored] = field(default_factory=dict)
    refused: dict[uuid.UUID, str] = field(default_factory=dict)

    def changed(self) -> list[uuid.UUID]:
        """The resources that differ, appear or go, in the order of their ids."""
        return sorted(n for n in {*self.before, *self.after} if self.before.get(n) != self.after.get(n))


async def rebuild(connection: Connection, patient: uuid.UUID) -> Rebuilt:
    """Make the record of this patient, and all that were ever joined to it, again; inside the caller's transaction.

    Holds the records' locks until that transaction ends. Raises RebuildError.
    """
    records = await _ever_joined(connection, patient)
    made = Rebuilt(records)
    await connection.execute("SELECT FROM record WHERE id = ANY($1) ORDER BY id FOR UPDATE", records)
    made.before = await _stored(connection, records)
    # What an app or a practice's extract wrote is their word, not the messages'.
    apps = await connection.fetch(
        f"SELECT id FROM resource WHERE patient_id = ANY($1) AND NOT {_OF_MESSAGES}",  # noqa: S608 - ours
        records,
    )
    others = {row["id"] for row in apps}
    items = await _what_shaped(connection, records)
    made.messages = sum(1 for item in items if "raw" in item)
    try:
        async with connection.transaction():
            await _wipe(connection, records, list(made.before))
            for item in items:
                await _again(connection, item, made)
            after = await _stored(connection, records)
            made.after = {number: stored for number, stored in after.items() if number not in others}
            raise _Undo
    except _Undo:
        return made


async def write_difference(
    connection: Connection, made: Rebuilt, actor: str, source: uuid.UUID | None = None
) -> list[uuid.UUID]:
    """Write what differs as new versions; returns their ids. In the transaction in which it was rebuilt.

    Raises RebuildError where a message that is applied makes nothing today: what it made would be lost.
    """
    for number, reason in made.refused.items():
        raise RebuildError(f"message {number}, which is applied, would change nothing today: {reason}")
    changed = made.changed()
    now = datetime.now(UTC)
    origin = Origin(source or uuid7(), actor)
    there = await known(connection, changed, (), aliases=False)
    rows: list[Row | None] = []
    for number in changed:
        current, after = there.get(number), made.after.get(number)
        if after is None:
            if current is not None and current.live:
                rows.append(deletion(number, made.before[number].type, current))
            continue
        rows.append(
            make_row(
                number,
                after.resource,
                current,
                patient_id=after.patient_id,
                organisations=after.organisations,
                source=origin.id,
                now=now,
                label=after.label,
                place=after.place,
                available_from=after.available_from,
            )
        )
        if (made_now := rows[-1]) is not None:
            made_now.seq, made_now.source_time = after.seq, after.source_time
    written = [row for row in rows if row is not None]
    if written:
        await write(connection, origin, written, now, patients=made.records, exact=True)
        await _give_to_teams(connection, actor, [made.after[row.id] for row in written if row.id in made.after],
                             [row.id for row in written if row.id in made.after])  # fmt: skip
    return [row.id for row in written]


async def _give_to_teams(
    connection: Connection, actor: str, made: Sequence[Stored], numbers: Sequence[uuid.UUID]
) -> None:
    """What was written is the contribution of the teams whose messages said it, and they see it as theirs."""
    await connection.execute(
        """
        WITH given AS (
            SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS t (id, team_id, patient_id)
        ), changed AS (
            UPDATE resource SET team_id = given.team_id FROM given
            WHERE resource.id = given.id AND resource.team_id IS DISTINCT FROM given.team_id
        )
        INSERT INTO sharing AS s (record_id, grantee, role, kind, labels, contributed, created_by)
        SELECT DISTINCT patient_id, team.id, 'team', 'implied', team.labels, true, $4
        FROM given JOIN team ON team.id = given.team_id WHERE patient_id IS NOT NULL
        ON CONFLICT (record_id, grantee) WHERE ended_at IS NULL AND kind <> 'glass'
        DO UPDATE SET contributed = true WHERE NOT s.contributed
        """,
        list(numbers), [each.team_id for each in made], [each.patient_id for each in made], actor,
    )  # fmt: skip


async def _ever_joined(connection: Connection, patient: uuid.UUID) -> list[uuid.UUID]:
    """The record, and every one that a link, in force or undone, has ever reached from it."""
    rows = await connection.fetch(
        """
        WITH RECURSIVE reached (id) AS (
            SELECT id FROM record WHERE id = $1
            UNION
            SELECT CASE WHEN link.survivor = reached.id THEN link.other ELSE link.survivor END
            FROM reached JOIN record_link link ON reached.id IN (link.survivor, link.other)
        )
        SELECT id FROM reached ORDER BY id
        """,
        patient,
    )
    if not rows:
        raise RebuildError("there is no such record")
    return [row["id"] for row in rows]


async def _what_shaped(connection: Connection, records: list[uuid.UUID]) -> list[dict[str, Any]]:
    """The messages and the decisions about these records, in the order in which they took effect."""
    messages = await connection.fetch(
        """
        SELECT message.*, organisation.ods_code, organisation.codes_version, sender.settings
        FROM message JOIN organisation ON organisation.id = message.organisation_id
        JOIN sender ON sender.id = message.sender_id
        WHERE (patient_id = ANY($1) OR moved_to = ANY($1) OR (other_patients <> '{}' AND other_patients && $1))
        AND status = 'applied'
        ORDER BY applied_seq LIMIT $2
        """,
        records,
        _MOST_MESSAGES + 1,
    )
    if len(messages) > _MOST_MESSAGES:
        raise RebuildError(f"the record was made by more than {_MOST_MESSAGES} messages")
    decisions = await connection.fetch(
        "SELECT * FROM decision WHERE patients && $1 AND kind IN ('join', 'undo') ORDER BY seq", records
    )
    items = [dict(row) | {"order": row["applied_seq"]} for row in messages]
    items += [dict(row) | {"order": row["seq"]} for row in decisions]
    return sorted(items, key=lambda item: item["order"])


async def _wipe(connection: Connection, records: list[uuid.UUID], resources: list[uuid.UUID]) -> None:
    """Inside the trial only."""
    await connection.execute(
        f"DELETE FROM resource WHERE patient_id = ANY($1) AND {_OF_MESSAGES}",  # noqa: S608 - ours
        records,
    )
    await connection.execute("DELETE FROM resource_history WHERE patient_id = ANY($1)", records)
    await connection.execute("DELETE FROM resource_alias WHERE id = ANY($1) OR target = ANY($1)", resources)
    await connection.execute(
        "UPDATE record_link SET undone_at = now() WHERE undone_at IS NULL AND (survivor = ANY($1) OR other = ANY($1))",
        records,
    )
    await connection.execute("UPDATE record SET person_id = id WHERE id = ANY($1)", records)


async def _again(connection: Connection, item: dict[str, Any], made: Rebuilt) -> None:
    """Repeat one message or decision, to the records to which it went then."""
    if "raw" not in item:
        await decisions.repeat(connection, item)
        return
    settings = parse_settings(item["settings"])
    source = await source_of(connection, item["organisation_id"], item["ods_code"], item["codes_version"], settings)
    try:
        _, parts = map_stored(item["raw"], settings, source)
        async with connection.transaction():
            await connection.execute("UPDATE message SET status = 'received' WHERE id = $1", item["id"])
            await repeat_parts(connection, item, parts, settings)
    except (Held, Rejected) as refusal:
        made.refused[item["id"]] = refusal.reason
    except (UnsupportedTypeError, HL7Error) as error:
        made.refused[item["id"]] = str(error)
    except ValueError:
        made.refused[item["id"]] = "it could not be mapped"


async def _stored(connection: Connection, records: Sequence[uuid.UUID]) -> dict[uuid.UUID, Stored]:
    rows: list[asyncpg.Record] = await connection.fetch(
        f"""
        SELECT id, type, patient_id, content, organisations, team_id, place, available_from, seq, source_time,
               coalesce((SELECT his.label FROM item_label his WHERE his.resource_id = resource.id), label) AS label
        FROM resource WHERE patient_id = ANY($1) AND {_OF_MESSAGES}
        """,  # noqa: S608 - ours
        list(records),
    )
    return {
        row["id"]: Stored(
            row["type"],
            row["patient_id"],
            without_head(row["content"]),
            row["organisations"],
            row["label"],
            row["available_from"],
            row["team_id"],
            row["place"],
            row["seq"],
            row["source_time"],
        )
        for row in rows
    }


def differences(before: dict[str, Any] | None, after: dict[str, Any] | None) -> list[tuple[str, Any, Any]]:
    """What differs between two resources, as (path, before, after) of the smallest elements."""
    found: list[tuple[str, Any, Any]] = []

    def walk(path: str, left: Any, right: Any) -> None:
        if left == right:
            return
        if isinstance(left, dict) and isinstance(right, dict):
            for name in dict.fromkeys([*left, *right]):
                walk(f"{path}.{name}", left.get(name), right.get(name))
        elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
            for number, (one, other) in enumerate(zip(left, right, strict=True)):
                walk(f"{path}[{number}]", one, other)
        else:
            found.append((path, left, right))

    kind = (after or before or {}).get("resourceType", "")
    walk(kind, before, after)
    return found


def as_json(value: Any) -> str:
    """A value on one line."""
    return orjson.dumps(value).decode() if value is not None else "nothing"
