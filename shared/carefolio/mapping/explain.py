"""For every value of a message: where it went, and by which rule."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from carefolio.hl7 import Message, Segment, TimeFormatError, read_moment
from carefolio.mapping import codes
from carefolio.mapping.kept import TRANSLATED, is_grammar, is_mapped, leaves, leaves_of
from carefolio.mapping.message import map_message
from carefolio.mapping.model import Entry, Mapped, Source

# Values that are read by code rather than by a table, and leave as something else than they came.
_BY_CODE = {
    ("MSH", 7): "Bundle.timestamp", ("MSH", 9): "MessageHeader.eventCoding", ("MSH", 10): "Bundle.identifier.value",
    ("OBX", 11): "Observation.status", ("OBX", 5): "Observation.value[x]", ("OBX", 7): "Observation.referenceRange",
    ("OBX", 8): "Observation.interpretation", ("OBX", 24): "Organization.address",
    ("OBR", 25): "DiagnosticReport.status", ("OBR", 5): "ServiceRequest.priority",
    ("ORC", 1): "ServiceRequest.status", ("ORC", 5): "ServiceRequest.status", ("PV1", 2): "Encounter.class",
    ("PID", 3): "Patient.identifier", ("PID", 29): "Patient.deceasedDateTime", ("PID", 30): "Patient.deceasedBoolean",
    ("PID", 32): "Patient.identifier.extension", ("AL1", 2): "AllergyIntolerance.category",
    ("RXA", 20): "Immunization.status", ("RXA", 21): "Immunization.status", ("TXA", 17): "DocumentReference.docStatus",
    ("TXA", 19): "DocumentReference.status", ("SCH", 11): "Appointment.start", ("SCH", 25): "Appointment.status",
    ("PID", 24): "Patient.multipleBirthBoolean", ("PID", 25): "Patient.multipleBirthInteger",
    ("MSA", 2): "MessageHeader.response.identifier", ("SCH", 9): "Appointment.minutesDuration",
    ("IAM", 2): "AllergyIntolerance.category", ("FT1", 6): "ChargeItem.status", ("TQ1", 9): "ServiceRequest.priority",
    ("TXA", 3): "DocumentReference.content", ("RXO", 4): "MedicationRequest.dosageInstruction",
    ("EVN", 2): "Provenance.recorded", ("EVN", 6): "Encounter.period", ("MSA", 1): "MessageHeader.response.code",
}  # fmt: skip


_MOST_TEXTS = 2000


@dataclass(frozen=True, slots=True)
class Line:
    """``position`` is such as ``PID-3(2).4`` or ``OBX[2]-5``; ``path`` is '' where ``rule`` says why."""

    position: str
    value: str
    path: str
    rule: str


def explain(message: Message, source: Source) -> list[Line]:
    """One line for every populated value, in the order of the message. Raises what map_message raises."""
    mapped = map_message(message, source)
    where = _index(mapped.entries)
    return [line for segment in message.segments for line in _lines(segment, mapped, where, source)]


def sources(message: Message, mapped: Mapped, entry: Entry, source: Source) -> dict[str, str]:
    """From where each element of one resource came: its path -> the field (``OBX[2]-5.1``).

    What its own segments say comes before what it has of others (OBR-7 of an OBX without OBX-14).
    """
    where = _index([entry])
    own = [segment for segment in message.segments if mapped.claims.get(id(segment)) is entry]
    others = [segment for segment in message.segments if mapped.claims.get(id(segment)) is not entry]
    found: dict[str, str] = {}
    for segment in (*own, *others):
        name = segment.name if segment.occurrence == 1 else f"{segment.name}[{segment.occurrence}]"
        is_own = mapped.claims.get(id(segment)) is entry
        for field, text in enumerate(segment.fields):
            if not field or not text or is_grammar(segment, field):
                continue
            rule = mapped.rules.get((id(segment), field))
            wanted = rule[0] if rule else _BY_CODE.get((segment.name, field), "")
            if not is_own and not wanted.startswith(f"{entry.type}."):
                continue
            for leaf in leaves_of(segment, field, text):
                path = _best(where, leaf.value, source, entry.type) or (wanted if wanted.startswith(entry.type) else "")
                path = path or next(iter(where.get(leaf.value, ())), "")
                if path:
                    found.setdefault(path, name + leaf.position(segment)[len(segment.name) :])
    return found


def _lines(segment: Segment, mapped: Mapped, where: dict[str, list[str]], source: Source) -> Iterator[Line]:
    name = segment.name if segment.occurrence == 1 else f"{segment.name}[{segment.occurrence}]"
    for leaf in leaves(segment, grammar=True):
        position = name + leaf.position(segment)[len(segment.name) :]
        if is_grammar(segment, leaf.field):
            yield Line(position, leaf.value, "", "how the message is written: delimiters, numbering, types")
            continue
        by_rule = mapped.rules.get((id(segment), leaf.field))
        by_code = _BY_CODE.get((segment.name, leaf.field), "")
        owner = mapped.claims.get(id(segment))
        wanted = by_rule[0] if by_rule else by_code
        kind = wanted.split(".")[0] if wanted else owner.type if owner else ""
        if is_mapped(segment, leaf):
            found = _best(where, leaf.value, source, kind)
            if by_code and not found.startswith(kind):
                found = ""
            rule = f"{segment.name}-{leaf.field} {by_rule[1]}" if by_rule else "as sent"
            path = found or wanted
            if path:
                yield Line(position, leaf.value, path, rule if found or not by_rule else f"{rule}, translated")
            else:
                yield Line(position, leaf.value, "", "read, and said already by another element")
            continue
        kept = next((path for path in where.get(leaf.value, ()) if _is_kept(path)), "")
        if kept:
            # What was translated is in an element and, beside it, as it was sent.
            said = f", and read for {wanted}" if wanted and (segment.name, leaf.field) in TRANSLATED else ""
            yield Line(position, leaf.value, kept, f"kept in extension{said}")
        else:
            yield Line(position, leaf.value, "", "not mapped because an equal resource was there already")


def _index(entries: Sequence[Entry]) -> dict[str, list[str]]:
    """Every value of the resources -> the paths where it stands."""
    where: dict[str, list[str]] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict):
            if "url" in value and "valueString" in value and path.endswith("]") and ".extension[" in path:
                where.setdefault(value["valueString"], []).append(f"{path.rpartition('[')[0]}('{value['url']}')")
                return
            for name, inner in value.items():
                if name not in ("reference", "resourceType"):
                    walk(inner, f"{path}.{name}")
        elif isinstance(value, list):
            for number, inner in enumerate(value):
                walk(inner, f"{path}[{number}]")
        else:
            where.setdefault(str(value), []).append(path)

    for entry in entries:
        walk(entry.resource, entry.type)
    return where


def _is_kept(path: str) -> bool:
    return f".extension('{codes.BASE}/" in path


def _best(where: dict[str, list[str]], value: str, source: Source, kind: str) -> str:
    """The path where a value stands: as it is, as a time, or inside a text or a URI; the rule's own type first."""
    candidates = [value, re.sub(r"\s+", "", value)]
    try:
        moment = read_moment(value, source.zone)
        candidates += [moment.fhir, moment.day]
    except TimeFormatError:
        candidates.append(codes.code_system(value, source.ods_code) or "")
        candidates.append(codes.oid(value) or "")
    for candidate in candidates:
        paths = [path for path in where.get(candidate, ()) if not _is_kept(path)]
        if paths:
            return next((path for path in paths if path.startswith(f"{kind}.")), paths[0])
    if len(value) > 3:
        # Bounded: a message made for it would have every value looked for in every other.
        for text, paths in islice(where.items(), _MOST_TEXTS):
            if value in text and (inside := [path for path in paths if not _is_kept(path)]):
                return next((path for path in inside if path.startswith(f"{kind}.")), inside[0])
    return ""
