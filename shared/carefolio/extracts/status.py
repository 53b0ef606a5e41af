"""What an operator asks: where every batch and file stands, what is parked and why; and his word about it."""

from __future__ import annotations

import uuid
from typing import Any

from carefolio.cloud.database import Pool
from carefolio.emis.chunks import NOBODY, NUMBERS
from carefolio.extracts.agreements import Agreement, AgreementError, by_id
from carefolio.extracts.patients import apply_set
from carefolio.extracts.rows import parsed

_NAMES = {number: name for name, number in NUMBERS.items()}
_MOST = 500


async def overview(pool: Pool, agreement: Agreement, *, batches_shown: int = 30) -> dict[str, Any]:
    """The agreement, its practices, its last batches with their files (the newest first), and how much is parked."""
    rows = await pool.fetch(
        "SELECT * FROM extract_batch WHERE agreement_id = $1 ORDER BY stamp DESC LIMIT $2", agreement.id, batches_shown
    )
    files = await pool.fetch(
        "SELECT * FROM extract_file WHERE batch_id = ANY($1) ORDER BY table_name", [row["id"] for row in rows]
    )
    steps = await pool.fetch(
        """
        SELECT s.batch_id, count(s.done_at) AS done, count(*) AS steps FROM extract_step s
        JOIN extract_batch b ON b.id = s.batch_id AND b.stage = s.stage WHERE s.batch_id = ANY($1) GROUP BY 1
        """,
        [row["id"] for row in rows],
    )
    under_way = {row["batch_id"]: f"{row['done']} of {row['steps']}" for row in steps}
    shared = await pool.fetch(
        """
        SELECT guid, ods_code, name, activated, disabled, deleted, organisation_id IS NOT NULL AS loaded
        FROM extract_practice WHERE agreement_id = $1 AND guid <> $2 ORDER BY ods_code
        """,
        agreement.id,
        uuid.UUID(NOBODY),
    )
    return {
        "agreement": agreement.name,
        "guid": str(agreement.guid),
        "fetched_at": agreement.fetched_at,
        "trouble": agreement.trouble,
        "ended_at": agreement.ended_at,
        "practices": [dict(row) | {"guid": str(row["guid"])} for row in shared],
        "parked": await pool.fetchval(
            """
            SELECT count(*) FROM extract_parked p JOIN extract_practice q ON q.number = p.practice
            WHERE q.agreement_id = $1 AND dismissed_at IS NULL
            """,
            agreement.id,
        ),
        "batches": [_batch(row, under_way, [file for file in files if file["batch_id"] == row["id"]]) for row in rows],
    }


def _batch(row: Any, under_way: dict[uuid.UUID, str], files: list[Any]) -> dict[str, Any]:
    shown = {
        name: row[name]
        for name in ("stamp", "kind", "status", "stage", "reason", "alerts", "seen_at", "landed_at", "verified_at",
                     "loaded_at")
    }  # fmt: skip
    return shown | {
        "steps": under_way.get(row["id"]),
        "report": parsed(row["report"]) if row["report"] else None,
        "files": [
            {
                "table": file["table_name"],
                "status": "loaded" if row["status"] == "loaded" else file["status"],
                "rows": file["rows"],
                "bytes": file["size"],
                "sha256": file["sha256"].hex() if file["sha256"] else None,
                "plain_bytes": file["plain_size"],
                "plain_sha256": file["plain_sha256"].hex() if file["plain_sha256"] else None,
                "signed_by": file["signed_by"],
                "attempts": file["attempts"],
                "reason": file["reason"],
                "seen_at": file["seen_at"],
                "fetched_at": file["fetched_at"],
                "verified_at": file["verified_at"],
            }
            for file in files
        ],
    }


async def parked(pool: Pool, agreement: Agreement, *, dismissed: bool = False) -> list[dict[str, Any]]:
    """What is parked, the oldest first: where it stood, why, since when, and the question a person could answer."""
    rows = await pool.fetch(
        """
        SELECT p.*, q.ods_code, f.table_name, b.stamp FROM extract_parked p
        JOIN extract_practice q ON q.number = p.practice
        LEFT JOIN extract_file f ON f.number = p.file LEFT JOIN extract_batch b ON b.id = f.batch_id
        WHERE q.agreement_id = $1 AND (dismissed_at IS NOT NULL) = $2 ORDER BY p.since, p.id LIMIT $3
        """,
        agreement.id,
        dismissed,
        _MOST,
    )
    return [
        {
            "id": str(row["id"]),
            "practice": row["ods_code"],
            "patient": str(row["patient"]),
            "place": f"{_NAMES[row['kind']]} row {row['number']}, batch {row['stamp']}" if row["file"] else "",
            "reason": row["reason"],
            "since": row["since"],
            "question": row["doubt"],
            "dismissed": row["dismissed_reason"],
        }
        for row in rows
    ]


async def retry(pool: Pool, agreement: Agreement) -> int:
    """Have all patients with something parked read anew, as a batch would; returns how many. Raises AgreementError."""
    rows = await pool.fetch(
        """
        SELECT DISTINCT p.practice, p.patient::text FROM extract_parked p
        JOIN extract_practice q ON q.number = p.practice
        WHERE q.agreement_id = $1 AND dismissed_at IS NULL ORDER BY 1, 2
        """,
        agreement.id,
    )
    by_practice: dict[int, list[str]] = {}
    for row in rows:
        by_practice.setdefault(row["practice"], []).append(row["patient"])
    await read_anew(pool, agreement, by_practice)
    return len(rows)


async def read_anew(pool: Pool, agreement: Agreement, patients: dict[int, list[str]]) -> None:
    """Apply patients (by the practice's number) as a whole, from their rows as they stand. Raises AgreementError."""
    batch = await pool.fetchrow(
        "SELECT * FROM extract_batch WHERE agreement_id = $1 AND status = 'loaded' ORDER BY stamp DESC LIMIT 1",
        agreement.id,
    )
    if batch is None:
        raise AgreementError("nothing has been loaded yet")
    for practice, guids in patients.items():
        for at in range(0, len(guids), 20):
            subject = {"practice": practice, "patients": guids[at : at + 20], "whole": True}
            async with pool.acquire() as connection, connection.transaction():
                await apply_set(connection, batch, subject, agreement)


async def dismiss(pool: Pool, number: uuid.UUID, actor: str, reason: str) -> None:
    """Leave something parked out of the list, with a reason. Raises AgreementError."""
    if not reason.strip():
        raise AgreementError("a reason is needed")
    done = await pool.fetchval(
        """
        UPDATE extract_parked SET dismissed_at = now(), dismissed_by = $2, dismissed_reason = $3
        WHERE id = $1 AND dismissed_at IS NULL RETURNING id
        """,
        number,
        actor,
        reason.strip()[:500],
    )
    if done is None:
        raise AgreementError("nothing of that id is parked")


async def decide(pool: Pool, number: uuid.UUID, actor: str, *, approve: bool) -> None:
    """Answer the question of a parked patient (docs/matching.md), and read him anew. Raises AgreementError."""
    row = await pool.fetchrow(
        """
        SELECT p.practice, p.patient::text, p.doubt, q.agreement_id FROM extract_parked p
        JOIN extract_practice q ON q.number = p.practice WHERE p.id = $1
        """,
        number,
    )
    if row is None or row["doubt"] is None:
        raise AgreementError("nothing of that id asks a question: retry it when its cause is mended")
    await pool.execute(
        "INSERT INTO decision (id, actor, kind, doubt) VALUES (gen_random_uuid(), $1, $2, $3)",
        actor,
        "approve" if approve else "reject",
        row["doubt"],
    )
    await read_anew(pool, await by_id(pool, row["agreement_id"]), {row["practice"]: [row["patient"]]})


# The refsets that the NHS names sensitive (domain notes B10), and the label that their concepts get.
REFSETS = {
    999004351000000109: "sexual-health",
    999004361000000107: "sexual-health",
    999004371000000100: "sexual-health",
    999004381000000103: "sexual-health",
    1955841000000104: "sexual-health",
    1955851000000101: "sexual-health",
}


async def load_refsets(pool: Pool, text: str) -> int:
    """Take the members of sensitive refsets from an RF2 simple refset file (tab-separated); returns how many.

    Columns as SNOMED CT's release has them: id, effectiveTime, active, moduleId, refsetId, referencedComponentId.
    Raises AgreementError.
    """
    lines = text.splitlines()
    columns = lines[0].split("\t") if lines else []
    wanted = ("active", "refsetId", "referencedComponentId")
    if not set(wanted) <= set(columns):
        raise AgreementError(f"not a simple refset file: it lacks {', '.join(w for w in wanted if w not in columns)}")
    active, refset, concept = (columns.index(name) for name in wanted)
    found: dict[int, int] = {}
    for line in lines[1:]:
        parts = line.split("\t")
        if len(parts) != len(columns) or parts[active] != "1" or not (parts[refset] + parts[concept]).isdigit():
            continue
        if int(parts[refset]) in REFSETS:
            found[int(parts[concept])] = int(parts[refset])
    await pool.execute(
        """
        INSERT INTO sensitive_concept (concept, refset, label)
        SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[])
        ON CONFLICT (concept) DO UPDATE SET refset = excluded.refset, label = excluded.label
        """,
        list(found),
        list(found.values()),
        [REFSETS[refset] for refset in found.values()],
    )
    return len(found)
