"""One record as it was at a moment, made its present again: from the history, as new versions, touching no other
record.

For what somebody deleted, or a bad release or app wrote. Who sees the record, the labels that the patient chose and
the messages stay as they are; what was purged is in no version and does not come back; a rebuild from messages
(carefolio.record.rebuild) brings again what they say.
"""

from __future__ import annotations

import uuid
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

from carefolio.cloud.database import Connection, Pool
from carefolio.record.decisions import retried
from carefolio.record.ids import uuid7
from carefolio.record.rows import Known, Row, deletion, make_row, without_head
from carefolio.record.write import Origin, known, write

# Said by another table, which stays as it is: who may see what.
_ELSEWHERE = frozenset({"Consent", "Subscription"})


class RestoreError(ValueError):
    """A record that cannot be restored; the text is for an operator."""


@dataclass(slots=True)
class Restored:
    """By resource type how many are changed back, brought back, and taken away since they came after the moment."""

    at: datetime
    changed: Counter[str] = field(default_factory=Counter)
    brought_back: Counter[str] = field(default_factory=Counter)
    taken_away: Counter[str] = field(default_factory=Counter)


async def restore(pool: Pool, actor: str, patient: uuid.UUID, at: datetime, *, apply: bool) -> Restored:
    """Make the record what it was at ``at``, in one transaction, or with ``apply`` False only say what that would
    change.

    Raises RestoreError for a record that is not there, or was not there then.
    """
    if at >= datetime.now(UTC):
        raise RestoreError("the moment has not been yet")

    async def work(connection: Connection) -> Restored:
        if not await connection.fetch("SELECT FROM record WHERE id = $1 FOR UPDATE", patient):
            raise RestoreError("there is no such record")
        then = await _as_of(connection, patient, at)
        if patient not in then:
            raise RestoreError("the record was not there at that moment")
        living = {
            row["id"]: row
            for row in await connection.fetch(
                "SELECT id, type, by_app FROM resource WHERE patient_id = $1 AND type <> ALL($2)",
                patient,
                list(_ELSEWHERE),
            )
        }
        restored = Restored(at)
        origin, now = Origin(uuid7(), actor), datetime.now(UTC)
        rows = await _rows(connection, then, living, restored, origin.id, now)
        if apply and rows:
            await write(connection, origin, rows, now, patients=[patient])
            await _as_it_was_brought(connection, then, living, [row.id for row in rows if row.content is not None])
            await connection.execute(
                "INSERT INTO audit (actor, action, patient_id, query) VALUES ($1, 'restore', $2, $3)",
                actor, patient, f"at={at.isoformat()}",
            )  # fmt: skip
        return restored

    return await retried(pool, work)


async def _as_of(connection: Connection, patient: uuid.UUID, at: datetime) -> dict[uuid.UUID, Any]:
    """Every resource that was there, as it was: the version that was valid then."""
    rows = await connection.fetch(
        """
        SELECT id, type, version, content, organisations, team_id, label, available_from, message_id, place, seq,
               last_updated AS since, by_app
        FROM resource WHERE patient_id = $1 AND last_updated <= $2 AND type <> ALL($3)
        UNION ALL
        SELECT id, type, version, content, organisations, team_id, label, available_from, message_id, place, seq,
               valid_from, coalesce(by_app, message_id IS NULL)
        FROM resource_history
        WHERE patient_id = $1 AND valid_from <= $2 AND valid_to > $2 AND content IS NOT NULL AND type <> ALL($3)
        """,
        patient,
        at,
        list(_ELSEWHERE),
    )
    return {row["id"]: row for row in rows}


async def _rows(
    connection: Connection,
    then: dict[uuid.UUID, Any],
    living: dict[uuid.UUID, Any],
    restored: Restored,
    source: uuid.UUID,
    now: datetime,
) -> list[Row]:
    there = await known(connection, sorted({*then, *living}), ["Patient"], aliases=False)
    rows: list[Row] = []
    for number in sorted(set(living) - set(then)):
        if (current := there.get(number)) is not None and current.live:
            rows.append(deletion(number, living[number]["type"], current))
            restored.taken_away[living[number]["type"]] += 1
    for number, was in sorted(then.items()):
        current = there.get(number)
        row = make_row(
            number,
            _as_linked(without_head(was["content"]), current),
            current,
            patient_id=current.patient_id if current is not None else number,
            organisations=was["organisations"],
            source=source,
            now=now,
            # What the patient chose since is his word, not the version's.
            label=current.label if current is not None and current.label_is_his else was["label"],
            place=was["place"],
            available_from=was["available_from"],
            logical_id=_logical_id(was["content"]),
        )
        if row is None:
            continue
        if current is None or not current.live:
            row.seq, row.source_time = was["seq"], was["since"]
            restored.brought_back[was["type"]] += 1
        else:
            restored.changed[was["type"]] += 1
        rows.append(row)
    return rows


def _as_linked(resource: dict[str, Any], current: Known | None) -> dict[str, Any]:
    """With which records a Patient is one now, and whether his is the one that remains, is what the links say."""
    if resource["resourceType"] != "Patient" or current is None or current.content is None:
        return resource
    now = without_head(current.content)
    kept = {name: value for name, value in resource.items() if name not in ("link", "active")}
    return kept | {name: now[name] for name in ("link", "active") if name in now}


def _logical_id(content: str) -> str:
    return str(orjson.loads(content)["id"])


async def _as_it_was_brought(
    connection: Connection, then: dict[uuid.UUID, Any], living: dict[uuid.UUID, Any], numbers: list[uuid.UUID]
) -> None:
    """Whose contribution it is, from which message, and whether an app's: of the version, not of who restored it."""
    await connection.execute(
        """
        UPDATE resource r SET team_id = was.team_id, message_id = was.message_id, by_app = was.by_app
        FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bool[]) AS was (id, team_id, message_id, by_app)
        WHERE r.id = was.id
        """,
        numbers,
        [then[number]["team_id"] for number in numbers],
        [then[number]["message_id"] for number in numbers],
        [(living.get(number) or then[number])["by_app"] for number in numbers],
    )
