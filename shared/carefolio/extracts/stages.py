"""What each stage of a batch begins with: a moment's work, and the subjects of its steps."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from carefolio.cloud.database import Connection
from carefolio.cloud.telemetry import Event, log
from carefolio.emis.chunks import CODING, NOBODY, NUMBERS
from carefolio.extracts import practices, rows
from carefolio.extracts.agreements import Agreement
from carefolio.extracts.decrypting import ORGANISATION, SHARING
from carefolio.extracts.rows import parsed

STAGES = ("decrypt", "rows", "settle", "shared", "patients", "finish")
_ROWS_PER_SET = 1500
_MOST_PATIENTS = 500
_SHARED_PER_SET = 2000
# Kilobytes (migration 0003), and sets from which a bulk is a large one.
_WAITING, _WAITING_IN_BULK, _LARGE_BULK = 128, 4096, 10
_NOBODY = uuid.UUID(NOBODY)
_BULK_PATIENTS, _BULK_OBSERVATIONS = 1000, 4000


async def _begin_rows(connection: Connection, batch: dict[str, Any], agreement: Agreement) -> list[dict[str, Any]]:
    """All files have vouched for themselves: know the practices, and take the pieces of those that are loaded."""
    found = await connection.fetch("SELECT * FROM extract_file WHERE batch_id = $1 ORDER BY table_name", batch["id"])
    counts = {row["table_name"]: parsed(row["counts"]) for row in found}
    sharing = counts.get(SHARING, {}).get("sharing", {})
    told = await practices.know(connection, agreement, sharing, counts.get(ORGANISATION, {}).get("organisations", {}))
    loaded = await practices.loaded(connection, agreement)
    subjects, skipped = [], Counter[str]()
    for row in found:
        table, of = row["table_name"], counts[row["table_name"]]
        if row["extra"]:
            told.append(f"{table} has columns that are not known: {', '.join(row['extra'][:5])}")
        if of["bad"]:
            first, reason = of["bad"][0]
            told.append(f"{table}: {len(of['bad'])} rows could not be placed, first row {first}, {reason}")
        for practice, count, piece in of["pieces"]:
            if practice and practice not in loaded and not _is_shared(table):
                skipped[practice] += count
                continue
            subjects.append({"table": table, "file": row["number"], "rows": count, "piece": piece})
    for practice, count in sorted(skipped.items()):
        disabled = sharing.get(practice, [False, False, False])[1]
        told.append(
            f"practice {practice} is {'disabled: it is frozen as it stands' if disabled else 'not shared with us'}, "
            f"{count} rows were left alone"
        )
    await connection.execute(
        """
        UPDATE extract_batch SET verified_at = now(), kind = CASE WHEN kind = '' THEN 'delta' ELSE kind END,
            alerts = ARRAY(SELECT DISTINCT unnest(alerts || $2::text[]) ORDER BY 1)
        WHERE id = $1
        """,
        batch["id"],
        told,
    )
    for reason in told:
        log(Event.EXTRACT_ALERT, agreement=agreement.name, reason=reason)
    return subjects


def _is_shared(table: str) -> bool:
    return table in CODING or table in (ORGANISATION, "Admin_Location", "Admin_OrganisationLocation",
                                        "Admin_UserInRole", "Appointment_SessionUser")  # fmt: skip


async def _begin_settle(connection: Connection, batch: dict[str, Any], agreement: Agreement) -> list[dict[str, Any]]:
    """Rather a moment than a step: what follows from all rows together."""
    names = await connection.fetch("SELECT path, counts FROM extract_file WHERE batch_id = $1", batch["id"])
    if not batch["whole"] and not any("delta_" in row["path"] for row in names):
        batch["whole"] = await _looks_like_bulk(connection, batch)
        if batch["whole"]:
            await connection.execute("UPDATE extract_batch SET kind = 'bulk' WHERE id = $1", batch["id"])
    if batch["whole"]:
        # Else the plans of what follows are made for the table as it was before the practice came.
        await connection.execute("ANALYZE extract_row", timeout=600)
    loaded = [row["number"] for row in (await practices.loaded(connection, agreement)).values()]
    told = await rows.settle(connection, batch, agreement, loaded)
    await connection.execute("UPDATE extract_batch SET alerts = alerts || $2::text[] WHERE id = $1", batch["id"], told)
    return []


async def _looks_like_bulk(connection: Connection, batch: dict[str, Any]) -> bool:
    """Without a prefix in the name (domain notes B6): no deletions, everybody's patient is there, and many of both."""
    found = await connection.fetch(
        "SELECT table_name, rows, counts FROM extract_file WHERE batch_id = $1 AND table_name = ANY($2)",
        batch["id"],
        ["Admin_Patient", "CareRecord_Observation"],
    )
    by_table = {row["table_name"]: row for row in found}
    people, observations = by_table["Admin_Patient"], by_table["CareRecord_Observation"]
    if people["rows"] < _BULK_PATIENTS or observations["rows"] < _BULK_OBSERVATIONS:
        return False
    if any(parsed(row["counts"])["deleted"] for row in found):
        return False
    return not await connection.fetchval(
        """
        SELECT EXISTS (
            SELECT FROM extract_change c WHERE c.batch = $1 AND c.kind = $2 AND NOT EXISTS (
                SELECT FROM extract_row p WHERE p.practice = c.practice AND p.patient = c.patient AND p.kind = $3
                AND p.batch = $1
            )
        )
        """,
        batch["number"],
        NUMBERS["CareRecord_Observation"],
        NUMBERS["Admin_Patient"],
    )


async def _begin_shared(connection: Connection, batch: dict[str, Any], agreement: Agreement) -> list[dict[str, Any]]:
    """What is no patient's: rows that changed, and those whose links did."""
    loaded = [row["number"] for row in (await practices.loaded(connection, agreement)).values()]
    kinds = {NUMBERS[name] for name in practices.SHARED}
    links = {NUMBERS["Admin_OrganisationLocation"]: NUMBERS["Admin_Location"],
             NUMBERS["Appointment_SessionUser"]: NUMBERS["Appointment_Session"]}  # fmt: skip
    found = await connection.fetch(
        """
        SELECT practice, kind, id::text FROM extract_row
        WHERE practice = ANY($1) AND patient = $2 AND kind = ANY($3) AND batch = $4
        UNION
        SELECT target.practice, target.kind, target.id::text FROM extract_row link
        JOIN unnest($5::smallint[], $6::smallint[]) AS l (link, target) ON l.link = link.kind
        JOIN extract_row target ON target.practice = ANY($1) AND target.patient = $2 AND target.kind = l.target
         AND target.id = link.parent
        WHERE link.practice = ANY($1) AND link.patient = $2 AND link.batch = $4
        ORDER BY 1, 2, 3
        """,
        loaded, _NOBODY, list(kinds), batch["number"], list(links), list(links.values()),
    )  # fmt: skip
    by_kind: dict[tuple[int, int], list[str]] = {}
    for row in found:
        by_kind.setdefault((row["practice"], row["kind"]), []).append(row["id"])
    return [
        {"practice": practice, "kind": kind, "ids": ids[at : at + _SHARED_PER_SET]}
        for (practice, kind), ids in by_kind.items()
        for at in range(0, len(ids), _SHARED_PER_SET)
    ]


async def _begin_patients(connection: Connection, batch: dict[str, Any], agreement: Agreement) -> list[dict[str, Any]]:
    """Sets of patients, each of about as many rows."""
    subjects = []
    for row in (await practices.loaded(connection, agreement)).values():
        if row["organisation_id"] is None:
            continue
        if batch["whole"]:
            # All that are stored: those who are left out of a bulk have left.
            sql = "SELECT patient, count(*) AS rows FROM extract_row WHERE practice = $1 AND patient <> $2 GROUP BY 1"
            found = await connection.fetch(f"{sql} ORDER BY 1", row["number"], _NOBODY, timeout=600)
        else:
            found = await connection.fetch(
                """
                SELECT patient, count(*) AS rows FROM extract_change
                WHERE batch = $1 AND practice = $2 AND patient <> $3 GROUP BY 1 ORDER BY 1
                """,
                batch["number"], row["number"], _NOBODY, timeout=600,
            )  # fmt: skip
        taken: list[str] = []
        size = 0
        for each in found:
            taken.append(str(each["patient"]))
            size += each["rows"]
            if size >= _ROWS_PER_SET or len(taken) >= _MOST_PATIENTS:
                subjects.append({"practice": row["number"], "patients": taken, "whole": batch["whole"]})
                taken, size = [], 0
        if taken:
            subjects.append({"practice": row["number"], "patients": taken, "whole": batch["whole"]})
    if batch["whole"] and len(subjects) > _LARGE_BULK:
        await _let_wait(connection, _WAITING_IN_BULK)
    return subjects


async def _let_wait(connection: Connection, kilobytes: int) -> None:
    """How much of what is written may wait to be sorted into the index of search.

    Little, so that searches need not read it; much while a practice comes for the first time: measured, that writes
    half as fast again, and searches meanwhile take up to three times as long.
    """
    try:
        async with connection.transaction():
            await connection.execute("SET LOCAL lock_timeout = '2s'")
            await connection.execute(f"ALTER INDEX resource_keys SET (gin_pending_list_limit = {kilobytes})")
    except (asyncpg.InsufficientPrivilegeError, asyncpg.LockNotAvailableError):
        # Then it is slower.
        return


async def _finish(connection: Connection, batch: dict[str, Any], agreement: Agreement) -> list[dict[str, Any]]:
    """The report, and what has served is removed."""
    report = await _report(connection, batch)
    loaded = [row["number"] for row in (await practices.loaded(connection, agreement)).values()]
    await rows.forget_batch(connection, batch["number"], loaded)
    await connection.execute("UPDATE extract_practice SET loaded_batch = $2 WHERE number = ANY($1)", loaded,
                             batch["number"])  # fmt: skip
    if batch["whole"]:
        await _let_wait(connection, _WAITING)
    await connection.execute("DELETE FROM extract_step WHERE batch_id = $1", batch["id"])
    await connection.execute(
        "UPDATE extract_batch SET status = 'loaded', stage = NULL, loaded_at = now(), report = $2 WHERE id = $1",
        batch["id"],
        json.dumps(report),
    )
    total: Counter[str] = Counter()
    for each in report.values():
        total.update({name: count for name, count in each.items() if isinstance(count, int)})
    log(Event.EXTRACT_LOADED, agreement=agreement.name, batch=batch["stamp"],
        **{name: total[name] for name in ("rows", "created", "updated", "removed", "parked")})  # fmt: skip
    return []


async def _report(connection: Connection, batch: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By practice: rows read, resources created, updated, removed, rows and patients parked with their reasons."""
    report: dict[str, dict[str, Any]] = {}
    for row in await connection.fetch("SELECT counts FROM extract_file WHERE batch_id = $1", batch["id"]):
        for practice, count in parsed(row["counts"])["by_practice"].items():
            of = report.setdefault(practice or "shared", {})
            of["rows"] = of.get("rows", 0) + count
    steps = await connection.fetch(
        "SELECT result FROM extract_step WHERE batch_id = $1 AND stage IN ('shared', 'patients')", batch["id"]
    )
    for step in steps:
        result = parsed(step["result"])
        of = report.setdefault(result.pop("practice", "shared").replace(NOBODY, "shared"), {})
        for reason, count in result.pop("reasons", {}).items():
            reasons = of.setdefault("reasons", {})
            reasons[reason] = reasons.get(reason, 0) + count
        for name, count in result.items():
            if isinstance(count, int):
                of[name] = of.get(name, 0) + count
    return report


BEGIN: dict[str, Callable[[Connection, dict[str, Any], Agreement], Awaitable[list[dict[str, Any]]]]] = {
    "rows": _begin_rows,
    "settle": _begin_settle,
    "shared": _begin_shared,
    "patients": _begin_patients,
    "finish": _finish,
}
