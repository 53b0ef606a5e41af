"""SCH, RGS, AIS, AIG, AIL, AIP -> Appointment (SIU, SRM)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from carefolio.hl7 import Message, Segment, TimeFormatError, read_moment
from carefolio.mapping import actors
from carefolio.mapping import datatypes as dt
from carefolio.mapping.engine import apply, put
from carefolio.mapping.model import Context, Entry, Rule

APPOINTMENT = (
    Rule(1, "identifier[]", dt.entity_identifier),
    Rule(2, "identifier[]", dt.entity_identifier),
    Rule(6, "reasonCode[]", dt.concept),
    Rule(7, "reasonCode[]", dt.concept),
    Rule(8, "appointmentType", dt.concept),
)
# The event says what has become of it (HL7 v2.8.2 chapter 10.3).
_STATUS = {"S12": "booked", "S13": "booked", "S14": "booked", "S15": "cancelled", "S16": "cancelled",
           "S17": "entered-in-error", "S26": "noshow"}  # fmt: skip
_BY_FILLER = {"PENDING": "pending", "WAITLIST": "waitlist", "BOOKED": "booked", "STARTED": "arrived",
              "COMPLETE": "fulfilled", "CANCELLED": "cancelled", "DC": "cancelled", "DELETED": "entered-in-error",
              "NOSHOW": "noshow", "BLOCKED": "proposed", "OVERBOOK": "booked", "ARRIVED": "arrived"}  # fmt: skip
_PEOPLE = {12: "placer contact", 16: "filler contact", 20: "entered by"}


def map_appointment(message: Message, schedule: Segment, patient: Entry | None, context: Context) -> Entry:
    """One appointment, keyed by SCH-1.1 (else SCH-2.1)."""
    number = schedule.get(1).strip() or schedule.get(2).strip() or message.control_id
    entry = context.own("Appointment", (number,), "SCH")
    own, resource = context.of(entry), entry.resource
    apply(APPOINTMENT, schedule, own)
    said = _BY_FILLER.get(schedule.get(25).strip().upper())
    resource["status"] = said or _STATUS.get(message.event, "proposed" if message.code == "SRM" else "booked")
    if subject := schedule.get(7, 2).strip():
        resource["description"] = subject
    _when(schedule, entry, own)
    participants: list[dict[str, Any]] = []
    if patient:
        participants.append({"actor": entry.refer(patient), "status": "accepted"})
    for field, role in _PEOPLE.items():
        participants += [
            {"type": [{"text": role}], "actor": actors.reference(entry, person), "status": "accepted"}
            for repetition in schedule.repetitions(field)
            if (person := actors.practitioner(repetition, own))
        ]
    for segment in message.segments:
        if segment.name in ("RGS", "AIS", "AIG", "AIL", "AIP"):
            context.claim(segment, entry)
            participants += _resource(segment, entry, own)
    resource["participant"] = participants or [{"type": [{"text": "not stated"}], "status": "needs-action"}]
    return entry


def _when(schedule: Segment, entry: Entry, context: Context) -> None:
    """SCH-11's start and end; else the start and the length (SCH-9, SCH-10)."""
    resource = entry.resource
    start, end = _instant(schedule, 11, 4, context), _instant(schedule, 11, 5, context)
    minutes = _minutes(schedule, 9, 10)
    if minutes:
        resource["minutesDuration"] = minutes
    if start:
        resource["start"] = start.isoformat(timespec="seconds")
        stop = end or start + timedelta(minutes=minutes or 1)
        resource["end"] = stop.isoformat(timespec="seconds")


def _minutes(segment: Segment, field: int, unit_field: int) -> int:
    """A length with its unit (minutes where none is named), 0 where there is none."""
    length, unit = segment.get(field).strip(), segment.get(unit_field).strip().upper()
    minutes = int(length) if length.isascii() and length.isdecimal() and len(length) < 6 else 0
    if minutes and unit.startswith(("H", "S")):
        return minutes * 60 if unit.startswith("H") else max(1, minutes // 60)
    return minutes


def _instant(segment: Segment, field: int, component: int, context: Context) -> Any:
    try:
        moment = read_moment(segment.get(field, component), context.source.zone)
    except TimeFormatError:
        return None
    return moment.instant.astimezone(context.source.zone) if moment.precision >= 10 else None


def _resource(segment: Segment, entry: Entry, context: Context) -> list[dict[str, Any]]:
    """What takes part: a service (AIS), equipment (AIG), a place (AIL), a person (AIP)."""
    if segment.name == "AIS":
        for repetition in segment.repetitions(3):
            if service := dt.concept(repetition, context):
                put(entry.resource, "serviceType[]", service)
        if "start" not in entry.resource and (start := _instant(segment, 4, 1, context)):
            entry.resource["start"] = start.isoformat(timespec="seconds")
            entry.resource["end"] = (start + timedelta(minutes=1)).isoformat(timespec="seconds")
        return []
    made: list[dict[str, Any]] = []
    for repetition in segment.repetitions(3):
        found: dict[str, Any] | None = None
        if segment.name == "AIP" and (person := actors.practitioner(repetition, context)):
            found = {"actor": actors.reference(entry, person)}
        elif segment.name == "AIL" and (place := actors.location(repetition, context)):
            found = {"actor": actors.reference(entry, place)}
        elif segment.name == "AIG" and (thing := dt.concept(repetition, context)):
            found = {"type": [thing]}
        if found is None:
            continue
        role = {"AIP": 4, "AIG": 4}.get(segment.name)
        kinds = [c for r in segment.repetitions(role) if (c := dt.concept(r, context))] if role else []
        if kinds:
            found["type"] = [*found.get("type", []), *kinds]
        start = _instant(segment, {"AIP": 6, "AIL": 6, "AIG": 8}[segment.name], 1, context)
        if start:
            found["period"] = {"start": start.isoformat(timespec="seconds")}
            at, unit_at = {"AIP": (9, 10), "AIL": (9, 10), "AIG": (11, 12)}[segment.name]
            if minutes := _minutes(segment, at, unit_at):
                found["period"]["end"] = (start + timedelta(minutes=minutes)).isoformat(timespec="seconds")
        made.append(found | {"status": "accepted"})
    return made
