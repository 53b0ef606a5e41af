"""A file's rows on their way to the database: keyed, split by practice, in pieces that are small enough to be one step.

A piece is text as PostgreSQL's COPY takes it: practice, patient, key, parent, row's number, ProcessingId, deleted, and
the row's values, separated by U+001F. A row whose keys are none is told with its number and left out.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

from carefolio.emis.errors import ExtractError
from carefolio.emis.rows import Row, Rows
from carefolio.emis.tables import Table

SEPARATOR = "\x1f"
ROWS = 10_000
_MOST_BYTES = 24 * 1024 * 1024
_MOST_BAD = 10_000
_GUID = re.compile(r"\{?([0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})\}?\Z")
_NO_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1e\x7f\ufffe\uffff]")
NOBODY = str(uuid.UUID(int=0))
CODING = ("Coding_ClinicalCode", "Coding_DrugCode")


@dataclass(frozen=True, slots=True)
class Keys:
    """Which columns say what a row is: its key, its patient, its practice, and the row that it belongs to.

    Without a ``key`` a row is known by all that it says.
    """

    key: tuple[str, ...]
    patient: str = ""
    practice: str = "OrganisationGuid"
    parent: str = ""


KEYS = {
    "Admin_Organisation": Keys(("OrganisationGuid",), practice=""),
    "Admin_Location": Keys(("LocationGuid",), practice=""),
    "Admin_OrganisationLocation": Keys(("OrganisationGuid", "LocationGuid"), practice="", parent="LocationGuid"),
    "Admin_UserInRole": Keys(("UserInRoleGuid",)),
    "Appointment_Session": Keys(("AppointmentSessionGuid",)),
    "Appointment_SessionUser": Keys(("SessionGuid", "UserInRoleGuid"), practice="", parent="SessionGuid"),
    "Admin_Patient": Keys(("PatientGuid",), "PatientGuid"),
    "Admin_PatientHistory": Keys((), "PatientGuid"),
    "Appointment_Slot": Keys(("SlotGuid",), "PatientGuid", parent="SessionGuid"),
    "CareRecord_Consultation": Keys(("ConsultationGuid",), "PatientGuid"),
    "Prescribing_IssueRecord": Keys(("IssueRecordGuid",), "PatientGuid", parent="DrugRecordGuid"),
    "Prescribing_DrugRecord": Keys(("DrugRecordGuid",), "PatientGuid"),
    "CareRecord_Diary": Keys(("DiaryGuid",), "PatientGuid"),
    "CareRecord_ObservationReferral": Keys(("ObservationGuid",), "PatientGuid"),
    "CareRecord_Problem": Keys(("ObservationGuid",), "PatientGuid"),
    "CareRecord_Observation": Keys(("ObservationGuid",), "PatientGuid", parent="ParentObservationGuid"),
    "Audit_PatientAudit": Keys((), "PatientGuid", parent="ItemGuid"),
    "Audit_RegistrationAudit": Keys((), "PatientGuid"),
}
# The tables' numbers in the database: for ever.
NUMBERS = {name: number for number, name in enumerate(KEYS, 1)}


@dataclass(slots=True)
class Counted:
    """What a file held: rows and deletions by practice, and the rows that could not be placed, with the reason."""

    rows: int = 0
    by_practice: Counter[str] = field(default_factory=Counter)
    deleted: int = 0
    bad: list[tuple[int, str]] = field(default_factory=list)


# practice's GUID (empty for nobody's), number of rows, text
Write = Callable[[str, int, bytes], None]


def split(rows: Rows, write: Write, watch: Callable[[Row], None] | None = None) -> Counted:
    """Hand every row to ``write`` in pieces, and to ``watch`` in passing.

    Raises ExtractError for what is no row, or too many without keys.
    """
    table = rows.header.table
    made = _coding_line if table.name in CODING else _Lines(table)
    counted = Counted()
    waiting: dict[str, list[str]] = {}
    sizes: Counter[str] = Counter()
    held = 0
    for row in rows:
        counted.rows += 1
        if watch is not None:
            watch(row)
        try:
            practice, deleted, line = made(row, rows.number)
        except ValueError as error:
            counted.bad.append((rows.number, str(error)))
            if len(counted.bad) > _MOST_BAD:
                raise ExtractError(f"{table.name} row {rows.number}", f"{_MOST_BAD} rows have no keys") from None
            continue
        counted.by_practice[practice] += 1
        counted.deleted += deleted
        lines = waiting.setdefault(practice, [])
        lines.append(line)
        sizes[practice] += len(line)
        held += len(line)
        if len(lines) >= ROWS or held > _MOST_BYTES:
            practice = practice if len(lines) >= ROWS else max(sizes, key=sizes.__getitem__)
            held -= sizes.pop(practice)
            _flush(write, practice, waiting.pop(practice))
    for practice, lines in waiting.items():
        _flush(write, practice, lines)
    return counted


def _flush(write: Write, practice: str, lines: list[str]) -> None:
    write(practice, len(lines), "".join(lines).encode())


class _Lines:
    """Rows of one table as lines."""

    def __init__(self, table: Table) -> None:
        keys, columns = KEYS[table.name], list(table.columns)
        self._columns = columns
        self._key = [columns.index(name) for name in keys.key]
        self._patient = columns.index(keys.patient) if keys.patient else -1
        self._practice = columns.index(keys.practice) if keys.practice else -1
        self._parent = columns.index(keys.parent) if keys.parent else -1
        self._deleted = columns.index("Deleted") if table.has_deleted else -1
        self._processing = columns.index("ProcessingId")
        self._may_be_nobodys = table.name == "Appointment_Slot"

    def __call__(self, row: Row, number: int) -> tuple[str, bool, str]:
        """(practice, whether it is a deletion, line). Raises ValueError that names the column."""
        deleted = self._deleted >= 0 and row[self._deleted][:1] in ("t", "T", "1")
        practice = self._guid(row, self._practice, may_lack=deleted) if self._practice >= 0 else ""
        patient = NOBODY
        if self._patient >= 0:
            patient = self._guid(row, self._patient, may_lack=self._may_be_nobodys) or NOBODY
        if len(self._key) == 1:
            key = patient if self._key[0] == self._patient else _one_guid(row[self._key[0]])
            if not key:
                raise ValueError(f"column {self._columns[self._key[0]]}: not a GUID")
        else:
            key = self._hashed(row)
        parent = (_one_guid(row[self._parent]) if row[self._parent] else "") if self._parent >= 0 else ""
        processing = row[self._processing].strip()
        if processing and (not processing.isascii() or not processing.isdigit() or len(processing) > 18):
            raise ValueError("column ProcessingId: not a whole number")
        values = _escaped(row)
        line = (
            f"{practice or NOBODY}\t{patient}\t{key}\t{parent or NOBODY}\t{number}\t{processing or 0}\t"
            f"{'t' if deleted else 'f'}\t{values}\n"
        )
        return practice, deleted, line

    def _guid(self, row: Row, at: int, *, may_lack: bool) -> str:
        found = _known_guid(row[at]) if row[at] else ""
        if not found and (row[at] or not may_lack):
            raise ValueError(f"column {self._columns[at]}: not a GUID")
        return found

    def _hashed(self, row: Row) -> str:
        said = [row[at] for at in self._key] or [v for at, v in enumerate(row) if at != self._processing]
        digest = hashlib.blake2b(SEPARATOR.join(said).casefold().encode(), digest_size=16).digest()
        return str(uuid.UUID(bytes=digest, version=4))


@lru_cache(maxsize=50_000)
def _known_guid(text: str) -> str:
    """As ``_one_guid``, for patients and practices, who come again and again."""
    return _one_guid(text)


def _one_guid(text: str) -> str:
    """In small letters without braces, '' for none."""
    match = _GUID.match(text.strip())
    return match.group(1).lower() if match else ""


def _coding_line(row: Row, number: int) -> tuple[str, bool, str]:
    code = row[0].strip()
    if not code.lstrip("-").isdigit() or not code.isascii() or len(code) > 19 or not -(2**63) <= int(code) < 2**63:
        raise ValueError("column CodeId: not a whole number")
    return "", False, f"{code}\t{_escaped(row)}\n"


def _escaped(row: Row) -> str:
    """As COPY's text wants it. What no text of FHIR may hold (R4, string) becomes U+FFFD, or the line break it was."""
    values = SEPARATOR.join(row)
    if values.count(SEPARATOR) != len(row) - 1:
        values = SEPARATOR.join(value.replace(SEPARATOR, "\ufffd") for value in row)
    if _NO_TEXT.search(values):
        values = _NO_TEXT.sub("\ufffd", values.replace("\x0b", "\n").replace("\x0c", "\n"))
    if "\\" in values:
        values = values.replace("\\", "\\\\")
    if "\n" in values or "\r" in values or "\t" in values:
        values = values.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    return values
