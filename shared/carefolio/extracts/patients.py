"""A set of a practice's patients, from rows to the record: whose record, what the rows are today, what that changes.

Whole, a patient is all his rows: what the record has of the practice and the rows do not say is removed. By a delta he
is the rows that changed, and those that they hang together with. One transaction for the set; what cannot be applied is
parked with its reason, row by row or the whole patient, and holds up nobody else.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson

from carefolio.cloud import outbox
from carefolio.cloud.database import Connection
from carefolio.cloud.telemetry import where
from carefolio.cloud.topics import MESSAGE_STORED
from carefolio.emis.chunks import KEYS, NOBODY, NUMBERS
from carefolio.extracts import practices
from carefolio.extracts.agreements import REMOVE, Agreement
from carefolio.extracts.coding import Coding, coding, needed
from carefolio.extracts.rows import CLEARED, DELETED, PATIENT, values_of
from carefolio.hl7 import Moment
from carefolio.mapping import Entry, Mapped, PatientIdentifier
from carefolio.mapping import codes as systems
from carefolio.mapping.emis import (
    CANDIDATES,
    Code,
    ColumnError,
    Context,
    Drug,
    GpPatient,
    Items,
    Line,
    Made,
    UnknownCodeError,
    column,
    ended_episode,
    ended_patient,
    gp_patient,
    map_items,
    merged_patient,
    without_emails,
)
from carefolio.mapping.emis.model import guid
from carefolio.mapping.emis.patient import PATIENT_GUID
from carefolio.record import matching
from carefolio.record.ids import derived_text
from carefolio.record.labels import GENERAL
from carefolio.record.many import Feed, there, write_many
from carefolio.record.matching import Held, Rejected
from carefolio.record.rows import Known, Row, deletion, make_row, without_head

_NAMES = {number: name for name, number in NUMBERS.items()}
_HISTORY, _REGISTRATION_AUDIT = NUMBERS["Admin_PatientHistory"], NUMBERS["Audit_RegistrationAudit"]
_OBSERVATION, _PROBLEM, _REFERRAL = (
    NUMBERS[f"CareRecord_{name}"] for name in ("Observation", "Problem", "ObservationReferral")
)
_DRUG, _ISSUE, _AUDIT, _SLOT = (
    NUMBERS[name]
    for name in ("Prescribing_DrugRecord", "Prescribing_IssueRecord", "Audit_PatientAudit", "Appointment_Slot")
)
_OBSERVATIONS = _NAMES[_OBSERVATION]
_ON_ONE_KEY = (_OBSERVATION, _PROBLEM, _REFERRAL)
_NOBODY = uuid.UUID(NOBODY)


@dataclass(slots=True)
class _Practice:
    """A set's practice, and what is told of it."""

    number: int
    guid: str
    organisation: uuid.UUID
    agreement: Agreement
    batch: Any
    now: datetime
    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class _Patient:
    """One patient of the set: his rows, and which of them are wanted (None for all)."""

    guid: str
    record: uuid.UUID | None
    status: str
    whole: bool
    is_first: bool
    items: Items = field(default_factory=Items)
    person: Line | None = None
    gone: bool = False
    history: list[Line] = field(default_factory=list)
    changed: set[tuple[int, str]] = field(default_factory=set)
    roots: set[tuple[str, str]] | None = None
    gone_rows: list[Line] = field(default_factory=list)
    about_himself: list[Line] = field(default_factory=list)
    parked: list[tuple[Line | None, str, Exception | None]] = field(default_factory=list)
    doubt: str | None = None
    email_is_shared: bool = False
    ending: bool = False

    @property
    def wants_person(self) -> bool:
        return self.whole or any(kind in (PATIENT, _HISTORY) for kind, _ in self.changed)

    def all_lines(self) -> Iterator[Line]:
        """Every row that is mapped, and his own."""
        yield from self.lines()
        yield from self.history
        for audits in self.items.audits.values():
            yield from audits
        if self.person is not None:
            yield self.person

    def lines(self) -> Iterator[Line]:
        """Every row that was read, those that are gone too."""
        for by_key in self.items.tables.values():
            yield from by_key.values()
        yield from self.gone_rows


async def apply_set(
    connection: Connection, batch: Any, subject: dict[str, Any], agreement: Agreement
) -> dict[str, Any]:
    """Apply a set: {practice: number, patients: [GUID], whole: bool}. In the caller's transaction."""
    row = await connection.fetchrow(
        "SELECT guid, organisation_id, clock_timestamp() AS now FROM extract_practice WHERE number = $1",
        subject["practice"],
    )
    practice = _Practice(subject["practice"], str(row["guid"]), row["organisation_id"], agreement, batch, row["now"])
    patients = await _patients(connection, practice, subject["patients"], whole=subject["whole"])
    await _read(connection, practice, patients)
    known_codes = coding(agreement.id, batch["number"])
    codes, drugs = await _need_codes(connection, known_codes, patients)
    codes |= await _read_people(connection, practice, patients, known_codes)
    # Whoever else writes into these records waits, or is waited for.
    records = sorted(patient.record for patient in patients if patient.record is not None)
    await connection.execute("SELECT FROM record WHERE id = ANY($1) ORDER BY id FOR UPDATE", records)
    named = practices.people_in(line for patient in patients for line in patient.all_lines())
    for users in (users for patient in patients[:1] for users in patient.items.session_users.values()):
        named |= {guid(user) for user in users}
    context = await practices.shared_context(connection, agreement, practice.guid, practice.number, _no_number, named)
    context.codes, context.drugs = codes, drugs
    prepared: list[tuple[_Patient, list[Made], GpPatient | None]] = []
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


async def _patients(
    connection: Connection, practice: _Practice, guids: Sequence[str], *, whole: bool
) -> list[_Patient]:
    rows = await connection.fetch(
        """
        SELECT wanted::text AS guid, known.record_id, coalesce(known.status, 'new') AS status
        FROM unnest($2::uuid[]) AS wanted LEFT JOIN extract_patient known ON practice = $1 AND patient = wanted
        ORDER BY wanted
        """,
        practice.number,
        guids,
    )
    # Who is not loaded yet, or was not here for a while, is read as a whole.
    return [
        _Patient(
            row["guid"],
            row["record_id"],
            row["status"],
            whole or row["status"] != "loaded",
            is_first=row["record_id"] is None,
        )
        for row in rows
    ]


async def _read(connection: Connection, practice: _Practice, patients: list[_Patient]) -> None:
    """The rows that are needed."""
    whole = {patient.guid: patient for patient in patients if patient.whole}
    if whole:
        rows = await connection.fetch(f"{_ROWS} WHERE practice = $1 AND patient = ANY($2::uuid[])", practice.number,
                                      list(whole))  # fmt: skip
        for row in rows:
            _take(whole[row["patient"]], row)
    by_delta = {patient.guid: patient for patient in patients if not patient.whole}
    if by_delta:
        await _read_changes(connection, practice, by_delta)
    await _read_sessions(connection, practice, patients)


_ROWS = "SELECT patient::text, kind, id::text, parent::text, file, number, state, row FROM extract_row"


# Of a patient, a row's GUID or its parent's.
_Pair = tuple[str, str]


async def _read_changes(connection: Connection, practice: _Practice, patients: dict[str, _Patient]) -> None:
    """What has changed, and what hangs together with it: parents, children, problems, issues, audits."""
    changes = await connection.fetch(
        """
        SELECT DISTINCT patient::text, kind, id::text FROM extract_change
        WHERE batch = $1 AND practice = $2 AND patient = ANY($3::uuid[])
        """,
        practice.batch["number"], practice.number, list(patients),
    )  # fmt: skip
    for row in changes:
        patients[row["patient"]].changed.add((row["kind"], row["id"]))
    # Every row once, by (patient, kind, GUID), those that are gone too.
    rows: dict[tuple[str, int, str], Any] = {}

    async def take(column: str, wanted: Iterable[_Pair], kinds: Sequence[int]) -> None:
        pairs = list(wanted)
        for row in await connection.fetch(
            f"""
            SELECT r.patient::text, r.kind, r.id::text, r.parent::text, r.file, r.number, r.state, r.row
            FROM unnest($2::uuid[], $3::uuid[]) AS w (patient, {column})
            JOIN extract_row r ON r.practice = $1 AND r.patient = w.patient AND r.{column} = w.{column}
             AND r.kind = ANY($4)
            """,  # noqa: S608 - one of two columns of ours
            practice.number, [patient for patient, _ in pairs], [each for _, each in pairs], kinds,
        ) if pairs else ():  # fmt: skip
            rows.setdefault((row["patient"], row["kind"], row["id"]), row)

    seen: set[_Pair] = {(row["patient"], row["id"]) for row in changes}
    await take("id", seen, _OF_PATIENTS)
    parents = {
        (row["patient"], row["parent"]) for row in rows.values()
        if row["parent"] and row["kind"] in (_OBSERVATION, _ISSUE, _AUDIT)
    }  # fmt: skip
    await take("id", parents - seen, _OF_PATIENTS)
    seen |= parents
    await take("parent", seen, (_OBSERVATION, _ISSUE, _AUDIT))
    _note_roots(patients, rows)
    siblings = {(patient.guid, key) for patient in patients.values() for _, key in patient.roots or ()} - seen
    await take("id", siblings, _ON_ONE_KEY)
    await take("parent", siblings, (_OBSERVATION, _AUDIT))
    for row in rows.values():
        _take(patients[row["patient"]], row)


# His own row and history are read whole, where they are read.
_OF_PATIENTS = [number for name, number in NUMBERS.items() if KEYS[name].patient and number not in (PATIENT, _HISTORY)]


def _note_roots(patients: dict[str, _Patient], rows: dict[tuple[str, int, str], Any]) -> None:
    """Which resources have to be made anew: of what changed, of what that is part of, and of its parts."""
    roots: dict[str, set[tuple[str, str]]] = {
        patient.guid: {(_root(kind), key) for kind, key in patient.changed} for patient in patients.values()
    }
    kinds: dict[_Pair, list[int]] = {}
    for patient, kind, key in rows:
        kinds.setdefault((patient, key), []).append(kind)
    for (patient, kind, key), row in rows.items():
        if row["parent"] and (kind, key) in patients[patient].changed:
            if kind == _OBSERVATION:
                roots[patient].add((_OBSERVATIONS, row["parent"]))
            elif kind == _ISSUE:
                roots[patient].add((_NAMES[_DRUG], row["parent"]))
            elif kind == _AUDIT:
                roots[patient] |= {(_root(of), row["parent"]) for of in kinds.get((patient, row["parent"]), ())}
    children: dict[str, set[tuple[str, str]]] = {}
    for (patient, kind, key), row in rows.items():
        if kind == _OBSERVATION and row["parent"] and (_OBSERVATIONS, row["parent"]) in roots[patient]:
            children.setdefault(patient, set()).add((_OBSERVATIONS, key))
    for patient, found in children.items():
        roots[patient] |= found
    # What is told of an item goes with it.
    items = {patient: {key for _, key in found} for patient, found in roots.items()}
    for (patient, kind, key), row in rows.items():
        if kind == _AUDIT and row["parent"] in items[patient]:
            roots[patient].add((_NAMES[_AUDIT], key))
    for patient, found in roots.items():
        patients[patient].roots = {(table, key) for table, key in found if table in CANDIDATES}


def _root(kind: int) -> str:
    """The table whose rows' resources a row is part of."""
    return _OBSERVATIONS if kind in _ON_ONE_KEY else _NAMES[kind]


def _line(row: Any) -> Line:
    return Line(_NAMES[row["kind"]], row["id"], values_of(row["row"]), row["file"], row["number"], row["parent"] or "",
                cancelled=row["state"] == CLEARED)  # fmt: skip


def _take(patient: _Patient, row: Any) -> None:
    line, state = _line(row), row["state"]
    if row["kind"] == PATIENT:
        patient.person, patient.gone = line, state == DELETED
    elif state == DELETED:
        patient.gone_rows.append(line)
    elif row["kind"] == _HISTORY:
        patient.history.append(line)
    else:
        patient.items.add(line)


async def _read_sessions(connection: Connection, practice: _Practice, patients: list[_Patient]) -> None:
    """The sessions of the patients' slots, and who holds them."""
    ids = {
        uuid.UUID(line.parent)
        for patient in patients
        for line in patient.items.tables.get("Appointment_Slot", {}).values()
        if line.parent
    }
    if not ids:
        return
    rows = await connection.fetch(
        f"{_ROWS} WHERE practice = $1 AND patient = $2 AND kind = $3 AND id = ANY($4) AND state = 0",
        practice.number, _NOBODY, NUMBERS["Appointment_Session"], list(ids),
    )  # fmt: skip
    sessions = {
        row["id"]: Line("Appointment_Session", row["id"], values_of(row["row"]), row["file"], row["number"])
        for row in rows
    }
    users = await practices.links_of(connection, practice.agreement, "Appointment_SessionUser", 1, list(ids))
    for patient in patients:
        patient.items.sessions, patient.items.session_users = sessions, users


async def _need_codes(
    connection: Connection, known: Coding, patients: list[_Patient]
) -> tuple[dict[int, Code], dict[int, Drug]]:
    lines = (line for patient in patients for line in patient.lines())
    return await known.need(connection, *needed((NUMBERS[line.table], line.values) for line in lines))


async def _read_people(
    connection: Connection, practice: _Practice, patients: list[_Patient], known: Coding
) -> dict[int, Code]:
    """What a patient says of himself: his own row, his history, and the observations of ethnicity and marriage.

    Returns the codes of these.
    """
    code = column("CareRecord_Observation", "CodeId")
    personal = await known.personal(connection)
    for patient in patients:
        of_person = [
            line for line in patient.lines() if line.table == "CareRecord_Observation" and line.values[code] in personal
        ]
        if patient.whole:
            patient.about_himself = [line for line in of_person if line not in patient.gone_rows]
        elif any((_OBSERVATION, line.key) in patient.changed for line in of_person):
            patient.changed.add((PATIENT, patient.guid))
    by_guid = {patient.guid: patient for patient in patients if patient.wants_person and not patient.whole}
    if not by_guid:
        return {}
    codes, _ = await known.need(connection, set(map(int, personal)), set())
    rows = await connection.fetch(
        f"{_ROWS} WHERE practice = $1 AND patient = ANY($2::uuid[]) AND (kind = ANY($3) OR kind = $4 AND state = 0"
        f" AND split_part(row, E'\\x1f', {code + 1}) = ANY($5))",
        practice.number, list(by_guid), (PATIENT, _HISTORY), _OBSERVATION, sorted(personal),
    )  # fmt: skip
    for row in rows:
        patient = by_guid[row["patient"]]
        if row["kind"] == _OBSERVATION:
            patient.about_himself.append(_line(row))
        else:
            _take(patient, row)
    return codes


async def _prepared(
    connection: Connection, practice: _Practice, patient: _Patient, context: Context
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
        await _identified(connection, practice, patient, person)
    except ColumnError as error:
        _park(practice, patient, str(error), error)
        return None
    except (Held, Rejected) as held:
        patient.doubt = getattr(held, "doubt", None)
        _park(practice, patient, held.reason, None)
        return None
    return _mapped(practice, patient, context, person)


def _park(practice: _Practice, patient: _Patient, reason: str, error: Exception | None) -> None:
    practice.reasons[reason] += 1
    patient.parked.append((patient.person, reason, error))
    patient.status = "parked"


def _person(patient: _Patient, context: Context) -> GpPatient:
    assert patient.person is not None
    return gp_patient(context, patient.person, patient.history, patient.about_himself)


def _numbers(practice: _Practice, patient: _Patient) -> Any:
    owner, guid = str(practice.organisation), patient.guid

    def number(kind: str, key: str) -> str:
        return derived_text(kind, owner, "emis", guid, key)

    return number


def _mapped(
    practice: _Practice, patient: _Patient, context: Context, person: GpPatient | None
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


async def _identified(connection: Connection, practice: _Practice, patient: _Patient, person: GpPatient) -> None:
    """Whose record it is, by the rules for everybody (docs/matching.md); it is locked. Raises Held, Rejected."""
    assert patient.person is not None
    mapped = _as_mapped(practice, patient, person)
    owned = matching.usable(mapped.identifiers, practice.organisation)
    found = await matching.find(connection, owned)
    if found.new:
        await matching.lock_identifiers(connection, owned)
        found = await matching.find(connection, owned)
    if found.patient is None:
        matching.check_creation(mapped)
        number = uuid.uuid4()
        await connection.execute("INSERT INTO record (id, person_id, created_at) VALUES ($1, $1, now())", number)
    else:
        number = patient.record or found.patient
        if patient.record is not None and patient.record not in (found.patient, *found.others):
            raise Held("the NHS number is on another record than the one that the practice's patient has")
        if await connection.fetchval(
            "SELECT EXISTS (SELECT FROM extract_patient WHERE practice = $1 AND record_id = $2 AND status = 'loaded'"
            " AND patient <> $3::text::uuid)", practice.number, number, patient.guid,
        ):  # fmt: skip
            raise Held("the practice has this person twice: the other registration has to end first")
        current = await connection.fetchrow("SELECT content, organisations FROM resource WHERE id = $1", number)
        if current is not None:
            first = practice.organisation not in current["organisations"]
            content = orjson.loads(current["content"])
            if held := matching.difference(mapped, content, practice.organisation, number, first_contact=first):
                await matching.decided(connection, held)
    if found.new:
        await connection.execute(
            """
            INSERT INTO patient_identifier (owner, system, value, patient_id)
            SELECT owner, system, value, $4 FROM unnest($1::uuid[], $2::text[], $3::text[]) AS w (owner, system, value)
            ON CONFLICT DO NOTHING
            """,
            [i.owner for i in found.new], [i.system for i in found.new], [i.value for i in found.new], number,
        )  # fmt: skip
        if await matching.release(connection, found.new, MESSAGE_STORED):
            outbox.kick()
    patient.record = number
    addresses = matching.emails(person.patient)
    if addresses and not await _may_have(connection, number, addresses):
        # A family shares an address: it stays with whom it was first, and is not shown for the others.
        practice.counts["shared_emails"] += 1
        patient.email_is_shared = True


async def _may_have(connection: Connection, number: uuid.UUID, addresses: list[str]) -> bool:
    if await connection.fetchval(
        """
        SELECT 1 FROM patient_email JOIN record ON record.id = patient_id
        WHERE email = ANY($1) AND person_id <> (SELECT person_id FROM record WHERE id = $2)
        """,
        addresses,
        number,
    ):
        return False
    return await matching.register_emails(connection, number, addresses)


def _as_mapped(practice: _Practice, patient: _Patient, person: GpPatient) -> Mapped:
    """A practice's patient as matching knows patients: a registration, which may correct a date of birth."""
    assert patient.person is not None
    place = f"{patient.person.table} row {patient.person.number}"
    identifiers = [PatientIdentifier(PATIENT_GUID, patient.guid, False, None, place)]
    if person.nhs_number is not None:
        identifiers.append(PatientIdentifier(systems.NHS_NUMBER, person.nhs_number, True, None, place))
    entry = Entry("Patient", (), "patient", person.patient, place)
    return Mapped(
        "A31",
        Moment(practice.now, 14, practice.now.isoformat(timespec="seconds")),
        patient=entry,
        identifiers=identifiers,
    )


async def _ended(
    connection: Connection, practice: _Practice, patient: _Patient
) -> tuple[list[Made], GpPatient | None] | None:
    """Out of scope: he has left, died, or said no. His history stays, marked as no longer updated (or it goes)."""
    already, patient.status = patient.status == "ended", "ended"
    if patient.record is None or already:
        return None
    practice.counts["ended"] += 1
    patient.ending = True
    patient.whole, patient.roots = False, set()
    if practice.agreement.roll_off == REMOVE:
        rows = await connection.fetch(
            f"{_ROWS} WHERE practice = $1 AND patient = $2::uuid AND kind <> ALL($3)",
            practice.number, patient.guid, (PATIENT, _HISTORY),
        )  # fmt: skip
        patient.items = Items()
        for row in rows:
            _take(patient, row)
        patient.roots = _touched(patient)
    return [], None


async def _versions(
    connection: Connection, practice: _Practice, prepared: list[tuple[_Patient, list[Made], GpPatient | None]]
) -> list[tuple[Row, uuid.UUID]]:
    """What has to be written: the difference between what the rows say and what the record has."""
    made: dict[uuid.UUID, tuple[_Patient, Made]] = {}
    known: dict[uuid.UUID, Known] = {}
    types: dict[uuid.UUID, str] = {}
    candidates: dict[str, str] = {}
    held: set[str] = set()
    for patient, of_patient, _ in prepared:
        number = _numbers(practice, patient)
        for each in of_patient:
            made[uuid.UUID(number(each.type, each.key))] = (patient, each)
        if not patient.is_first:
            for table, key in _touched(patient) if patient.whole else patient.roots or ():
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
    practice: _Practice,
    prepared: list[tuple[_Patient, list[Made], GpPatient | None]],
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


def _known(row: Any) -> Known | None:
    return None if row is None else Known(**{name: row[name] for name in Known.__slots__})


async def _note(connection: Connection, practice: _Practice, patients: list[_Patient]) -> None:
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
            uuid.UUID(line.key) if line is not None else _NOBODY,
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


def _touched(patient: _Patient) -> set[tuple[str, str]]:
    """All that a patient's rows, those that are gone too, can ever have become: (table, key)."""
    lines = list(patient.lines())
    found = {(_root(NUMBERS[line.table]), line.key) for line in lines}
    found |= {(_OBSERVATIONS, line.parent) for line in lines if line.parent and line.table == _OBSERVATIONS}
    found |= {(_NAMES[_AUDIT], line.key) for audits in patient.items.audits.values() for line in audits}
    return {(table, key) for table, key in found if table in CANDIDATES}


def _row(
    practice: _Practice, patient: _Patient, each: Made, key: uuid.UUID, current: Known | None, source: uuid.UUID
) -> Row | None:
    label = each.label or GENERAL
    if current is not None and current.label != GENERAL:
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
