"""What a message must have before it is accepted: everything that can be judged without a record.

docs/hl7.md says for senders which rule refuses (AR, here) and which one holds (after AA, in the record).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from carefolio.hl7.errors import (
    DATA_TYPE,
    DUPLICATE_KEY,
    REQUIRED_FIELD_MISSING,
    SEGMENT_SEQUENCE,
    TABLE_VALUE,
    UNSUPPORTED_PROCESSING_ID,
    HL7Error,
    Place,
)
from carefolio.hl7.reader import Message, Segment
from carefolio.hl7.time import TimeFormatError, read_moment

# Events that make, move or end an encounter: PV1-19.1 is its key.
ENCOUNTER_EVENTS = frozenset({"A01", "A02", "A03", "A04", "A05", "A11", "A12", "A13"})
# Three letters each (tables 0076 and 0003), as every message in the open has them, local ones with Z too.
_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9]{2}(\^[A-Za-z][A-Za-z0-9]{2})?\Z")
_ONE_PATIENT = ENCOUNTER_EVENTS | {"A08", "A28", "A31"}
_MOST_REPETITIONS = 1000
_LONGEST_IDENTIFIER = 200
_CLOCK_SKEW = timedelta(days=1)
_TEXT_TYPES = frozenset({"TX", "FT", "ST"})


def check(message: Message, now: datetime, *, production: bool) -> None:
    """Raise HL7Error for the first thing that the sender must change.

    ``now`` is aware; ``production``: MSH-11 must be P. Message types that have no rules here pass with a good header.
    """
    for error in violations(message, now, production=production):
        raise error


def violations(message: Message, now: datetime, *, production: bool) -> Iterator[HL7Error]:
    """Everything that the sender must change, in the order in which it would be told."""
    yield from _header(message, now, production)
    yield from _bounds(message)
    rules = _RULES.get(message.code)
    if (rules and message.code == "ADT") or (rules and message.event == "R01"):
        yield from rules(message)


def is_type(text: str) -> bool:
    """Whether a text has the shape of a message type and trigger event."""
    return bool(_TYPE.match(text))


def _header(message: Message, now: datetime, production: bool) -> Iterator[HL7Error]:
    header = message.header
    yield from _required(header, 7, "time of the message")
    late = list(_time(header, 7))
    yield from late
    if not late and header.get(7).strip() and read_moment(header.get(7)).instant > now + _CLOCK_SKEW:
        # It would win against every true time to come.
        yield HL7Error(DATA_TYPE, header.place(7), "more than a day in the future")
    missing = list(_required(header, 9, "message type"))
    yield from missing
    if not missing and not is_type(message.type):
        yield HL7Error(TABLE_VALUE, header.place(9), "not a message type such as ADT^A01")
    yield from _required(header, 10, "message control id")
    if len(message.control_id) > 199:
        yield HL7Error(DATA_TYPE, header.place(10), "longer than 199 characters")
    processing = header.get(11)
    if production and processing != "P":
        yield HL7Error(UNSUPPORTED_PROCESSING_ID, header.place(11), "only P is accepted here")


def _adt(message: Message) -> Iterator[HL7Error]:
    event = message.event
    yield from _patient(message, alone=event in _ONE_PATIENT)
    yield from _allergies(message)
    if event in ENCOUNTER_EVENTS:
        visit = message.first("PV1")
        if visit is None:
            yield _no_segment(message, "PV1")
            return
        if not visit.get(19).strip():
            yield HL7Error(REQUIRED_FIELD_MISSING, visit.place(19, 0, 1), "no visit number, the encounter's key")
        for field in (44, 45):
            yield from _time(visit, field)
    elif not event:
        yield HL7Error(REQUIRED_FIELD_MISSING, message.header.place(9, 0, 2), "trigger event is missing")


def _oru(message: Message) -> Iterator[HL7Error]:
    yield from _patient(message, alone=True)
    if message.first("OBR") is None:
        yield HL7Error(SEGMENT_SEQUENCE, Place("OBR"), "a result message has an OBR segment")
    order: Segment | None = None
    request: Segment | None = None
    for segment in message.segments:
        if segment.name == "ORC":
            order, request = segment, None
        elif segment.name == "OBR":
            yield from _report(segment, order)
            request, order = segment, None
        elif segment.name == "OBX" and request is not None:
            yield from _result(segment, request)


def _report(request: Segment, order: Segment | None) -> Iterator[HL7Error]:
    filler = request.get(3).strip()
    ordered = order.get(3).strip() if order else ""
    if not filler and not ordered:
        yield HL7Error(REQUIRED_FIELD_MISSING, request.place(3), "no filler order number (neither OBR-3 nor ORC-3)")
    if filler and ordered and filler != ordered:
        yield HL7Error(DUPLICATE_KEY, request.place(3), "filler order number differs from ORC-3")
    if not request.get(4, 1).strip() and not request.get(4, 2).strip():
        yield HL7Error(REQUIRED_FIELD_MISSING, request.place(4, 0, 1), "no service code")
    for field in (7, 14, 22):
        yield from _time(request, field)


def _result(result: Segment, request: Segment) -> Iterator[HL7Error]:
    if not result.get(3, 1).strip() and not result.get(3, 2).strip() and result.get(2) not in _TEXT_TYPES:
        yield HL7Error(REQUIRED_FIELD_MISSING, result.place(3, 0, 1), "no observation code")
    yield from _time(result, 14)
    if not result.get(14).strip() and not request.get(7).strip():
        yield HL7Error(REQUIRED_FIELD_MISSING, result.place(14), "no observation time (neither OBX-14 nor OBR-7)")
    if result.field(5) and not result.get(2).strip():
        yield HL7Error(REQUIRED_FIELD_MISSING, result.place(2), "a value without its data type")


def _patient(message: Message, *, alone: bool) -> Iterator[HL7Error]:
    pid = message.first("PID")
    if pid is None:
        yield _no_segment(message, "PID")
        return
    if alone and (second := next((s for s in message.all("PID") if s.occurrence > 1), None)):
        # What follows would be taken for the first patient's.
        yield HL7Error(SEGMENT_SEQUENCE, second.place(), "one message is about one patient")
    numbers = [repetition for field in (3, 2) for repetition in pid.repetitions(field) if repetition.get(1).strip()]
    if not numbers:
        yield HL7Error(REQUIRED_FIELD_MISSING, pid.place(3, 0, 1), "no patient identifier")
    yield from _time(pid, 7)
    yield from _time(pid, 29)
    emails = [r.place for r in pid.repetitions(13) if r.get(2) == "NET"]
    if len(emails) > 1:
        yield HL7Error(DUPLICATE_KEY, emails[1], "more than one e-mail address")


def _bounds(message: Message) -> Iterator[HL7Error]:
    """What no message of any type may hold, because the record could not: found out before it is acknowledged.

    Text may have any number of lines; a thousand names, addresses or doctors are a mistake.
    """
    for pid in message.all("PID"):
        for repetition in (repetition for field in (3, 2) for repetition in pid.repetitions(field)):
            if max(len(part) for part in repetition.components) > _LONGEST_IDENTIFIER:
                yield HL7Error(DATA_TYPE, repetition.place, f"longer than {_LONGEST_IDENTIFIER} characters")
    for segment in message.segments:
        if segment.name in ("OBX", "NTE"):
            continue
        if segment.text.count(segment.delimiters.repetition) > _MOST_REPETITIONS:
            yield HL7Error(DATA_TYPE, segment.place(), f"more than {_MOST_REPETITIONS} repetitions")


def _allergies(message: Message) -> Iterator[HL7Error]:
    seen: set[tuple[str, str, str]] = set()
    for allergy in message.all("AL1"):
        if allergy.is_null(3):
            continue
        if not allergy.get(3, 1).strip() and not allergy.get(3, 2).strip():
            yield HL7Error(REQUIRED_FIELD_MISSING, allergy.place(3), "neither code nor text of the allergy")
            continue
        yield from _time(allergy, 6)
        key = (allergy.get(3, 1), allergy.get(3, 2), allergy.get(6))
        if key in seen:
            yield HL7Error(DUPLICATE_KEY, allergy.place(3), "the same allergy and date twice")
        seen.add(key)


def _no_segment(message: Message, name: str) -> HL7Error:
    return HL7Error(SEGMENT_SEQUENCE, Place(name), f"{message.type} needs a {name} segment".replace("^", " "))


def _required(segment: Segment, field: int, what: str) -> Iterator[HL7Error]:
    if not segment.get(field).strip() or segment.is_null(field):
        yield HL7Error(REQUIRED_FIELD_MISSING, segment.place(field), f"{what} is missing")


def _time(segment: Segment, field: int) -> Iterator[HL7Error]:
    text = segment.get(field).strip()
    if not text or text == '""':
        return
    try:
        read_moment(text)
    except TimeFormatError as error:
        yield HL7Error(DATA_TYPE, segment.place(field), str(error))


_RULES: dict[str, Callable[[Message], Iterator[HL7Error]]] = {"ADT": _adt, "ORU": _oru}
