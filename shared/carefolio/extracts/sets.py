"""A set of a practice's patients as it is read: their rows, or of a delta what changed and hangs together with it."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from carefolio.cloud.database import Connection
from carefolio.emis.chunks import KEYS, NOBODY, NUMBERS
from carefolio.extracts import practices
from carefolio.extracts.agreements import Agreement
from carefolio.extracts.coding import Coding, needed
from carefolio.extracts.rows import CLEARED, DELETED, PATIENT, values_of
from carefolio.mapping.emis import CANDIDATES, Code, Drug, Items, Line, column

_NAMES = {number: name for name, number in NUMBERS.items()}
_HISTORY = NUMBERS["Admin_PatientHistory"]
_OBSERVATION, _PROBLEM, _REFERRAL = (
    NUMBERS[f"CareRecord_{name}"] for name in ("Observation", "Problem", "ObservationReferral")
)
_DRUG, _ISSUE, _AUDIT = (
    NUMBERS[name] for name in ("Prescribing_DrugRecord", "Prescribing_IssueRecord", "Audit_PatientAudit")
)
_OBSERVATIONS = _NAMES[_OBSERVATION]
_ON_ONE_KEY = (_OBSERVATION, _PROBLEM, _REFERRAL)
_NOBODY = uuid.UUID(NOBODY)


@dataclass(slots=True)
class Practice:
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
class Patient:
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


async def patients_of(
    connection: Connection, practice: Practice, guids: Sequence[str], *, whole: bool
) -> list[Patient]:
    """The patients with these GUIDs, with what is known of them and nothing read yet."""
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
        Patient(
            row["guid"],
            row["record_id"],
            row["status"],
            whole or row["status"] != "loaded",
            is_first=row["record_id"] is None,
        )
        for row in rows
    ]


async def read(connection: Connection, practice: Practice, patients: list[Patient]) -> None:
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


async def _read_changes(connection: Connection, practice: Practice, patients: dict[str, Patient]) -> None:
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
        # OFFSET: each pair is looked up by an index. Before the rows have statistics a join reads all of them.
        for row in await connection.fetch(
            f"""
            SELECT r.* FROM unnest($2::uuid[], $3::uuid[]) AS w (patient, {column}), LATERAL (
                {_ROWS} WHERE practice = $1 AND patient = w.patient AND {column} = w.{column} AND kind = ANY($4)
                OFFSET 0
            ) r
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


def _note_roots(patients: dict[str, Patient], rows: dict[tuple[str, int, str], Any]) -> None:
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


def _take(patient: Patient, row: Any) -> None:
    line, state = _line(row), row["state"]
    if row["kind"] == PATIENT:
        patient.person, patient.gone = line, state == DELETED
    elif state == DELETED:
        patient.gone_rows.append(line)
    elif row["kind"] == _HISTORY:
        patient.history.append(line)
    else:
        patient.items.add(line)


async def _read_sessions(connection: Connection, practice: Practice, patients: list[Patient]) -> None:
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


async def read_items(connection: Connection, practice: Practice, patient: Patient) -> None:
    """All of a patient's rows but his own and his history."""
    patient.items = Items()
    for row in await connection.fetch(
        f"{_ROWS} WHERE practice = $1 AND patient = $2::uuid AND kind <> ALL($3)",
        practice.number, patient.guid, (PATIENT, _HISTORY),
    ):  # fmt: skip
        _take(patient, row)


async def need_codes(
    connection: Connection, known: Coding, patients: list[Patient]
) -> tuple[dict[int, Code], dict[int, Drug]]:
    """The codes and medicines that the patients' rows name."""
    lines = (line for patient in patients for line in patient.lines())
    return await known.need(connection, *needed((NUMBERS[line.table], line.values) for line in lines))


async def read_people(
    connection: Connection, practice: Practice, patients: list[Patient], known: Coding
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


def touched(patient: Patient) -> set[tuple[str, str]]:
    """All that a patient's rows, those that are gone too, can ever have become: (table, key)."""
    lines = list(patient.lines())
    found = {(_root(NUMBERS[line.table]), line.key) for line in lines}
    found |= {(_OBSERVATIONS, line.parent) for line in lines if line.parent and line.table == _OBSERVATIONS}
    found |= {(_NAMES[_AUDIT], line.key) for audits in patient.items.audits.values() for line in audits}
    return {(table, key) for table, key in found if table in CANDIDATES}
