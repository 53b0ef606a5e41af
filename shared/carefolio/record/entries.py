"""What patients write themselves: measurements, symptoms, a journal, files; as FHIR, marked as theirs.

Codes are LOINC's and SNOMED CT's of the FHIR vital signs profiles and UK Core; the bounds keep out slips of the finger.
"""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from carefolio.cloud import scanning
from carefolio.cloud.database import Pool
from carefolio.record import resources
from carefolio.record.access import Reader
from carefolio.record.resources import Operation, Result
from carefolio.view.sections import ENTRY, JOURNAL, SYMPTOM, VITAL_SIGNS

_LOINC, _SNOMED, _UCUM = "http://loinc.org", "http://snomed.info/sct", "http://unitsofmeasure.org"
_CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"
LONGEST_TEXT = 20_000
LARGEST_FILE = 5 * 1024 * 1024


class EntryError(ValueError):
    """What was entered cannot be; the text is for the person, and begins with the name of the field."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """One number of a measurement: its codes, unit (as people write it, and in UCUM), and bounds."""

    loinc: str
    snomed: str
    title: str
    unit: str
    ucum: str
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of measurement: of one quantity, or a panel of several."""

    name: str
    title: str
    quantities: tuple[Quantity, ...]
    panel: tuple[str, str] = ("", "")


KINDS: Mapping[str, Kind] = {
    each.name: each
    for each in (
        Kind("blood-pressure", "Blood pressure", (
            Quantity("8480-6", "271649006", "Systolic blood pressure", "mmHg", "mm[Hg]", 40, 300),
            Quantity("8462-4", "271650006", "Diastolic blood pressure", "mmHg", "mm[Hg]", 20, 200),
        ), ("85354-9", "75367002")),
        Kind("weight", "Weight", (Quantity("29463-7", "27113001", "Body weight", "kg", "kg", 0.3, 500),)),
        Kind("height", "Height", (Quantity("8302-2", "50373000", "Body height", "cm", "cm", 20, 260),)),
        Kind("heart-rate", "Pulse", (Quantity("8867-4", "364075005", "Heart rate", "beats/minute", "/min", 20, 300),)),
        Kind("temperature", "Temperature",
             (Quantity("8310-5", "386725007", "Body temperature", "°C", "Cel", 25, 45),)),
        Kind("oxygen", "Oxygen level",
             (Quantity("2708-6", "431314004", "Oxygen saturation", "%", "%", 40, 100),)),
        Kind("glucose", "Blood glucose",
             (Quantity("15074-8", "", "Glucose in blood", "mmol/L", "mmol/L", 0.5, 60),)),
        Kind("peak-flow", "Peak flow",
             (Quantity("19935-6", "18491006", "Peak expiratory flow", "L/min", "L/min", 30, 900),)),
    )
}  # fmt: skip


async def measure(
    pool: Pool, reader: Reader, record: uuid.UUID, name: str, values: Sequence[str], *, at: datetime | None = None,
    note: str = "",
) -> Result:  # fmt: skip
    """Write down a measurement, a number for each quantity of its kind. Raises EntryError and FhirError."""
    kind = KINDS.get(name)
    if kind is None:
        raise EntryError(f"kind: one of {', '.join(KINDS)}")
    if len(values) != len(kind.quantities):
        raise EntryError(f"values: {len(kind.quantities)} number{'s' if len(kind.quantities) > 1 else ''} for {name}")
    read = [_read(each, text) for each, text in zip(kind.quantities, values, strict=True)]
    if kind.panel[0] and not read[0] > read[1]:
        raise EntryError("values: the first, systolic pressure is the higher one")
    made = _observation(record, at, note) | {
        "category": [{"coding": [{"system": _CATEGORY, "code": VITAL_SIGNS, "display": "Vital Signs"}]}],
    }
    told = [{"code": _coded(q.loinc, q.snomed, q.title), "valueQuantity": _quantity(q, value)}
            for q, value in zip(kind.quantities, read, strict=True)]  # fmt: skip
    if kind.panel[0]:
        made |= {"code": _coded(*kind.panel, kind.title), "component": told}
    else:
        made |= told[0]
    return await _write(pool, reader, made)


async def symptom(
    pool: Pool, reader: Reader, record: uuid.UUID, name: str, *, severity: int | None = None,
    at: datetime | None = None, note: str = "",
) -> Result:  # fmt: skip
    """Note a symptom, how bad from 0 to 10. Raises EntryError and FhirError."""
    if severity is not None and not 0 <= severity <= 10:
        raise EntryError("severity: a number from 0 to 10")
    made = _observation(record, at, note) | _own(SYMPTOM, "Symptom")
    made["code"] = {"text": _text("name", name, 200)}
    if severity is not None:
        made["component"] = [{"code": {"text": "How bad, from 0 to 10"}, "valueInteger": severity}]
    return await _write(pool, reader, made)


async def note_down(
    pool: Pool, reader: Reader, record: uuid.UUID, text: str, *, at: datetime | None = None
) -> Result:  # fmt: skip
    """Write into the journal. Raises EntryError and FhirError."""
    made = _observation(record, at, "") | _own(JOURNAL, "Journal")
    made |= {"code": {"coding": [{"system": _LOINC, "code": "51855-5", "display": "Patient Note"}],
                      "text": "Journal"}, "valueString": _text("text", text, LONGEST_TEXT)}  # fmt: skip
    return await _write(pool, reader, made)


async def add_file(
    pool: Pool, reader: Reader, record: uuid.UUID, title: str, content: bytes, *, at: datetime | None = None
) -> Result:
    """Add a PDF, a picture or a text to the record. Raises EntryError and FhirError."""
    if not content:
        raise EntryError("file: choose a file")
    if len(content) > LARGEST_FILE:
        raise EntryError(f"file: at most {LARGEST_FILE // 1024 // 1024} MB")
    media = media_type(content)
    try:
        if not await scanning.is_clean(content):
            raise EntryError("file: the virus scanner found something in it, and it is not taken")
    except scanning.ScanError as error:
        raise EntryError(f"file: {error}") from None
    when = _moment(at)
    made = {
        "resourceType": "DocumentReference",
        "status": "current",
        "subject": {"reference": f"Patient/{record}"},
        "author": [await _author(pool, reader, record)],
        "date": when,
        "description": _text("title", title, 200),
        "content": [{"attachment": {"contentType": media, "data": base64.b64encode(content).decode(),
                                    "title": _text("title", title, 200), "creation": when}}],
    }  # fmt: skip
    return await _write(pool, reader, made)


async def plan(
    pool: Pool, reader: Reader, record: uuid.UUID, title: str, text: str, steps: Sequence[str] = ()
) -> Result:
    """A care plan that a professional makes with a patient. Raises EntryError and FhirError."""
    made: dict[str, Any] = {
        "resourceType": "CarePlan",
        "status": "active",
        "intent": "plan",
        "subject": {"reference": f"Patient/{record}"},
        "created": _moment(None),
        "author": await _author(pool, reader, record),
        "title": _text("title", title, 200),
        "description": _text("text", text, LONGEST_TEXT),
    }
    wanted = [_text("goal", step, 500) for step in steps if step.strip()]
    if wanted:
        made["activity"] = [{"detail": {"status": "not-started", "description": step}} for step in wanted[:50]]
    return await _write(pool, reader, made)


async def delete(pool: Pool, reader: Reader, kind: str, name: str) -> None:
    """Take back what the patient wrote himself; its versions are kept. Raises FhirError."""
    await resources.commit(pool, reader, [Operation("DELETE", kind, name)])


# What a file is, by its first bytes: a name or a header says what somebody wants it to be.
_SIGNATURES = (
    (b"%PDF-", "application/pdf"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")


def media_type(content: bytes) -> str:
    """The media type of a file that a record takes. Raises EntryError for every other."""
    for start, media in _SIGNATURES:
        if content.startswith(start):
            return media
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    if content[128:132] == b"DICM":
        raise EntryError("file: scans (DICOM) are not taken here: ask the hospital that made them to send them")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = "\x00"
    if _CONTROLS.search(text) or text.lstrip()[:1] == "<":
        raise EntryError("file: a PDF, a picture (JPEG, PNG, GIF, WebP) or a plain text")
    return "text/plain; charset=utf-8"


def _observation(record: uuid.UUID, at: datetime | None, note: str) -> dict[str, Any]:
    made: dict[str, Any] = {
        "resourceType": "Observation",
        "status": "final",
        "subject": {"reference": f"Patient/{record}"},
        "performer": [{"reference": f"Patient/{record}"}],
        "effectiveDateTime": _moment(at),
    }
    return made | ({"note": [{"text": _text("note", note, LONGEST_TEXT)}]} if note.strip() else {})


async def _author(pool: Pool, reader: Reader, record: uuid.UUID) -> dict[str, Any]:
    """Who writes: the patient, a carer of his, a professional."""
    if not reader.is_professional and reader.acts_for is None:
        return {"reference": f"Patient/{record}"}
    name = await pool.fetchval("SELECT name FROM account WHERE id = $1", reader.account)
    return {"type": "Practitioner" if reader.is_professional else "RelatedPerson", "display": name}


def _own(code: str, title: str) -> dict[str, Any]:
    return {"category": [{"coding": [{"system": ENTRY, "code": code, "display": title}]}]}


def _moment(at: datetime | None) -> str:
    now = datetime.now(UTC)
    if at is not None and at > now + timedelta(minutes=5):
        raise EntryError("at: the time lies in the future")
    if at is not None and at.year < 1900:
        raise EntryError("at: the time is too long ago")
    return (at or now).isoformat(timespec="seconds")


def _read(quantity: Quantity, text: str) -> Decimal:
    plain = text.strip().replace(",", ".")
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", plain):
        raise EntryError(f"values: {quantity.title} is a number, such as {int(quantity.least + quantity.most) // 2}")
    value = Decimal(plain)
    if not quantity.least <= value <= quantity.most:
        raise EntryError(f"values: {quantity.title} is from {quantity.least:g} to {quantity.most:g} {quantity.unit}")
    return value


def _quantity(quantity: Quantity, value: Decimal) -> dict[str, Any]:
    return {"value": value, "unit": quantity.unit, "system": _UCUM, "code": quantity.ucum}


def _coded(loinc: str, snomed: str, title: str) -> dict[str, Any]:
    codings = [{"system": _LOINC, "code": loinc, "display": title}]
    if snomed:
        codings.append({"system": _SNOMED, "code": snomed, "display": title})
    return {"coding": codings, "text": title}


def _text(name: str, text: str, longest: int) -> str:
    plain = "\n".join(line.rstrip() for line in text.replace("\r\n", "\n").split("\n")).strip()
    if not plain or _CONTROLS.search(plain):
        raise EntryError(f"{name}: a text is needed")
    if len(plain) > longest:
        raise EntryError(f"{name}: at most {longest} characters")
    return plain


async def _write(pool: Pool, reader: Reader, resource: dict[str, Any]) -> Result:
    kind = resource["resourceType"]
    resources.check(resource, kind)
    [result] = await resources.commit(pool, reader, [Operation("POST", kind, resource=resource)])
    return result
