"""One statement changes the record: old versions to history, new ones in place, an audit line, the message's end."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from carefolio.cloud import outbox
from carefolio.cloud.database import Connection
from carefolio.cloud.topics import RECORD_CHANGED
from carefolio.record import parameters
from carefolio.record.rows import BEGINNING, Known, Row
from carefolio.record.sources import StoredMessage


class ChangedMeanwhileError(Exception):
    """Somebody else wrote the same resource at the same moment; all of it has to be tried again."""


class StrangerError(Exception):
    """An app writes into a record that it does not read."""


class EndedMeanwhileError(Exception):
    """Another delivery of the same message was faster."""


# How the statement ends itself (migration 0004).
_CHANGED, _STRANGER = "CF001", "CF002"
# What two writers at the same moment can do to each other; each is whole the second time.
RETRIED = (
    ChangedMeanwhileError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.UniqueViolationError,
)


@dataclass(frozen=True, slots=True)
class Origin:
    """What changes the record: a message, or a person's decision or an ``app`` (``message_id`` None).

    ``id`` becomes meta.source; ``seq`` is the order of receipt and ``time`` the sender's clock (of a message);
    ``welcome``: that he may write into the records is known already.
    """

    id: uuid.UUID
    actor: str
    message_id: uuid.UUID | None = None
    organisation_id: uuid.UUID | None = None
    team_id: uuid.UUID | None = None
    seq: int = 0
    time: datetime = BEGINNING
    app: bool = False
    welcome: bool = False

    @classmethod
    def of(cls, message: StoredMessage, time: datetime) -> Origin:
        return cls(
            message["id"],
            f"sender/{message['sender_id']}",
            message["id"],
            message["organisation_id"],
            message["team_id"],
            message["seq"],
            time,
        )


async def known(
    connection: Connection,
    numbers: list[uuid.UUID],
    with_content: Sequence[str],
    *,
    aliases: bool = True,
    together: Sequence[uuid.UUID] = (),
) -> dict[uuid.UUID, Known]:
    """What is there of these ids, by the id that was asked for (by ``aliases`` a changed key leads to what it was).

    Contents come along for the types of ``with_content``. Read it after the record was locked. Raises
    ChangedMeanwhileError where the records of a person are not these ``together`` any more: somebody joined or parted
    them while the lock was waited for.
    """
    await parameters.refresh(connection)
    rows = await connection.fetch(
        """
        SELECT wanted.id AS asked, r.id, r.version, r.digest, r.seq, r.source_time, r.organisations, r.patient_id,
               r.label, r.available_from, CASE WHEN r.type = ANY($2) THEN r.content END AS content,
               CASE WHEN wanted.id IS NULL THEN ARRAY(
                   SELECT other.id FROM record other WHERE other.person_id = (
                       SELECT person_id FROM record WHERE record.id = ($4::uuid[])[1]
                   )
               ) END AS together, gone.id AS gone_id, gone.version AS gone_version, gone.seq AS gone_seq,
               gone.organisations AS gone_organisations, gone.patient_id AS gone_patient_id, gone.label AS gone_label,
               his.label AS his_label, closed.frozen_at IS NOT NULL AS frozen
        FROM unnest(
            (SELECT $1::uuid[] || CASE WHEN $4::uuid[] = '{}' THEN '{}' ELSE '{NULL}'::uuid[] END)
        ) AS wanted (id)
        LEFT JOIN resource_alias alias ON alias.id = wanted.id AND $3
        LEFT JOIN resource r ON r.id = coalesce(alias.target, wanted.id)
        LEFT JOIN resource_history gone ON gone.id = wanted.id AND gone.valid_to = 'infinity' AND r.id IS NULL
        LEFT JOIN item_label his ON his.resource_id = coalesce(r.id, gone.id)
        LEFT JOIN record closed ON closed.id = coalesce(r.patient_id, gone.patient_id)
        WHERE r.id IS NOT NULL OR gone.id IS NOT NULL OR wanted.id IS NULL
        """,
        numbers,
        list(with_content),
        aliases,
        list(together),
    )
    found = {}
    for row in rows:
        if row["asked"] is None:
            if set(row["together"]) != set(together):
                raise ChangedMeanwhileError
            continue
        live = row["id"] is not None
        at = "" if live else "gone_"
        found[row["asked"]] = Known(
            id=row[f"{at}id"],
            version=row[f"{at}version"],
            live=live,
            patient_id=row[f"{at}patient_id"],
            digest=row["digest"] or b"",
            seq=row[f"{at}seq"],
            source_time=row["source_time"] or BEGINNING,
            organisations=row[f"{at}organisations"],
            label=row["his_label"] or row[f"{at}label"],
            available_from=row["available_from"],
            content=row["content"],
            label_is_his=row["his_label"] is not None,
            frozen=row["frozen"],
        )
    return found


async def write(
    connection: Connection,
    origin: Origin,
    rows: Sequence[Row],
    now: datetime,
    *,
    patients: Sequence[uuid.UUID],
    seen: Sequence[uuid.UUID] = (),
    notes: Sequence[str] = (),
    exact: bool = False,
) -> None:
    """Write versions, and end the message where the origin is one. ``patients`` are those that it is about.

    ``seen`` are resources that were there: one that did not change knows from now on that this message said the
    same. ``exact``: the rows bring their own seq and time, older ones too. Raises EndedMeanwhileError and
    ChangedMeanwhileError, which must undo the transaction; of what an app writes nothing is left anyway, and
    StrangerError tells that a record is not the app's to write into.
    """
    try:
        counted = await _written(connection, origin, rows, now, patients, seen, notes, exact=exact)
    except asyncpg.PostgresError as failure:
        if failure.sqlstate == _CHANGED:
            raise ChangedMeanwhileError from None
        if failure.sqlstate == _STRANGER:
            raise StrangerError from None
        raise
    if counted["told"]:
        outbox.kick_soon()
    if origin.message_id is not None and not counted["ended"]:
        raise EndedMeanwhileError
    if counted["written"] < len(rows):
        raise ChangedMeanwhileError


async def _written(
    connection: Connection,
    origin: Origin,
    rows: Sequence[Row],
    now: datetime,
    patients: Sequence[uuid.UUID],
    seen: Sequence[uuid.UUID],
    notes: Sequence[str],
    *,
    exact: bool,
) -> asyncpg.Record:
    """What an app writes is one statement, without a transaction around it: all that could be wrong ends it."""
    return await connection.fetchrow(
        """
        WITH given AS MATERIALIZED (
            -- Arguments that a plan could be made for anew each time: planning costs as much as the work.
            SELECT $1::uuid[] AS ids, $22::uuid[] AS seen, $27::bool AS exact, $30::bool AS by_app
        ), incoming AS (
            SELECT t.* FROM given, unnest(
                given.ids, $2::text[], $3::int[], $4::text[], $5::bytea[], $6::text[], $7::text[],
                $8::timestamptz[], $9::timestamptz[], $10::uuid[], $11::text[], $12::text[], $13::timestamptz[],
                $25::bigint[], $26::timestamptz[], $28::text[], $29::text[], $31::bool[]
            ) AS t (id, type, version, content, digest, organisations, keys, date_from, date_to, patient_id, place,
                    label, available_from, seq, source_time, texts, ranges, confidential)
        ), kept AS (
            INSERT INTO resource_history (id, version, type, valid_from, valid_to, patient_id, organisations,
                                          team_id, label, message_id, place, seq, content, available_from, keys,
                                          date_from, date_to, texts, ranges, confidential, by_app)
            SELECT r.id, r.version, r.type, r.last_updated, $14::timestamptz,
                   coalesce(r.patient_id, incoming.patient_id), r.organisations,
                   r.team_id, r.label, r.message_id, r.place, r.seq, r.content, r.available_from, r.keys,
                   r.date_from, r.date_to, r.texts, r.ranges, r.confidential OR incoming.confidential, r.by_app
            FROM resource r JOIN incoming USING (id)
            UNION ALL
            SELECT id, incoming.version, incoming.type, $14::timestamptz, 'infinity', incoming.patient_id,
                   incoming.organisations::uuid[], coalesce(r.team_id, $15::uuid), incoming.label, $16::uuid,
                   incoming.place, $17::bigint, NULL, r.available_from, '{}', NULL, NULL, '{}', '{}', r.confidential,
                   r.by_app
            FROM incoming JOIN resource r USING (id) WHERE incoming.content IS NULL
        ), as_of_now AS (
            -- Whose it is, and that its author restricts it, is true of what it was before too.
            UPDATE resource_history h SET patient_id = coalesce(h.patient_id, incoming.patient_id),
                confidential = h.confidential OR incoming.confidential
            FROM incoming WHERE h.id = incoming.id AND h.valid_to < 'infinity'
              AND (h.patient_id IS NULL AND incoming.patient_id IS NOT NULL OR incoming.confidential > h.confidential)
        ), back AS (
            UPDATE resource_history h SET valid_to = $14 FROM incoming
            WHERE h.id = incoming.id AND h.valid_to = 'infinity' AND incoming.content IS NOT NULL
        ), gone AS (
            DELETE FROM resource r USING incoming
            WHERE r.id = incoming.id AND incoming.content IS NULL AND r.version = incoming.version - 1
            RETURNING r.id
        ), written AS (
            INSERT INTO resource AS r (id, type, version, last_updated, patient_id, organisations, team_id,
                                       message_id, place, seq, source_time, digest, content, keys,
                                       date_from, date_to, label, available_from, texts, ranges, by_app,
                                       confidential)
            SELECT id, type, version, $14, patient_id, organisations::uuid[],
                   $15, $16, place, coalesce(seq, $17), coalesce(source_time, $18), digest, content, keys::bigint[],
                   date_from, date_to, label, available_from,
                   ARRAY(SELECT json_array_elements_text(texts::json)), ranges::nummultirange, $30,
                   confidential
            FROM incoming WHERE content IS NOT NULL
            ON CONFLICT (id) DO UPDATE SET
                version = excluded.version, last_updated = excluded.last_updated,
                patient_id = coalesce(r.patient_id, excluded.patient_id),
                organisations = excluded.organisations, message_id = excluded.message_id,
                place = excluded.place,
                seq = CASE WHEN (SELECT exact FROM given) THEN excluded.seq ELSE greatest(r.seq, excluded.seq) END,
                source_time = CASE WHEN (SELECT exact FROM given) THEN excluded.source_time
                    ELSE greatest(r.source_time, excluded.source_time) END,
                digest = excluded.digest,
                content = excluded.content, keys = excluded.keys, date_from = excluded.date_from,
                date_to = excluded.date_to, label = excluded.label, available_from = excluded.available_from,
                texts = excluded.texts, ranges = excluded.ranges, by_app = excluded.by_app,
                confidential = excluded.confidential
            WHERE r.version = excluded.version - 1
            RETURNING id
        ), confirmed AS (
            UPDATE resource SET seq = greatest(seq, $17), source_time = greatest(source_time, $18) FROM given
            WHERE id = ANY(given.seen) AND NOT id = ANY(given.ids) AND (seq < $17 OR source_time < $18)
        ), noted AS (
            INSERT INTO audit (actor, organisation_id, action, patient_id, message_id, written)
            SELECT $19, $20, 'write', patient_id, $16, array_agg(concat_ws('/', type, id, version) ORDER BY id)
            FROM (SELECT coalesce(patient_id, $23) AS patient_id, type, id, version FROM incoming) AS of_patient
            GROUP BY patient_id
        ), changed AS (
            -- Whoever wants to know of it is told (carefolio.record.changes); a rebuild is no news.
            INSERT INTO record_change (ids, versions)
            SELECT array_agg(id), array_agg(version) FROM incoming, given
            WHERE NOT given.exact AND EXISTS (SELECT FROM subscription WHERE listening) HAVING count(*) > 0
            RETURNING 1
        ), told AS (
            INSERT INTO outbox (topic, ordering_key, data, attributes)
            SELECT $34, 'changes', convert_to('{}', 'UTF8'), '{}' FROM changed RETURNING 1
        ), ended AS (
            UPDATE message SET status = 'applied', reason = NULL, settled_at = $14, patient_id = $23,
                other_patients = $24, notes = $21, applied_seq = nextval('change_seq'),
                life = life || jsonb_build_object('at', $14::timestamptz, 'status', 'applied')
            WHERE id = $16 AND status = 'received' RETURNING id
        ), tied AS (
            -- A team that contributes to a record sees of it what it sees of its patients, unless the patient said.
            INSERT INTO sharing AS s (record_id, grantee, role, kind, labels, contributed, created_by)
            SELECT patient, team.id, 'team', 'implied', team.labels, true, $19
            FROM team, unnest($32::uuid[]) AS t (patient) WHERE team.id = $15
            ON CONFLICT (record_id, grantee) WHERE ended_at IS NULL AND kind <> 'glass'
            DO UPDATE SET contributed = true WHERE NOT s.contributed
        ), new_records AS (
            INSERT INTO record (id, person_id, created_at)
            SELECT DISTINCT patient_id, patient_id, $14::timestamptz FROM incoming, given
            WHERE given.by_app AND patient_id IS NOT NULL
            ON CONFLICT DO NOTHING
        ), strangers AS (
            SELECT FROM given, incoming JOIN resource patient ON patient.id = incoming.patient_id
            WHERE given.by_app AND NOT $33 AND NOT patient.organisations @> ARRAY[$20::uuid]
              -- Nobody is a stranger to his own record: there his number is the contributor's.
              AND NOT EXISTS (SELECT FROM record own JOIN record asked USING (person_id)
                              WHERE own.id = $20 AND asked.id = patient.id)
        ), outdated AS (
            SELECT FROM given, incoming LEFT JOIN resource r USING (id)
            LEFT JOIN resource_history gone ON gone.id = incoming.id AND gone.valid_to = 'infinity' AND r.id IS NULL
            WHERE given.by_app AND incoming.version <> coalesce(r.version, gone.version, 0) + 1
        ), counted AS (
            SELECT (SELECT count(*) FROM written) + (SELECT count(*) FROM gone) AS written,
                   (SELECT count(*) FROM ended) AS ended
        )
        SELECT written, ended, (SELECT count(*) FROM told) AS told, CASE
            WHEN EXISTS (SELECT FROM strangers) THEN abort_write('CF002')
            WHEN by_app AND (written < cardinality(ids) OR EXISTS (SELECT FROM outdated)) THEN abort_write('CF001')
        END FROM counted, given
        """,
        [row.id for row in rows],
        [row.type for row in rows],
        [row.version for row in rows],
        [row.content for row in rows],
        [row.digest for row in rows],
        ["{" + ",".join(map(str, row.organisations)) + "}" for row in rows],
        [row.keys for row in rows],
        [row.date_from for row in rows],
        [row.date_to for row in rows],
        [row.patient_id for row in rows],
        [row.place for row in rows],
        [row.label for row in rows],
        [row.available_from for row in rows],
        now,
        origin.team_id,
        origin.message_id,
        origin.seq,
        origin.time,
        origin.actor,
        origin.organisation_id,
        list(notes),
        list(seen),
        patients[0] if patients else None,
        list(patients[1:]),
        [row.seq for row in rows],
        [row.source_time for row in rows],
        exact,
        [row.texts for row in rows],
        [row.ranges for row in rows],
        origin.app,
        [row.confidential for row in rows],
        list(dict.fromkeys(patients)) if origin.team_id is not None and origin.message_id is not None else [],
        origin.welcome,
        RECORD_CHANGED,
    )
