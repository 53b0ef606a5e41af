"""Queries are answered at once, from what the asking organisation may read: ADR^A19, RSP^K11, K21, K22, K23.

Nothing is stored; every patient whose data leaves has an audit line.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from carefolio.cloud.database import Pool
from carefolio.fhir.dates import date_range
from carefolio.hl7 import Delimiters, HL7Error, Message, Segment, TimeFormatError, read_moment
from carefolio.hl7.acknowledgement import answer_header
from carefolio.hl7.errors import REQUIRED_FIELD_MISSING, UNKNOWN_KEY, Place
from carefolio.hl7.query import ANSWERS, Query, read_query
from carefolio.identity.senders import Sender
from carefolio.mapping import Source
from carefolio.mapping import outbound as out
from carefolio.mapping.message import patient_asked_for
from carefolio.record import matching
from carefolio.record.access import Reader, joined_now, readable

_ENOUGH = ("PID.5.1", "PID.7")


async def answer(
    pool: Pool, sender: Sender, organisation: uuid.UUID, source: Source, message: Message, now: datetime, answer_id: str
) -> bytes:
    """The answer to a query. Raises HL7Error for one that cannot be answered as it is."""
    query = read_query(message)
    patients = await _patients(pool, organisation, source, query, message)
    reader = Reader(f"sender/{sender.id}", organisation)
    body: list[str] = []
    for number, patient in patients[: query.limit]:
        body.append(out.pid(patient, source, identifiers_only=query.kind == "identifiers"))
        if query.kind == "candidates":
            body.append(out.segment("QRI", {1: "100" if query.identifiers else "80"}))
        elif query.kind == "appointments":
            body += [out.sch(found) for found in await _appointments(pool, reader, number, query, source)]
        elif query.kind == "immunisations" and len(patients) == 1:
            for given in await _joined_now(pool, reader, number, "Immunization"):
                body += out.immunization(given)
    await _note(pool, reader, query, [number for number, _ in patients[: query.limit]])
    return _encode(message, query, len(patients), body, now, answer_id)


async def _patients(
    pool: Pool, organisation: uuid.UUID, source: Source, query: Query, message: Message
) -> list[tuple[uuid.UUID, dict[str, Any]]]:
    """The people who are meant, as far as the organisation reads them, each by the record that stands for him."""
    if query.identifiers:
        named = matching.usable(patient_asked_for(message, query.identifiers, source), organisation)
        rows = await pool.fetch(
            """
            SELECT joined.id FROM patient_identifier known
            JOIN unnest($1::uuid[], $2::text[], $3::text[]) AS wanted (owner, system, value)
                ON known.owner = wanted.owner AND known.value = wanted.value
                -- A local number whose authority the query does not name is looked for in all of them.
                AND (known.system = wanted.system OR wanted.system LIKE '%/local')
            JOIN record ON record.id = patient_id
            JOIN record joined ON joined.person_id = record.person_id
            """,
            [n.owner for n in named],
            [n.system for n in named],
            [n.value for n in named],
        )
        numbers: list[uuid.UUID] | None = [row["id"] for row in rows]
    else:
        numbers = None
        if not all(name in query.demographics for name in _ENOUGH):
            raise HL7Error(
                REQUIRED_FIELD_MISSING,
                Place("QPD", 1, 3),
                "a search needs an identifier, or family name and date of birth",
            )
    arguments: list[Any] = [numbers]
    conditions = [readable(Reader("", organisation), arguments), "type = 'Patient'"]
    if numbers is not None:
        conditions.append("resource.id = ANY($1)")
    else:
        try:
            born = read_moment(query.demographics["PID.7"]).day
        except TimeFormatError as error:
            raise HL7Error(REQUIRED_FIELD_MISSING, Place("QPD", 1, 3), f"PID.7: {error}") from None
        arguments += list(date_range(born))
        conditions.append(f"$1::uuid[] IS NULL AND date_from >= ${len(arguments) - 1} AND date_to <= ${len(arguments)}")
    found = await pool.fetch(
        f"""
        SELECT DISTINCT ON (person_id) resource.id, content FROM resource JOIN record ON record.id = patient_id
        WHERE {" AND ".join(conditions)} ORDER BY person_id, resource.id = person_id DESC LIMIT 1000
        """,  # noqa: S608 - the conditions are ours, their values are arguments
        *arguments,
    )
    patients = [(row["id"], orjson.loads(row["content"])) for row in found]
    return [(number, patient) for number, patient in patients if _fits(patient, query.demographics)]


def _fits(patient: dict[str, Any], demographics: dict[str, str]) -> bool:
    """Whether names and gender are those that are asked for; a star at the end stands for anything."""

    def like(wanted: str, values: Sequence[str]) -> bool:
        text = wanted.casefold().rstrip("*")
        return any(v.casefold().startswith(text) if wanted.endswith("*") else v.casefold() == text for v in values)

    names = patient.get("name", [])
    if "PID.5.1" in demographics and not like(demographics["PID.5.1"], [n.get("family", "") for n in names]):
        return False
    if "PID.5.2" in demographics and not like(demographics["PID.5.2"], [g for n in names for g in n.get("given", [])]):
        return False
    if (born := demographics.get("PID.7")) and not _born(born, patient):
        return False
    gender = {"M": "male", "F": "female"}.get(demographics.get("PID.8", "").upper())
    return gender is None or patient.get("gender", gender) == gender


def _born(asked: str, patient: dict[str, Any]) -> bool:
    try:
        return matching.same_date(read_moment(asked).day, patient.get("birthDate", ""))
    except TimeFormatError:
        return False


async def _joined_now(pool: Pool, reader: Reader, patient: uuid.UUID, kind: str) -> list[dict[str, Any]]:
    arguments: list[Any] = [[patient], kind]
    may_read = readable(reader, arguments)
    rows = await pool.fetch(
        f"""
        SELECT content FROM resource
        WHERE patient_id = ANY({joined_now("$1::uuid[]")}) AND type = $2 AND {may_read}
        ORDER BY date_from NULLS LAST, id LIMIT 1000
        """,  # noqa: S608 - the predicate is ours, its values are arguments
        *arguments,
    )
    return [orjson.loads(row["content"]) for row in rows]


async def _appointments(
    pool: Pool, reader: Reader, patient: uuid.UUID, query: Query, source: Source
) -> list[dict[str, Any]]:
    """The appointments that begin in the window of QRF-2 and -3; an open end lets all through."""
    bounds: list[datetime] = []
    for text, otherwise in ((query.start, 1), (query.end, 9999)):
        try:
            # A day that is named as the end belongs to the window, whole.
            span = date_range(read_moment(text, source.zone).fhir) if text else None
            bounds.append((span[len(bounds)] if span else None) or datetime(otherwise, 1, 1, tzinfo=UTC))
        except TimeFormatError as error:
            raise HL7Error(REQUIRED_FIELD_MISSING, Place("QRF", 1, 2 if not bounds else 3), str(error)) from None
    return [
        found
        for found in await _joined_now(pool, reader, patient, "Appointment")
        if bounds[0] <= datetime.fromisoformat(found.get("start", "9999-01-01T00:00:00+00:00")) < bounds[1]
    ]


async def _note(pool: Pool, reader: Reader, query: Query, patients: Sequence[uuid.UUID]) -> None:
    await pool.execute(
        """
        INSERT INTO audit (actor, organisation_id, action, patient_id, query)
        SELECT $1, $2, 'query', patient, $3
        FROM (SELECT) AS always LEFT JOIN unnest($4::uuid[]) AS t (patient) ON true
        """,
        reader.actor,
        reader.organisation_id,
        query.event,
        list(patients),
    )


def _encode(message: Message, query: Query, hits: int, body: Sequence[str], now: datetime, answer_id: str) -> bytes:
    control_id = out.escaped(message.control_id)
    if query.event == "A19":
        asked = [_echo(s) for s in message.segments if s.name in ("QRD", "QRF")]
        if not hits:
            raise HL7Error(UNKNOWN_KEY, Place("QRD", 1, 8), "no such patient, or not for this organisation")
        head = answer_header(message, "ADR^A19^ADR_A19", now, answer_id)
        return _lines([head, f"MSA|AA|{control_id}", *asked, *body])
    kind = ANSWERS[query.event]
    structure = "RSP_K11" if kind == "K11" else f"RSP_{'K23' if kind == 'K23' else 'K21'}"
    # CDC's guide: Z33 says that nobody, Z31 that several were found.
    profile = query.profile and ("Z33" if not hits else "Z31" if hits > 1 else query.profile)
    head = answer_header(message, f"RSP^{kind}^{structure}", now, answer_id, profile and f"{profile}^CDCPHINVS")
    asked_for = next(message.all("QPD"))
    status = "NF" if not hits else "TM" if query.profile and hits > query.limit else "OK"
    shown = min(hits, query.limit)
    name = "^".join(out.escaped(asked_for.get(1, at)) for at in (1, 2, 3)).rstrip("^")
    qak = out.segment(
        "QAK", {1: out.escaped(query.tag), 2: status, 3: name, 4: str(hits), 5: str(shown), 6: str(hits - shown)}
    )
    return _lines([head, f"MSA|AA|{control_id}", qak, _echo(asked_for), *body])


def _echo(segment: Segment) -> str:
    """A segment of the query, with the answer's delimiters."""
    if segment.delimiters == Delimiters() and "\n" not in segment.text and "\r" not in segment.text:
        return segment.text
    fields = {
        number: "~".join(
            out.components(*(r.get(at) for at in range(1, len(r.components) + 1))) for r in segment.repetitions(number)
        )
        for number in range(1, len(segment.fields))
    }
    return out.segment(segment.name, fields)


def _lines(segments: Sequence[str]) -> bytes:
    return ("\r".join(segments) + "\r").encode()
