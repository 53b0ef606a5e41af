"""Messages once more, with today's map and today's settings: first what would differ, then, when asked, the change."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from carefolio.cloud.database import Connection, Pool
from carefolio.cloud.topics import MESSAGE_STORED
from carefolio.hl7 import HL7Error
from carefolio.identity.sender_settings import parse_settings
from carefolio.mapping import UnsupportedTypeError
from carefolio.record import joining, matching
from carefolio.record.apply import SELECT_MESSAGE
from carefolio.record.change import apply_parts
from carefolio.record.matching import Held
from carefolio.record.rebuild import Rebuilt, differences, rebuild, write_difference
from carefolio.record.sources import StoredMessage, map_stored, source_of

# What can be tried again: a person has changed what stood in the way, or the code knows more.
REPLAYABLE = ("held", "failed", "unsupported", "received")


@dataclass(frozen=True, slots=True)
class Trial:
    """What a message that is not applied would do now: its end, the reason, and ``Type/id`` of what it would write."""

    message_id: uuid.UUID
    before: str
    status: str
    reason: str | None
    resources: list[str]


@dataclass(frozen=True, slots=True)
class Changed:
    """A resource that its messages make otherwise today: ``change`` is new, changed or gone."""

    resource: str
    change: str
    elements: list[tuple[str, Any, Any]]


@dataclass(slots=True)
class Difference:
    """A record and what its messages make of it today."""

    patient_id: uuid.UUID
    messages: int
    resources: int
    changed: list[Changed] = field(default_factory=list)
    refused: dict[uuid.UUID, str] = field(default_factory=dict)
    written: int = 0


class _Undo(Exception):  # noqa: N818 - how a trial ends
    """Takes the trial back."""


async def trials(pool: Pool, numbers: Sequence[uuid.UUID]) -> AsyncIterator[Trial]:
    """Try messages that are not applied, in the order of their receipt, each as if it came now; nothing is changed."""
    rows = await pool.fetch(
        f"{SELECT_MESSAGE} WHERE message.id = ANY($1) AND status = ANY($2) ORDER BY seq",
        list(numbers),
        list(REPLAYABLE),
    )
    for row in rows:
        async with pool.acquire() as connection:
            yield await _trial(connection, row)


async def _trial(connection: Connection, message: StoredMessage) -> Trial:
    number, before = message["id"], message["status"]
    settings = parse_settings(message["settings"])
    try:
        source = await source_of(
            connection, message["organisation_id"], message["ods_code"], message["codes_version"], settings
        )
        parsed, parts = map_stored(message["raw"], settings, source)
        if joining.moves(parsed):
            return Trial(number, before, "applied or held", "it moves data between records: replay it to know", [])
        async with connection.transaction():
            await connection.execute("UPDATE message SET status = 'received' WHERE id = $1", number)
            change = await apply_parts(connection, message, parts, settings)
            raise _Undo
    except _Undo:
        written = sorted(f"{row.type}/{row.id}" for row in change.rows.values())
        return Trial(number, before, "applied", None, written)
    except Held as held:
        return Trial(number, before, "held", held.reason, [])
    except matching.Rejected as rejected:
        return Trial(number, before, "rejected", rejected.reason, [])
    except UnsupportedTypeError as error:
        return Trial(number, before, "unsupported", str(error), [])
    except HL7Error as error:
        return Trial(number, before, "failed", str(error), [])
    except ValueError:
        return Trial(number, before, "failed", "the message could not be mapped", [])


async def queue(pool: Pool, numbers: Sequence[uuid.UUID], actor: str) -> list[uuid.UUID]:
    """Send messages that are not applied through ingest again; returns those that are under way now."""
    async with pool.acquire() as connection, connection.transaction():
        rows = await connection.fetch(
            """
            UPDATE message SET status = 'received', reason = NULL, doubt = NULL, settled_at = NULL, attempts = 0,
                life = life || jsonb_build_object('at', now(), 'status', 'replayed', 'by', $3::text)
            WHERE id = ANY($1) AND status = ANY($2) RETURNING id, seq, organisation_id
            """,
            list(numbers),
            list(REPLAYABLE),
            actor,
        )
        ordered = sorted(rows, key=lambda row: row["seq"])
        await connection.execute("DELETE FROM message_waits WHERE message_id = ANY($1)", [row["id"] for row in ordered])
        await connection.execute(
            """
            INSERT INTO outbox (topic, ordering_key, data, attributes)
            SELECT $1, '', convert_to(json_build_object('message', id)::text, 'UTF8'), '{}'
            FROM unnest($2::uuid[]) WITH ORDINALITY AS t (id, place) ORDER BY place
            """,
            MESSAGE_STORED,
            [row["id"] for row in ordered],
        )
        await connection.executemany(
            "INSERT INTO audit (actor, organisation_id, action, message_id) VALUES ($1, $2, 'replay-message', $3)",
            [(actor, row["organisation_id"], row["id"]) for row in ordered],
        )
    return [row["id"] for row in ordered]


async def rebuild_records(
    pool: Pool, patients: Sequence[uuid.UUID], actor: str, *, apply: bool
) -> AsyncIterator[Difference]:
    """Rebuild records from their messages; with ``apply`` what differs is written, each record in one transaction,
    but nothing of a record in which a message that is applied would make nothing.

    Joined records are rebuilt together, once. The look is audited. Raises rebuild.RebuildError.
    """
    done: set[uuid.UUID] = set()
    for patient in patients:
        if patient in done:
            continue
        async with pool.acquire() as connection, connection.transaction():
            made = await rebuild(connection, patient)
            done.update(made.records)
            await connection.execute(
                "INSERT INTO audit (actor, action, patient_id) VALUES ($1, $2, $3)",
                actor,
                "rebuild" if apply else "preview-rebuild",
                patient,
            )
            found = _difference(patient, made)
            # A record of which a message would be lost stays as it is; the refusal is told.
            if apply and not made.refused:
                found.written = len(await write_difference(connection, made, actor))
        yield found


def _difference(patient: uuid.UUID, made: Rebuilt) -> Difference:
    found = Difference(patient, made.messages, len(made.before), refused=made.refused)
    for number in made.changed():
        before, after = made.before.get(number), made.after.get(number)
        kind = (after or before).type  # type: ignore[union-attr]
        change = "changed" if before and after else "new" if after else "gone"
        elements = differences(before.resource, after.resource) if before and after else []
        if before and after:
            elements += [
                (f"{kind}({name})", getattr(before, name), getattr(after, name))
                for name in ("label", "available_from", "organisations")
                if getattr(before, name) != getattr(after, name)
            ]
        found.changed.append(Changed(f"{kind}/{number}", change, elements))
    return found


async def patients_of(pool: Pool, numbers: Sequence[uuid.UUID]) -> list[uuid.UUID]:
    """The records that applied messages are about, in the order of the messages."""
    rows = await pool.fetch(
        """
        SELECT DISTINCT ON (patient) patient, seq FROM message, unnest(array_prepend(patient_id, other_patients)) AS t (patient)
        WHERE id = ANY($1) AND status = 'applied' AND patient IS NOT NULL ORDER BY patient, seq
        """,  # noqa: E501
        list(numbers),
    )
    return [row["patient"] for row in sorted(rows, key=lambda row: row["seq"])]


async def every_patient(pool: Pool) -> list[uuid.UUID]:
    """Every record, the oldest first."""
    return [row["id"] for row in await pool.fetch("SELECT id FROM record ORDER BY created_at")]
