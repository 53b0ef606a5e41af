"""Who sees a record besides its patient: with teams, professionals and carers, by privacy label (domain rules A8).

A sharing is the patient's word (``explicit``) or follows from a team's contribution (``implied``). Every SELECT reads
them (carefolio.record.access), so that a change counts from the next request on. The patient's words are Consents too.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime

from carefolio.cloud.database import Connection, Pool
from carefolio.record import labels
from carefolio.record.access import Reader
from carefolio.record.consents import Sharing, write_consent
from carefolio.record.decisions import keep, retried

TEAM, PROFESSIONAL, CARER = "team", "professional", "carer"
_MOST = 500


class SharingError(Exception):
    """What was asked for cannot be; the text is for the person who asked.

    ``forbidden``: it is not his to decide; ``missing``: nothing is there, for him.
    """

    def __init__(self, reason: str, *, forbidden: bool = False, missing: bool = False) -> None:
        super().__init__(reason)
        self.forbidden, self.missing = forbidden, missing

    @property
    def status(self) -> int:
        """The HTTP status."""
        return 403 if self.forbidden else 404 if self.missing else 422


async def decides(connection: Pool | Connection, reader: Reader, record: uuid.UUID) -> bool:
    """Whether it is the reader who decides about a record: his own, or one that is joined to it, and not frozen."""
    if reader.own is None or reader.acts_for is not None:
        return False
    return bool(
        await connection.fetchval(
            """
            SELECT EXISTS (SELECT FROM record own JOIN record asked USING (person_id)
                           WHERE own.id = $1 AND asked.id = $2)
               AND NOT EXISTS (SELECT FROM record own JOIN record every USING (person_id)
                               WHERE own.id = $1 AND every.frozen_at IS NOT NULL)
            """,
            reader.own,
            record,
        )
    )


async def share(
    pool: Pool,
    reader: Reader,
    record: uuid.UUID,
    grantee: uuid.UUID,
    role: str,
    wanted: Sequence[str],
    *,
    until: datetime | None = None,
    confidential: bool = False,
    acts: bool = False,
) -> Sharing:
    """Share a record: the patient's word about a grantee from now on; no labels say no. Raises SharingError.

    ``acts``: a carer adds to it in the patient's name. It is kept with the patient's own record: of one that is joined
    to it by mistake he says nothing that outlasts the join.
    """
    if until is not None and until <= datetime.now(UTC):
        raise SharingError("until: the end lies in the past")
    if role not in (TEAM, PROFESSIONAL, CARER):
        raise SharingError("role: one of team, professional, carer")
    if confidential and role == CARER:
        raise SharingError("confidential: a carer does not see what its author restricted")
    if acts and role != CARER:
        raise SharingError("acts: only a carer acts in the patient's name")

    async def work(connection: Connection) -> Sharing:
        await lock(connection, record)
        await check_decides(connection, reader, record)
        # To say no to somebody who is not here any more is always possible.
        if wanted and await name_of(connection, grantee, role) is None:
            raise SharingError(f"there is no such {role}")
        if role != TEAM and grantee == reader.account:
            raise SharingError("you see your own record anyway")
        return await write(connection, reader, record, grantee, role, wanted, until=until, confidential=confidential,
                           acts=acts)  # fmt: skip

    return await retried(pool, work)


async def write(
    connection: Connection,
    reader: Reader,
    record: uuid.UUID,
    grantee: uuid.UUID,
    role: str,
    wanted: Sequence[str],
    *,
    until: datetime | None = None,
    confidential: bool = False,
    acts: bool = False,
) -> Sharing:
    """What ``share`` does, in the caller's transaction and by his word. Raises SharingError for labels."""
    chosen = checked(wanted)
    assert reader.own is not None
    own = reader.own
    if role == CARER and (grown := await sixteen(connection, own)) is not None:
        # From his sixteenth birthday on he decides himself, anew.
        until = grown if until is None or until > grown else until
    await _end(connection, reader, record, grantee)
    number: uuid.UUID = await connection.fetchval(
        """
        INSERT INTO sharing (record_id, grantee, role, kind, labels, confidential, contributed, created_by, ends_at,
                             acts)
        VALUES ($1, $2, $3, 'explicit', $4, $5, EXISTS (
            SELECT FROM record asked JOIN record every USING (person_id) JOIN sharing s ON s.record_id = every.id
            WHERE asked.id = $1 AND s.grantee = $2 AND s.contributed
        ), $6, coalesce($7::timestamptz, 'infinity'), $8) RETURNING id
        """,
        own, grantee, role, chosen, confidential, reader.actor, until, acts,
    )  # fmt: skip
    await keep(connection, reader.actor, "share", patients=[own], grantee=str(grantee), role=role,
               labels=chosen, until=until, acts=acts)  # fmt: skip
    [made] = await _of(connection, own, number)
    await write_consent(connection, reader, own, number, made)
    return made


async def of_record(pool: Pool, reader: Reader, record: uuid.UUID) -> list[Sharing]:
    """Who sees what of a record: sharings in force, and refusals. Raises SharingError."""
    await check_decides(pool, reader, record)
    return await _of(pool, record)


async def seen_by(pool: Pool, account: uuid.UUID, record: uuid.UUID) -> tuple[list[str], bool]:
    """The labels that a professional sees of a record, by himself or his teams; and whether by a broken glass."""
    row = await pool.fetchrow(
        """
        SELECT array_agg(DISTINCT label) FILTER (WHERE label IS NOT NULL) AS labels,
               coalesce(bool_or(s.kind = 'glass'), false) AS broken
        FROM record asked JOIN record every USING (person_id) JOIN sharing s ON s.record_id = every.id
        LEFT JOIN LATERAL unnest(s.labels) AS label ON true
        WHERE asked.id = $1 AND asked.sharing_off_at IS NULL AND s.ended_at IS NULL AND s.ends_at > now()
        AND s.grantee = ANY(ARRAY(SELECT team_id FROM account_team WHERE account_id = $2 UNION ALL SELECT $2))
        AND (s.kind <> 'glass' OR EXISTS (SELECT FROM session o WHERE o.number = s.session_number
                                          AND o.ended_at IS NULL))
        """,
        record,
        account,
    )
    found = set(row["labels"] or ())
    return [label for label in labels.LABELS if label in found], bool(row["broken"])


async def contributors(pool: Pool, record: uuid.UUID) -> list[str]:
    """The organisations that contribute to a record, by name."""
    rows = await pool.fetch(
        """
        SELECT DISTINCT organisation.name FROM record asked JOIN record every USING (person_id)
        JOIN resource person ON person.id = every.id JOIN organisation ON organisation.id = ANY(person.organisations)
        WHERE asked.id = $1 ORDER BY 1
        """,
        record,
    )
    return [row["name"] for row in rows]


async def teams_like(pool: Pool, text: str) -> list[tuple[uuid.UUID, str, str]]:
    """Teams by a part of their name or their organisation's: number, name, organisation. What they are is no secret."""
    rows = await pool.fetch(
        """
        SELECT team.id, team.name, organisation.name AS organisation
        FROM team JOIN organisation ON organisation.id = organisation_id
        WHERE position(lower($1) in lower(team.name || ' ' || organisation.name)) > 0 ORDER BY 3, 2 LIMIT 50
        """,
        text,
    )
    return [(row["id"], row["name"], row["organisation"]) for row in rows]


async def team_named(pool: Pool, team: uuid.UUID) -> tuple[str, str] | None:
    """The name of a team and its organisation's; None for no such team."""
    row = await pool.fetchrow(
        "SELECT team.name, o.name AS organisation FROM team JOIN organisation o ON o.id = organisation_id"
        " WHERE team.id = $1",
        team,
    )
    return (row["name"], row["organisation"]) if row else None


async def is_on(pool: Pool | Connection, record: uuid.UUID) -> bool:
    """Whether anything is shared at all."""
    return not await pool.fetchval(
        """
        SELECT EXISTS (SELECT FROM record asked JOIN record every USING (person_id)
                       WHERE asked.id = $1 AND every.sharing_off_at IS NOT NULL)
        """,
        record,
    )


async def is_same_person(pool: Pool | Connection, one: uuid.UUID, other: uuid.UUID) -> bool:
    """Whether two records are one person's."""
    return bool(
        await pool.fetchval(
            "SELECT EXISTS (SELECT FROM record a JOIN record b USING (person_id) WHERE a.id = $1 AND b.id = $2)",
            one,
            other,
        )
    )


async def is_its_own(pool: Pool | Connection, record: uuid.UUID, organisation: uuid.UUID) -> bool:
    """Whether an organisation contributes to this very record, whatever it is joined to."""
    return bool(
        await pool.fetchval(
            """
            SELECT EXISTS (
                SELECT FROM resource WHERE id = $1 AND type = 'Patient' AND organisations @> ARRAY[$2::uuid]
            )
            """,
            record,
            organisation,
        )
    )


async def is_of_organisation(pool: Pool | Connection, record: uuid.UUID, organisation: uuid.UUID) -> bool:
    """Whether an organisation contributes to a record."""
    return bool(
        await pool.fetchval(
            """
            SELECT EXISTS (SELECT FROM record asked JOIN record every USING (person_id)
                           JOIN resource person ON person.id = every.id AND person.organisations @> ARRAY[$2::uuid]
                           WHERE asked.id = $1)
            """,
            record,
            organisation,
        )
    )


async def switch(pool: Pool, reader: Reader, record: uuid.UUID, *, on: bool) -> None:
    """Stop sharing altogether (each team still sees what it contributed itself), or share again what was shared.

    Raises SharingError.
    """

    async def work(connection: Connection) -> None:
        await lock(connection, record)
        await check_decides(connection, reader, record)
        await connection.execute(
            """
            UPDATE record SET sharing_off_at = CASE WHEN $2 THEN NULL ELSE coalesce(sharing_off_at, now()) END
            WHERE person_id = (SELECT person_id FROM record WHERE id = $1) AND NOT ($2 AND EXISTS (
                SELECT FROM account other
                WHERE other.record_id = record.id AND other.ended_at IS NULL AND other.id <> $3
            ))
            """,
            record,
            on,
            reader.account,
        )
        await keep(connection, reader.actor, "sharing-on" if on else "sharing-off", patients=[record])

    await retried(pool, work)


async def freeze(pool: Pool, actor: str, record: uuid.UUID, reason: str) -> None:
    """Close a record to everybody, its patient too; what comes in is still applied. Raises SharingError."""
    if not reason.strip():
        raise SharingError("reason: say why the record is closed")
    await _set_frozen(pool, actor, record, reason.strip()[:1000])


async def unfreeze(pool: Pool, actor: str, record: uuid.UUID, *, organisation: uuid.UUID | None = None) -> None:
    """Open it again, as it was shared before; for an ``organisation`` what its people closed. Raises SharingError."""
    if organisation is not None and await _frozen_by_others(pool, record, organisation):
        raise SharingError("another organisation closed the record", forbidden=True)
    await _set_frozen(pool, actor, record, None)


async def _frozen_by_others(pool: Pool, record: uuid.UUID, organisation: uuid.UUID) -> bool:
    return bool(
        await pool.fetchval(
            """
            SELECT bool_or(every.frozen_at IS NOT NULL AND account.organisation_id IS DISTINCT FROM $2)
            FROM record asked JOIN record every USING (person_id)
            LEFT JOIN account ON account.id = substring(every.frozen_by FROM '^account/([0-9a-f-]{36})')::uuid
            WHERE asked.id = $1
            """,
            record,
            organisation,
        )
    )


async def _set_frozen(pool: Pool, actor: str, record: uuid.UUID, reason: str | None) -> None:
    async def work(connection: Connection) -> None:
        await lock(connection, record)
        done = await connection.fetch(
            """
            UPDATE record SET frozen_at = CASE WHEN $3::text IS NOT NULL THEN coalesce(frozen_at, now()) END,
                frozen_by = CASE WHEN $3 IS NOT NULL THEN $2 END, frozen_reason = $3
            WHERE person_id = (SELECT person_id FROM record WHERE id = $1) RETURNING id
            """,
            record,
            actor,
            reason,
        )
        if not done:
            raise SharingError("there is no such record")
        await keep(connection, actor, "freeze" if reason is not None else "unfreeze", patients=[record], reason=reason)

    await retried(pool, work)


def checked(wanted: Sequence[str]) -> list[str]:
    """The labels that are wanted, in their order. Raises SharingError."""
    if unknown := [each for each in wanted if each not in labels.LABELS]:
        raise SharingError(f"labels: {unknown[0][:40]} is none of {', '.join(labels.LABELS)}")
    return [each for each in labels.LABELS if each in wanted]


async def is_anothers(connection: Connection, reader: Reader, record: uuid.UUID) -> bool:
    """Whether a record has the account of somebody else: joined to the reader's, it is not his to open for ever."""
    return bool(
        await connection.fetchval(
            "SELECT EXISTS (SELECT FROM account WHERE record_id = $1 AND ended_at IS NULL AND id IS DISTINCT FROM $2)",
            record,
            reader.account,
        )
    )


async def check_decides(connection: Pool | Connection, reader: Reader, record: uuid.UUID) -> None:
    """Raise SharingError where it is not the reader who decides."""
    if not await decides(connection, reader, record):
        raise SharingError("only the patient decides this, in their own record", forbidden=True)


async def name_of(connection: Connection, number: uuid.UUID, role: str) -> str | None:
    """The name of a team or of a living account that may have this role."""
    if role == TEAM:
        found: str | None = await connection.fetchval("SELECT name FROM team WHERE id = $1", number)
    else:
        found = await connection.fetchval(
            """
            SELECT name FROM account
            WHERE id = $1 AND ended_at IS NULL AND (kind = 'professional') = ($2 = 'professional')
            """,
            number,
            role,
        )
    return found


async def sixteen(connection: Connection, record: uuid.UUID) -> datetime | None:
    """His sixteenth birthday, where it is yet to come."""
    found: datetime | None = await connection.fetchval(
        """
        SELECT date_from + interval '16 years' FROM resource
        WHERE id = $1 AND type = 'Patient' AND date_from + interval '16 years' > now()
        """,
        record,
    )
    return found


async def _end(connection: Connection, reader: Reader, record: uuid.UUID, grantee: uuid.UUID) -> None:
    """What was said of a grantee before counts no more; what somebody else's account said of its record stays."""
    await connection.execute(
        """
        UPDATE sharing SET ended_at = now(), ended_by = $3 WHERE grantee = $2 AND ended_at IS NULL AND kind <> 'glass'
        AND record_id = ANY(ARRAY(
            SELECT every.id FROM record asked JOIN record every USING (person_id)
            WHERE asked.id = $1 AND NOT EXISTS (
                SELECT FROM account other WHERE other.record_id = every.id AND other.ended_at IS NULL AND other.id <> $4
            )
        ))
        """,
        record,
        grantee,
        reader.actor,
        reader.account,
    )


async def was_refused(connection: Connection, record: uuid.UUID, grantee: uuid.UUID) -> bool:
    """Whether the patient's living word about somebody is a no."""
    return bool(
        await connection.fetchval(
            """
            SELECT EXISTS (
                SELECT FROM record asked JOIN record every USING (person_id) JOIN sharing s ON s.record_id = every.id
                WHERE asked.id = $1 AND s.grantee = $2 AND s.kind = 'explicit' AND s.labels = '{}'
                AND s.ended_at IS NULL
            )
            """,
            record,
            grantee,
        )
    )


async def lock(connection: Connection, record: uuid.UUID) -> None:
    """Lock all records of the person, so that none is joined or parted meanwhile; waits for who is about to."""
    locked: list[uuid.UUID] = []
    while True:
        rows = await connection.fetch(
            """
            SELECT every.id FROM record asked JOIN record every USING (person_id) WHERE asked.id = $1 ORDER BY 1
            """,
            record,
        )
        members = [row["id"] for row in rows]
        if members == locked:
            return
        await connection.execute("SELECT FROM record WHERE id = ANY($1) ORDER BY id FOR UPDATE", members)
        locked = members


async def _of(connection: Pool | Connection, record: uuid.UUID, number: uuid.UUID | None = None) -> list[Sharing]:
    rows = await connection.fetch(
        """
        SELECT s.grantee, s.role, s.kind, s.labels, s.confidential, s.contributed, s.acts, s.created_at,
               nullif(s.ends_at, 'infinity'::timestamptz) AS until, coalesce(team.name, account.name, '') AS name,
               coalesce(organisation.name, '') AS organisation
        FROM record asked JOIN record every USING (person_id) JOIN sharing s ON s.record_id = every.id
        LEFT JOIN team ON team.id = s.grantee
        LEFT JOIN account ON account.id = s.grantee
        LEFT JOIN organisation ON organisation.id = coalesce(team.organisation_id, account.organisation_id)
        WHERE asked.id = $1 AND s.ended_at IS NULL AND (s.ends_at > now() OR s.contributed)
          AND ($3::uuid IS NULL OR s.id = $3)
        ORDER BY s.role, organisation, name, s.created_at LIMIT $2
        """,
        record,
        _MOST,
        number,
    )
    return [
        Sharing(
            row["grantee"], row["role"], row["kind"], row["name"], row["organisation"], tuple(row["labels"]),
            row["confidential"], row["contributed"], row["acts"], row["created_at"], row["until"],
        )
        for row in rows
    ]  # fmt: skip
