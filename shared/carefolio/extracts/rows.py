"""The practices' rows as they stand: pieces of files go in, in any order, and the newest of each row stays.

Newest is: the later batch, in it the higher ProcessingId, in that the later row. So loading a piece twice, or after a
later one, changes nothing, and B8's order of tables is kept by reading only when all of them are in.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

from carefolio.cloud import files
from carefolio.cloud.database import Connection
from carefolio.emis.chunks import CODING, NOBODY, NUMBERS, SEPARATOR
from carefolio.emis.tables import tables
from carefolio.extracts.agreements import Agreement

DELETED, CLEARED = 1, 2
SLOT, SESSION, SESSION_USER, PATIENT = (
    NUMBERS[name] for name in ("Appointment_Slot", "Appointment_Session", "Appointment_SessionUser", "Admin_Patient")
)
_OBSERVATION = NUMBERS["CareRecord_Observation"]
_DRUG, _ISSUE = NUMBERS["Prescribing_DrugRecord"], NUMBERS["Prescribing_IssueRecord"]
_CODE = list(tables()["CareRecord_Observation"].columns).index("CodeId") + 1
_LONGEST = 300.0


async def load_piece(
    connection: Connection, batch: Any, subject: dict[str, Any], agreement: Agreement
) -> dict[str, Any]:
    """One piece of a file, in the caller's transaction; returns how many rows it had."""
    table = subject["table"]
    if table in CODING:
        await _load_codes(connection, batch, subject, agreement, drug=table == "Coding_DrugCode")
    else:
        await _load_rows(connection, batch, subject, agreement, table)
    return {"rows": subject["rows"]}


async def _copy(connection: Connection, target: str, columns: list[str], piece: str) -> None:
    content = await asyncio.to_thread(files.read, piece)

    async def source() -> Any:
        for start in range(0, len(content), 1 << 18):
            yield content[start : start + (1 << 18)]

    await connection.copy_to_table(target, source=source(), columns=columns, format="text", timeout=_LONGEST)


async def _load_codes(
    connection: Connection, batch: Any, subject: dict[str, Any], agreement: Agreement, *, drug: bool
) -> None:
    await connection.execute("CREATE TEMP TABLE IF NOT EXISTS loading_code (id bigint, row text) ON COMMIT DELETE ROWS")
    await _copy(connection, "loading_code", ["id", "row"], subject["piece"])
    # The coding files come whole each night: what says the same is left alone.
    await connection.execute(
        """
        INSERT INTO extract_code AS c (agreement_id, drug, id, batch, row)
        SELECT DISTINCT ON (id) $1::int, $2::boolean, id, $3::int, row FROM loading_code ORDER BY id, row DESC
        ON CONFLICT (agreement_id, drug, id) DO UPDATE SET batch = excluded.batch, row = excluded.row
        WHERE c.row <> excluded.row AND excluded.batch >= c.batch
        """,
        agreement.id,
        drug,
        batch["number"],
        timeout=_LONGEST,
    )


_COLUMNS = ["practice", "patient", "id", "parent", "number", "processing", "deleted", "row"]


async def _load_rows(
    connection: Connection, batch: Any, subject: dict[str, Any], agreement: Agreement, table: str
) -> None:
    kind, number = NUMBERS[table], batch["number"]
    await connection.execute(
        """
        CREATE TEMP TABLE IF NOT EXISTS loading (practice uuid, patient uuid, id uuid, parent uuid, number int,
            processing bigint, deleted boolean, row text) ON COMMIT DELETE ROWS
        """
    )
    await connection.execute(
        """
        CREATE TEMP TABLE IF NOT EXISTS latest (practice int, patient uuid, id uuid, parent uuid, number int,
            processing bigint, deleted boolean, row text) ON COMMIT DELETE ROWS
        """
    )
    await _copy(connection, "loading", _COLUMNS, subject["piece"])
    # A deletion may come without its practice (a slot's without its patient): then it is meant where the row is.
    await connection.execute(
        """
        INSERT INTO latest (practice, patient, id, parent, number, processing, deleted, row)
        SELECT DISTINCT ON (practice, patient, l.id) coalesce(p.number, r.practice, nobody.number) AS practice,
               CASE WHEN l.patient = $3 THEN coalesce(r.patient, l.patient) ELSE l.patient END AS patient,
               l.id, nullif(l.parent, $3), l.number, l.processing, l.deleted, l.row
        FROM loading l
        JOIN extract_practice nobody ON nobody.agreement_id = $1 AND nobody.guid = $3
        LEFT JOIN extract_practice p ON p.agreement_id = $1 AND p.guid = l.practice AND p.organisation_id IS NOT NULL
        LEFT JOIN extract_row r ON p.number IS NULL AND l.deleted AND r.practice = ANY(ARRAY(
            SELECT q.number FROM extract_practice q WHERE q.agreement_id = $1 AND q.organisation_id IS NOT NULL
            AND q.activated AND NOT q.disabled AND NOT q.deleted
        )) AND (r.patient = l.patient OR $2 = 9 AND l.patient = $3) AND r.kind = $2 AND r.id = l.id
        ORDER BY practice, patient, l.id, l.processing DESC, l.number DESC
        """,
        agreement.id,
        kind,
        uuid.UUID(NOBODY),
        timeout=_LONGEST,
    )
    if not batch["whole"]:
        # What a row was part of has changed too, where it is part of it no more. (LATERAL: by its key. A join reads
        # all of a practice's rows where they have no statistics yet.)
        await connection.execute(
            """
            INSERT INTO extract_change (batch, practice, patient, kind, id)
            SELECT $1::int, practice, patient, $2::smallint, id FROM latest
            UNION
            SELECT $1::int, latest.practice, latest.patient, $3::smallint, before.parent FROM latest, LATERAL (
                SELECT r.parent FROM extract_row r WHERE (r.practice, r.patient, r.kind, r.id)
                    = (latest.practice, latest.patient, $2::smallint, latest.id) LIMIT 1
            ) before
            WHERE before.parent IS NOT NULL AND before.parent IS DISTINCT FROM latest.parent
            """,
            number,
            kind,
            # An issue is part of a drug, an observation of another.
            _DRUG if kind == _ISSUE else kind,
            timeout=_LONGEST,
        )
        if kind == _OBSERVATION:
            # One that was his ethnicity and is something else now is not told from what it is now.
            await connection.execute(
                f"""
                INSERT INTO extract_change (batch, practice, patient, kind, id)
                SELECT DISTINCT $1::int, latest.practice, latest.patient, $2::smallint, latest.patient
                FROM latest, LATERAL (
                    SELECT r.row FROM extract_row r WHERE (r.practice, r.patient, r.kind, r.id)
                        = (latest.practice, latest.patient, $3::smallint, latest.id) LIMIT 1
                ) before
                WHERE NOT latest.deleted
                  AND split_part(before.row, E'\\x1f', {_CODE}) <> split_part(latest.row, E'\\x1f', {_CODE})
                """,  # noqa: S608 - our own column
                number,
                PATIENT,
                kind,
                timeout=_LONGEST,
            )
    await connection.execute(
        """
        INSERT INTO extract_row AS r (practice, patient, kind, id, parent, batch, file, number, processing, state, row)
        SELECT practice, patient, $1, id, parent, $2, $3, number, processing, CASE WHEN deleted THEN 1 ELSE 0 END, row
        FROM latest
        ON CONFLICT (practice, patient, kind, id) DO UPDATE SET
            batch = excluded.batch, file = excluded.file, number = excluded.number, processing = excluded.processing,
            state = excluded.state, row = CASE WHEN excluded.state = 1 THEN r.row ELSE excluded.row END,
            parent = CASE WHEN excluded.state = 1 THEN r.parent ELSE excluded.parent END
        WHERE (excluded.batch, excluded.processing, excluded.number) > (r.batch, r.processing, r.number)
        """,
        kind,
        number,
        subject["file"],
        timeout=_LONGEST,
    )


async def settle(connection: Connection, batch: Any, agreement: Agreement, practices: list[int]) -> list[str]:
    """When all rows are in: cleared slots, what a re-bulk no longer has, held rows whose code has come.

    Returns what an operator must know.
    """
    number, told = batch["number"], []
    await connection.execute("SET LOCAL enable_seqscan = on")
    if batch["whole"]:
        told = await _left_out(connection, number, practices)
    await _cleared_slots(connection, number, practices)
    if not batch["whole"]:
        await _of_sessions(connection, number, agreement)
    await connection.execute(
        """
        INSERT INTO extract_change (batch, practice, patient, kind, id)
        SELECT $1, parked.practice, parked.patient, parked.kind, parked.row_id FROM extract_parked parked
        JOIN extract_code c ON c.agreement_id = $2 AND c.drug = parked.drug AND c.id = parked.waits_for
        WHERE parked.practice = ANY($3) AND parked.waits_for IS NOT NULL
        """,
        number,
        agreement.id,
        practices,
        timeout=_LONGEST,
    )
    # A patient who is parked is tried again every night.
    await connection.execute(
        """
        INSERT INTO extract_change (batch, practice, patient, kind, id)
        SELECT $1::int, practice, patient, $3::smallint, patient FROM extract_patient
        WHERE practice = ANY($2) AND status = 'parked'
        """,
        number,
        practices,
        PATIENT,
        timeout=_LONGEST,
    )
    return told


async def _left_out(connection: Connection, number: int, practices: list[int]) -> list[str]:
    """What is stored of a practice and not in its re-bulk is gone; but never a whole table, and never a patient.

    A patient who is left out has left: that he is gone is told by his row's state, and his history stays.
    """
    lost = await connection.fetch(
        """
        SELECT p.guid, k.kind FROM extract_practice p CROSS JOIN unnest($2::smallint[]) AS k (kind)
        WHERE p.number = ANY($1)
          AND EXISTS (SELECT FROM extract_row r WHERE r.practice = p.number AND r.kind = k.kind AND r.state = 0)
          AND NOT EXISTS (
              SELECT FROM extract_row r WHERE r.practice = p.number AND r.kind = k.kind AND r.batch = $3
          )
        """,
        practices,
        list(NUMBERS.values()),
        number,
        timeout=_LONGEST,
    )
    names = {kind: name for name, kind in NUMBERS.items()}
    await connection.execute(
        """
        UPDATE extract_row r SET state = 1, batch = $2
        WHERE practice = ANY($1) AND batch < $2 AND state = 0
          AND NOT EXISTS (SELECT FROM unnest($3::uuid[], $4::smallint[]) AS l (guid, kind)
                          JOIN extract_practice p ON p.guid = l.guid WHERE p.number = r.practice AND l.kind = r.kind)
          AND (kind = $5 OR patient = $6 OR EXISTS (
              SELECT FROM extract_row who WHERE who.practice = r.practice AND who.patient = r.patient
              AND who.kind = $5 AND who.batch = $2
          ))
        """,
        practices,
        number,
        [row["guid"] for row in lost],
        [row["kind"] for row in lost],
        PATIENT,
        uuid.UUID(NOBODY),
        timeout=_LONGEST,
    )
    return [
        f"practice {row['guid']}: the bulk has no row of {names[row['kind']]}, what is stored of it was kept"
        for row in lost
    ]


async def _cleared_slots(connection: Connection, number: int, practices: list[int]) -> None:
    """A slot that is another's now, or nobody's, is a cancelled appointment of the one before; deleted, it is gone."""
    rows = await connection.fetch(
        """
        UPDATE extract_row old SET batch = $1, state = CASE WHEN new.state = 1 THEN 1 ELSE 2 END
        FROM extract_row new
        WHERE new.practice = ANY($2) AND new.kind = 9 AND new.batch = $1 AND old.kind = 9
          AND old.practice = new.practice AND old.id = new.id AND old.patient <> new.patient AND old.state <> 1
          AND (old.batch, old.processing, old.number) < (new.batch, new.processing, new.number)
        RETURNING old.practice, old.patient, old.id
        """,
        number,
        practices,
        timeout=_LONGEST,
    )
    await connection.execute(
        "INSERT INTO extract_change SELECT $1, practice, patient, 9, id"
        " FROM unnest($2::int[], $3::uuid[], $4::uuid[]) AS t (practice, patient, id)",
        number,
        [row["practice"] for row in rows],
        [row["patient"] for row in rows],
        [row["id"] for row in rows],
    )
    await connection.execute(
        "DELETE FROM extract_row WHERE practice = ANY($1) AND kind = 9 AND patient = $2",
        practices,
        uuid.UUID(NOBODY),
        timeout=_LONGEST,
    )


async def _of_sessions(connection: Connection, number: int, agreement: Agreement) -> None:
    """Appointments show the people and the place of their session."""
    await connection.execute(
        """
        INSERT INTO extract_change (batch, practice, patient, kind, id)
        SELECT $1, slot.practice, slot.patient, 9, slot.id
        FROM (
            SELECT c.id FROM extract_change c WHERE c.batch = $1 AND c.kind = 5
            UNION
            SELECT r.parent FROM extract_change c JOIN extract_row r USING (practice, patient, kind, id)
            WHERE c.batch = $1 AND c.kind = 6
        ) AS session (id)
        JOIN extract_row slot ON slot.parent = session.id AND slot.kind = 9
        JOIN extract_practice p ON p.number = slot.practice AND p.agreement_id = $2
        """,
        number,
        agreement.id,
        timeout=_LONGEST,
    )


async def forget_batch(connection: Connection, number: int, practices: list[int]) -> None:
    """After the last step: tombstones and the list of changes have served."""
    await connection.execute("DELETE FROM extract_change WHERE batch = $1", number, timeout=_LONGEST)
    await connection.execute(
        "DELETE FROM extract_row WHERE practice = ANY($1) AND state = 1 AND batch = $2 AND kind <> $3",
        practices,
        number,
        PATIENT,
        timeout=_LONGEST,
    )


def values_of(row: str) -> list[str]:
    """The values of a stored row, in the table's order."""
    return row.split(SEPARATOR)


def named(table: str, row: str) -> dict[str, str]:
    """The values of a stored row by their columns."""
    return dict(zip(tables()[table].columns, values_of(row), strict=True))


def parsed(text: Any) -> Any:
    """A jsonb value as asyncpg gives it: text."""
    return json.loads(text) if isinstance(text, str) else text
