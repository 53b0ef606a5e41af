"""The patient's word on privacy labels: of one item, and of what a team contributes (domain rules A8)."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

from carefolio.cloud.database import Connection, Pool
from carefolio.record import labels
from carefolio.record.access import Reader, hidden
from carefolio.record.decisions import keep, retried
from carefolio.record.rows import Known, make_row, without_head
from carefolio.record.sharing import TEAM, SharingError, check_decides, checked, decides, is_anothers, name_of
from carefolio.record.write import ChangedMeanwhileError, Origin, known, write


async def relabel(pool: Pool, reader: Reader, record: uuid.UUID, kind: str, number: uuid.UUID, label: str) -> None:
    """The patient's word on the privacy label of one item of his, in all its versions. Raises SharingError."""
    [chosen] = checked([label])
    if kind in labels.ALWAYS_GENERAL:
        raise SharingError("everybody who treats must know of medicines and allergies: their label is general")

    async def work(connection: Connection) -> None:
        await check_decides(connection, reader, record)
        current = (await known(connection, [number], [kind], aliases=False)).get(number)
        if (
            current is None
            or current.patient_id is None
            or not await decides(connection, reader, current.patient_id)
            or await is_anothers(connection, reader, current.patient_id)
            or (current.live and await hidden(connection, reader, [number]))
        ):
            raise SharingError("there is no such item")
        await connection.execute(
            """
            INSERT INTO item_label (resource_id, record_id, label, set_by) VALUES ($1, $2, $3, $4)
            ON CONFLICT (resource_id) DO UPDATE SET label = excluded.label, set_by = excluded.set_by, set_at = now()
            """,
            number,
            current.patient_id,
            chosen,
            reader.actor,
        )
        if current.live:
            await _written_again(connection, reader, current, chosen)
        await connection.execute("UPDATE resource_history SET label = $2 WHERE id = $1", number, chosen)
        await keep(connection, reader.actor, "label", patients=[current.patient_id], item=f"{kind}/{number}",
                   label=chosen)  # fmt: skip

    await retried(pool, work)


async def label_team(pool: Pool, reader: Reader, record: uuid.UUID, team: uuid.UUID, label: str) -> None:
    """The patient's word on the label of what a team contributes from now on. Raises SharingError."""
    [chosen] = checked([label])

    async def work(connection: Connection) -> None:
        await check_decides(connection, reader, record)
        if await is_anothers(connection, reader, record):
            raise SharingError("the record has an account of its own", forbidden=True)
        if await name_of(connection, team, TEAM) is None:
            raise SharingError("there is no such team")
        await connection.execute(
            """
            INSERT INTO team_label (record_id, team_id, label, set_by) VALUES ($1, $2, $3, $4)
            ON CONFLICT (record_id, team_id) DO UPDATE SET label = excluded.label, set_by = excluded.set_by,
                set_at = now()
            """,
            record,
            team,
            chosen,
            reader.actor,
        )
        await keep(connection, reader.actor, "team-label", patients=[record], team=str(team), label=chosen)

    await retried(pool, work)


async def _written_again(connection: Connection, reader: Reader, current: Known, label: str) -> None:
    """The item's next version, which says its label; it comes from where the last one came."""
    row = await connection.fetchrow("SELECT message_id, place, by_app FROM resource WHERE id = $1", current.id)
    if row is None or current.content is None or current.patient_id is None:
        raise ChangedMeanwhileError
    now = datetime.now(UTC)
    origin = Origin(uuid.uuid4(), reader.actor, organisation_id=reader.organisation_id, app=row["by_app"])
    made = make_row(
        current.id, without_head(current.content), current, patient_id=current.patient_id,
        organisations=current.organisations, source=row["message_id"] or origin.id, now=now, label=label,
        place=row["place"], available_from=current.available_from,
    )  # fmt: skip
    if made is not None:
        await write(connection, origin, [made], now, patients=[current.patient_id])
        await connection.execute("UPDATE resource SET message_id = $2 WHERE id = $1", current.id, row["message_id"])
