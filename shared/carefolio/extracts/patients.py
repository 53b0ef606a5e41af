"""A set of a practice's patients, from rows to the record: whose record, what the rows are today, what that changes.

Whole, a patient is all his rows: what the record has of the practice and the rows do not say is removed. By a delta he
is the rows that changed, and those that they hang together with. One transaction for the set; what cannot be applied is
parked with its reason, row by row or the whole patient, and holds up nobody else.
"""

from __future__ import annotations

import uuid
from typing import Any

from carefolio.cloud.database import Connection
from carefolio.cloud.telemetry import where
from carefolio.emis.chunks import NOBODY, NUMBERS
from carefolio.extracts import practices, sets
from carefolio.extracts.agreements import REMOVE, Agreement
from carefolio.extracts.coding import coding
from carefolio.extracts.identity import identify
from carefolio.extracts.rows import PATIENT
from carefolio.extracts.sets import Patient, Practice
from carefolio.mapping.emis import (
    CANDIDATES,
    ColumnError,
    Context,
    GpPatient,
    Made,
    UnknownCodeError,
    ended_episode,
    ended_patient,
    gp_patient,
    map_items,
    merged_patient,
    without_emails,
)
from carefolio.mapping.emis.model import guid
from carefolio.record.ids import derived_text
from carefolio.record.labels import GENERAL
from carefolio.record.many import Feed, there, write_many
from carefolio.record.matching import Held, Rejected
from carefolio.record.rows import Known, Row, deletion, make_row, without_head


async def apply_set(
    connection: Connection, batch: Any, subject: dict[str, Any], agreement: Agreement
) -> dict[str, Any]:
    """Apply a set: {practice: number, patients: [GUID], whole: bool}. In the caller's transaction."""
    row = await connection.fetchrow(
        "SELECT guid, organisation_id, clock_timestamp() AS now FROM extract_practice WHERE number = $1",
        subject["practice"],
    )
    practice = Practice(subject["practice"], str(row["guid"]), row["organisation_id"], agreement, batch, row["now"])
    patients = await sets.patients_of(connection, practice, subject["patients"], whole=subject["whole"])
    await sets.read(connection, practice, patients)
    known_codes = coding(agreement.id, batch["number"])
    codes, drugs = await sets.need_codes(connection, known_codes, patients)
    codes |= await sets.read_people(connection, practice, patients, known_codes)
    # Whoever else writes into these records waits, or is waited for.
    records = sorted(patient.record for patient in patients if patient.record is not None)
    await connection.execute("SELECT FROM record WHERE id = ANY($1) ORDER BY id FOR UPDATE", records)
    named = practices.people_in(line for patient in patients for line in patient.all_lines())
    for users in (users for patient in patients[:1] for users in patient.items.session_users.values()):
        named |= {guid(user) for user in users}
    context = await practices.shared_context(connection, agreement, practice.guid, practice.number, _no_number, named)
    context.codes, context.drugs = codes, drugs
    prepared: list[tuple[Patient, list[Made], GpPatient | None]] = []
    for patient in patients:
        made = await _prepared(connection, practice, patient, context)
        if made is not None:
            prepared.append((patient, *made))
    rows = await _versions(connection, practice, prepared)
    feed = Feed(f"agreement/{agreement.name}", practice.organisation, f"extract {batch['stamp']}")
    await write_many(connection, feed, rows, practice.now)
    await _note(connection, practice, patients)
    counts = practices.counted([each for each, _ in rows])
    return counts | dict(practice.counts) | {"practice": practice.guid, "reasons": dict(practice.reasons)}


def _no_number(kind: str, key: str) -> str:
    raise ValueError(f"{kind} before its patient is known")


async def _prepared(
    connection: Connection, practice: Practice, patient: Patient, context: Context
) -> tuple[list[Made], GpPatient | None] | None:
    """What a patient's rows are today; None where nothing is to be written for him."""
    if not patient.wants_person:
        return _mapped(practice, patient, context, None)
    if patient.person is None:
        practice.reasons["his row of Admin_Patient has not come"] += 1
        patient.parked.append((None, "his row of Admin_Patient has not come", None))
        return None
    if patient.gone:
        return await _ended(connection, practice, patient)
    try:
        # The references to himself are filled in when his record is known.
        context.of(_numbers(practice, patient), str(patient.record or NOBODY))
        person = _person(patient, context)
        if person.dummy:
            patient.status = "dummy"
            practice.counts["dummies"] += 1
            return None
        await identify(connection, practice, patient, person)
    except ColumnError as error:
        _park(practice, patient, str(error), error)
        return None
    except (Held, Rejected) as held:
        patient.doubt = getattr(held, "doubt", None)
        _park(practice, patient, held.reason, None)
        return None
    return _mapped(practice, patient, context, person)


def _park(practice: Practice, patient: Patient, reason: str, error: Exception | None) -> None:
    practice.reasons[reason] += 1
    patient.parked.append((patient.person, reason, error))
    patient.status = "parked"


def _person(patient: Patient, context: Context) -> GpPatient:
    assert patient.person is not None
    return gp_patient(context, patient.person, patient.history, patient.about_himself)


def _numbers(practice: Practice, patient: Patient) -> Any:
    owner, guid = str(practice.organisation), patient.guid

    def number(kind: str, key: str) -> str:
        return derived_text(kind, owner, "emis", guid, key)

    return number


def _mapped(
    practice: Practice, patient: Patient, context: Context, person: GpPatient | None
) -> tuple[list[Made], GpPatient | None] | None:
    """The resources of a patient's rows; a fault of ours in one patient parks him, and no other."""
    context.of(_numbers(practice, patient), str(patient.record))
    try:
        if person is not None:
            # Once more, now that his record is known.
            person = _person(patient, context)
        made, failed = map_items(context, patient.items, patient.roots)
    except ColumnError as error:
        _park(practice, patient, str(error), error)
        return None
    except Exception as error:
        _park(practice, patient, f"it could not be mapped: {type(error).__name__} at {where(error)}", error)
        return None
    for line, failure in failed:
        practice.reasons[str(failure)] += 1
        patient.parked.append((line, str(failure), failure))
    if person is not None:
        patient.status = "loaded"
        assert patient.person is not None
        made.append(Made("EpisodeOfCare", f"{patient.guid}/{person.episode_key}", person.episode, patient.person))
    return made, person


async def _ended(
    connection: Connection, practice: Practice, patient: Patient
) -> tuple[list[Made], GpPatient | None] | None:
    """Out of scope: he has left, died, or said no. His history stays, marked as no longer updated (or it goes)."""
    already, patient.status = patient.status == "ended", "ended"
    if patient.record is None or already:
        return None
    practice.counts["ended"] += 1
    patient.ending = True
    patient.whole, patient.roots = False, set()
    if practice.agreement.roll_off == REMOVE:
        await sets.read_items(connection, practice, patient)
        patient.roots = sets.touched(patient)
    return [], None


async def _versions(
    connection: Connection, practice: Practice, prepared: list[tuple[Patient, list[Made], GpPatient | None]]
) -> list[tuple[Row, uuid.UUID]]:
    """What has to be written: the difference between what the rows say and what the record has."""
    made: dict[uuid.UUID, tuple[Patient, Made]] = {}
    known: dict[uuid.UUID, Known] = {}
    types: dict[uuid.UUID, str] = {}
    candidates: dict[str, str] = {}
    held: set[str] = set()
    for patient, of_patient, _ in prepared:
        number = _numbers(practice, patient)
        for each in of_patient:
            made[uuid.UUID(number(each.type, each.key))] = (patient, each)
        if not patient.is_first:
            for table, key in sets.touched(patient) if patient.whole else patient.roots or ():
                for kind in CANDIDATES[table]:
                    candidates[number(kind, key)] = kind
        for line, _, _ in patient.parked:
            if line is not None:
                # What cannot be said anew stays as it was said, until it can.
                held |= {number(kind, line.key) for kind in CANDIDATES.get(line.table, ())}
    wanted = {str(key) for key in made} | set(candidates)
    for found_key, found in (await there(connection, sorted(wanted))).items():
        known[found_key] = found
        if str(found_key) in candidates:
            types[found_key] = candidates[str(found_key)]
    sources = await practices.files_of(connection, {each.line.file for _, each in made.values()})
    latest = await connection.fetchval("SELECT id FROM extract_file WHERE batch_id = $1 LIMIT 1", practice.batch["id"])
    rows: list[tuple[Row, uuid.UUID]] = []
    for number_of, (patient, each) in made.items():
        source = sources[each.line.file]
        row = _row(practice, patient, each, number_of, known.get(number_of), source)
        if row is not None:
            rows.append((row, source))
    for number_of, kind in types.items():
        current = known[number_of]
        if number_of not in made and current.live and str(number_of) not in held:
            rows.append((deletion(number_of, kind, current), latest))
    rows += await _people(connection, practice, prepared, sources, set(made), latest)
    return rows


async def _people(
    connection: Connection,
    practice: Practice,
    prepared: list[tuple[Patient, list[Made], GpPatient | None]],
    sources: dict[int, uuid.UUID],
    made: set[uuid.UUID],
    latest: uuid.UUID,
) -> list[tuple[Row, uuid.UUID]]:
    """The Patients, which others may write too, and the registrations that are over."""
    concerned = {p.record: (p, person) for p, _, person in prepared if person is not None or p.ending}
    found = await connection.fetch(
        """
        SELECT *, true AS live FROM resource
        WHERE patient_id = ANY($1) AND (type = 'Patient' OR type = 'EpisodeOfCare' AND organisations @> ARRAY[$2::uuid])
        """,
        list(concerned),
        practice.organisation,
    )
    there = {row["patient_id"]: row for row in found if row["type"] == "Patient"}
    today = practice.now.date().isoformat()
    rows: list[tuple[Row | None, uuid.UUID]] = []
    for record, (patient, person) in concerned.items():
        assert record is not None
        before = there.get(record)
        current = without_head(before["content"]) if before is not None else None
        owners = list(before["organisations"]) if before is not None else []
        if person is None:
            resource = ended_patient(current or {"resourceType": "Patient"}, patient.guid)
            source = latest
        else:
            mine = without_emails(person.patient) if patient.email_is_shared else person.patient
            resource = merged_patient(current, mine, hidden=person.hidden, again=practice.organisation in owners)
            owners = list(dict.fromkeys([*owners, practice.organisation]))
            assert patient.person is not None
            source = sources.get(patient.person.file, latest)
        row = make_row(
            record, resource, _known(before), patient_id=record, organisations=owners, source=source,
            now=practice.now, label=before["label"] if before is not None else GENERAL,
            place=f"{patient.person.table} row {patient.person.number}" if patient.person is not None else None,
        )  # fmt: skip
        rows.append((row, source))
    for episode in found:
        patient, person = concerned[episode["patient_id"]]
        if episode["type"] != "EpisodeOfCare" or episode["id"] in made:
            continue
        over = ended_episode(without_head(episode["content"]), today)
        row = make_row(
            episode["id"], over, _known(episode), patient_id=episode["patient_id"],
            organisations=list(episode["organisations"]), source=latest, now=practice.now, label=episode["label"],
            place=episode["place"],
        )  # fmt: skip
        rows.append((row, latest))
    return [(row, source) for row, source in rows if row is not None]


_COLUMNS = [name for name in Known.__slots__ if name not in ("label_is_his", "frozen")]


def _known(row: Any) -> Known | None:
    return None if row is None else Known(**{name: row[name] for name in _COLUMNS})


async def _note(connection: Connection, practice: Practice, patients: list[Patient]) -> None:
    """What became of the patients, and what is parked."""
    told = [patient for patient in patients if patient.status in ("loaded", "ended", "parked", "dummy")]
    await connection.execute(
        """
        INSERT INTO extract_patient AS p (practice, patient, record_id, status, doubt)
        SELECT $1, t.* FROM unnest($2::uuid[], $3::uuid[], $4::text[], $5::text[]) AS t (patient, record, status, doubt)
        ON CONFLICT (practice, patient) DO UPDATE SET record_id = coalesce(p.record_id, excluded.record_id),
            status = excluded.status, doubt = excluded.doubt,
            since = CASE WHEN p.status = excluded.status THEN p.since ELSE now() END
        WHERE (p.record_id, p.status, p.doubt) IS DISTINCT FROM (excluded.record_id, excluded.status, excluded.doubt)
        """,
        practice.number,
        [uuid.UUID(patient.guid) for patient in told],
        [patient.record for patient in told],
        [patient.status for patient in told],
        [patient.doubt for patient in told],
    )
    parked = [
        (
            uuid.UUID(patient.guid),
            NUMBERS[line.table] if line is not None else PATIENT,
            uuid.UUID(line.key) if line is not None else uuid.UUID(NOBODY),
            line.file if line is not None else 0,
            line.number if line is not None else 0,
            reason,
            error.code if isinstance(error, UnknownCodeError) else None,
            isinstance(error, UnknownCodeError) and error.drug,
            patient.doubt,
        )
        for patient in patients
        for line, reason, error in patient.parked
    ]
    practice.counts["parked"] += len(parked)
    # What was tried again and went well, or ill for another reason, is not parked as it was.
    await connection.execute(
        """
        DELETE FROM extract_parked p USING unnest($2::uuid[], $3::boolean[]) AS t (patient, whole)
        WHERE p.practice = $1 AND p.patient = t.patient AND (t.whole OR p.row_id = ANY($4))
          AND (p.patient, p.kind, p.row_id, p.reason) NOT IN (
              SELECT * FROM unnest($5::uuid[], $6::smallint[], $7::uuid[], $8::text[])
          )
        """,
        practice.number,
        [uuid.UUID(patient.guid) for patient in patients],
        [patient.wants_person and patient.roots is None for patient in patients],
        [uuid.UUID(key) for patient in patients for _, key in patient.roots or ()],
        *([each[at] for each in parked] for at in (0, 1, 2, 5)),
    )
    await connection.executemany(
        """
        INSERT INTO extract_parked AS p (practice, patient, kind, row_id, file, number, reason, waits_for, drug, doubt)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
        ON CONFLICT (practice, patient, kind, row_id) DO UPDATE SET file = excluded.file, number = excluded.number
        """,
        [(practice.number, *each) for each in parked],
    )


async def park(connection: Connection, practice: int, patient: uuid.UUID, reason: str) -> dict[str, Any]:
    """Park a patient who could not be applied at all; returns what a set's result says of him."""
    number = await connection.fetchval("SELECT guid::text FROM extract_practice WHERE number = $1", practice)
    await connection.execute(
        """
        WITH told AS (
            INSERT INTO extract_patient (practice, patient, status) VALUES ($1, $2, 'parked')
            ON CONFLICT (practice, patient) DO UPDATE SET status = 'parked', since = now()
        )
        INSERT INTO extract_parked (practice, patient, kind, row_id, file, number, reason)
        VALUES ($1, $2, $3, $4, 0, 0, $5)
        ON CONFLICT (practice, patient, kind, row_id) DO UPDATE SET reason = excluded.reason
        """,
        practice,
        patient,
        PATIENT,
        uuid.UUID(NOBODY),
        reason,
    )
    return {"parked": 1, "practice": number, "reasons": {reason: 1}}


def _row(
    practice: Practice, patient: Patient, each: Made, key: uuid.UUID, current: Known | None, source: uuid.UUID
) -> Row | None:
    label = each.label or GENERAL
    if current is not None and (current.label != GENERAL or current.label_is_his):
        # Who may see what is there is the patient's to change; a feed takes no protection away.
        label = current.label
    return make_row(
        key,
        each.resource,
        current,
        patient_id=patient.record,
        organisations=[practice.organisation],
        source=source,
        now=practice.now,
        label=label,
        place=f"{each.line.table} row {each.line.number}",
        available_from=current.available_from if current is not None else None,
    )
