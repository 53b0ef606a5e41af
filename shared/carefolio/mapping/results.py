"""ORC, OBR, OBX and NTE -> DiagnosticReport and Observation.

A report is one by filler order number and service; a result by those, OBX-3 and OBX-4 (domain rules A4, A5).
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any

from carefolio.hl7 import Message, Segment, TimeFormatError, read_moment
from carefolio.mapping import actors, codes
from carefolio.mapping import datatypes as dt
from carefolio.mapping.engine import apply, put
from carefolio.mapping.model import Context, Entry, Rule
from carefolio.mapping.orders import map_order
from carefolio.mapping.release import delay, delay_by
from carefolio.mapping.specimens import map_specimen, specimen_of_request

REPORT = (
    Rule(4, "code", dt.concept),
    Rule(22, "issued", dt.instant),
    Rule(24, "category[]", dt.table_concept("0074")),
    Rule(32, "resultsInterpreter[]", actors.practitioner_reference),
)
OBSERVATION = (
    Rule(3, "code", dt.concept),
    Rule(14, "effectiveDateTime", dt.instant_of_day),
    Rule(16, "performer[]", actors.practitioner_reference),
    Rule(17, "method", dt.concept),
    Rule(23, "performer[]", actors.organization_reference),
    Rule(25, "performer[]", actors.practitioner_reference),
    Rule(19, "issued", dt.instant),
    Rule(20, "bodySite", dt.concept),
)
_CODED = frozenset({"CE", "CWE", "CNE", "CF"})
_TEXT = frozenset({"TX", "FT", "ST"})


def map_results(
    message: Message,
    patient: Entry | None,
    encounter: Entry | None,
    context: Context,
    *,
    group: Sequence[Segment] | None = None,
    order: Entry | None = None,
) -> None:
    """Every order group of a report, from its OBR to the next.

    With ``group``, the results of that one group (of an ``order``, or of none) without a report around them.
    """
    if group is not None:
        request = next((segment for segment in group if segment.name == "OBR"), None)
        number = order.key if order else ("observed",)
        specimens = [map_specimen(s, "|".join(number), patient, context) for s in group if s.name == "SPM"]
        if order and specimens and order.type == "ServiceRequest":
            order.resource["specimen"] = [order.refer(specimen) for specimen in specimens]
        made = _results(group, request, order, number, patient, encounter, specimens[0] if specimens else None, context)
        if order and order.type == "ServiceRequest" and made:
            order.resource["supportingInfo"] = [order.refer(entry) for entry in made]
        elif order and order.type in ("Immunization", "MedicationAdministration"):
            for entry in made:
                entry.resource["partOf"] = [entry.refer(order)]
        return
    for part in _groups(message):
        _map_group(part, message, patient, encounter, context)


def _groups(message: Message) -> list[list[Segment]]:
    """From ORC (or the OBR of a group without one) to the next; each has one OBR, first."""
    found: list[list[Segment]] = []
    before: list[Segment] = []
    for segment in message.segments:
        if segment.name == "OBR":
            found.append([segment, *before])
            before = []
        elif segment.name == "ORC":
            before = [segment]
        elif found and not before:
            found[-1].append(segment)
    return found


def _map_group(
    group: Sequence[Segment], message: Message, patient: Entry | None, encounter: Entry | None, context: Context
) -> None:
    request = group[0]
    order = next((segment for segment in group if segment.name == "ORC"), None)
    filler = request.get(3).strip() or (order.get(3).strip() if order else "") or request.get(2).strip()
    service = request.get(4, 1).strip() or request.get(4, 2).strip()
    report = context.own("DiagnosticReport", (filler, service), str(request.place()))
    context.claim(request, report)
    own = context.of(report)
    resource = report.resource
    resource["status"] = codes.REPORT_STATUS.get(request.get(25).strip().upper(), "unknown")
    deleted = request.get(25).strip().upper() == "R" and context.source.r_deletes
    if deleted:
        # The reference product's rule (domain rules A4); table 0123 says "stored, not yet verified".
        resource["status"] = "entered-in-error"
    for segment, field, kind in ((request, 3, "FILL"), (order, 3, "FILL"), (request, 2, "PLAC"), (order, 2, "PLAC")):
        for repetition in segment.repetitions(field)[:1] if segment else []:
            if identifier := dt.entity_identifier(repetition, own):
                system = "http://terminology.hl7.org/CodeSystem/v2-0203"
                identifier["type"] = {"coding": [{"system": system, "code": kind}]}
                put(resource, "identifier[]", identifier)
    apply(REPORT, request, own)
    resource.setdefault("code", dt.unknown())
    _taken(request, resource, own)
    for field in (34, 35):
        for repetition in request.repetitions(field):
            if person := actors.practitioner_of_ndl(repetition, own):
                put(resource, "performer[]", actors.reference(report, person))
    ordered = map_order([*([order] if order else []), *group], message, patient, encounter, context)
    resource["basedOn"] = [report.refer(ordered)]
    if patient:
        resource["subject"] = report.refer(patient)
    if encounter:
        resource["encounter"] = report.refer(encounter)
    specimens = [map_specimen(segment, filler, patient, context) for segment in group if segment.name == "SPM"]
    if not specimens and (specimen := specimen_of_request(request, filler, patient, context)):
        specimens = [specimen]
    if specimens:
        resource["specimen"] = [report.refer(specimen) for specimen in specimens]
    first = specimens[0] if specimens else None
    made = _results(group, request, report, (filler, service), patient, encounter, first, context)
    if made:
        resource["result"] = [report.refer(entry) for entry in made]
    if deleted:
        for entry in made:
            entry.resource["status"] = "entered-in-error"
    # The report holds what its results say.
    delays = [entry.available_from for entry in (*made, report) if entry.available_from]
    if delays:
        delay(report, max(delays))


def _taken(request: Segment, resource: dict[str, Any], context: Context) -> None:
    """OBR-7 and OBR-8: the time, or where both are there the period."""
    times = {
        name: found
        for name, field in (("start", 7), ("end", 8))
        for r in request.repetitions(field)[:1]
        if (found := dt.instant_of_day(r, context))
    }
    if "end" in times:
        resource["effectivePeriod"] = times
    elif times:
        resource["effectiveDateTime"] = times["start"]


def _results(
    group: Sequence[Segment],
    request: Segment | None,
    report: Entry | None,
    order: tuple[str, ...],
    patient: Entry | None,
    encounter: Entry | None,
    specimen: Entry | None,
    context: Context,
) -> list[Entry]:
    """The Observations of a group; embedded files go to the report, where there is one."""
    by_key: dict[tuple[str, ...], Entry] = {}
    made: list[Entry] = []
    for segment in group:
        if segment.name != "OBX" or id(segment) in context.claims:
            continue
        kind = segment.get(2).strip().upper()
        if kind in ("ED", "RP") and report is not None and report.type == "DiagnosticReport":
            context.claim(segment, report)
            delay_by(segment, request, report, context)
            if found := attachment(segment, context):
                report.resource.setdefault("presentedForm", []).append(found)
            continue
        coded = next((part for at in (1, 2, 4, 5) if (part := segment.get(3, at).strip())), "")
        key = (*order, coded or order[-1], segment.get(3, 3).strip(), segment.get(4).strip())
        if report is None:
            # Not of an order: what was observed at another time is another observation.
            key = (*key, segment.get(14).strip())
        known = by_key.get(key)
        if known is not None and kind in _TEXT and "valueString" in known.resource:
            # A textual report: lines that share OBX-3 are one text.
            known.resource["valueString"] += "\n" + _whole(segment)
            delay_by(segment, request, known, context)
            context.claim(segment, known)
            continue
        entry = by_key[key] = context.own("Observation", key, str(segment.place()))
        made.append(entry)
        _observation(segment, request, entry, context)
        delay_by(segment, request, entry, context)
        resource = entry.resource
        if patient:
            resource["subject"] = entry.refer(patient)
        if encounter:
            resource["encounter"] = entry.refer(encounter)
        if specimen:
            resource["specimen"] = entry.refer(specimen)
    return made


def _observation(segment: Segment, request: Segment | None, entry: Entry, context: Context) -> None:
    own, resource = context.of(entry), entry.resource
    resource["status"] = codes.OBSERVATION_STATUS.get(segment.get(11).strip().upper(), "unknown")
    apply(OBSERVATION, segment, own)
    if sub_id := segment.get(4).strip():
        resource["identifier"] = [{"system": f"{codes.BASE}/Id/observation-sub-id", "value": sub_id}]
    if instance := next((c for r in segment.repetitions(21) if (c := dt.entity_identifier(r, own))), None):
        put(resource, "identifier[]", instance)
    if equipment := next((c for r in segment.repetitions(18) if (c := dt.entity_identifier(r, own))), None):
        resource["device"] = {"identifier": equipment}
    if "code" not in resource:
        asked = request.repetitions(4) if request else []
        resource["code"] = next((c for r in asked if (c := dt.concept(r, own))), dt.unknown())
    if "effectiveDateTime" not in resource and request is not None:
        taken = next((t for r in request.repetitions(7) if (t := dt.instant_of_day(r, own))), None)
        if taken:
            resource["effectiveDateTime"] = taken
    resource.update(_value(segment, own))
    for repetition in segment.repetitions(8):
        if (code := repetition.get(1).strip()) and (flag := dt.concept(repetition, own)):
            if flag["coding"][0].get("system") != (system := codes.interpretation_system(code)):
                flag["coding"][0]["system"] = system
                repetition.forget(3)
            put(resource, "interpretation[]", flag)
    if request is not None and (category := codes.observation_category(request.get(24).strip())):
        resource["category"] = [{"coding": [{"system": codes.OBSERVATION_CATEGORY, "code": category}]}]
    _laboratory(segment, entry, own)
    if band := _range(segment):
        resource["referenceRange"] = [band]


def _laboratory(segment: Segment, entry: Entry, context: Context) -> None:
    """OBX-15, -23, -24, -25: the laboratory, where it is, and who directs it."""
    laboratory: Entry | None = None
    for repetition in segment.repetitions(23):
        laboratory = laboratory or actors.organization(repetition, context)
    for repetition in segment.repetitions(15):
        if producer := actors.organization_of_code(repetition, context):
            put(entry.resource, "performer[]", actors.reference(entry, producer))
            laboratory = laboratory or producer
    if laboratory is None:
        return
    for repetition in segment.repetitions(24):
        if where := dt.address(repetition, context):
            put(laboratory.resource, "address[]", where)


def _value(segment: Segment, context: Context) -> dict[str, Any]:
    repetitions = segment.repetitions(5)
    if not repetitions:
        return {"dataAbsentReason": dt.unknown()}
    kind = segment.get(2).strip().upper()
    convert = _VALUES.get(kind)
    if convert and len(repetitions) == 1 and (made := convert(segment, context)):
        return made
    if kind in _CODED and len(repetitions) > 1:
        # Several answers to one question: FHIR has one value, and components for more.
        asked = next((c for r in segment.repetitions(3) if (c := dt.concept(r, context))), dt.unknown())
        answers = [found for r in repetitions if (found := dt.concept(r, context))]
        return {"component": [{"code": asked, "valueCodeableConcept": answer} for answer in answers]}
    return {"valueString": _whole(segment)}


def _number(segment: Segment, _: Context) -> dict[str, Any] | None:
    number = dt.decimal(segment.get(5).strip())
    return None if number is None else {"valueQuantity": _quantity(number, segment)}


def _quantity(number: Any, segment: Segment, comparator: str = "") -> dict[str, Any]:
    made: dict[str, Any] = {"value": number}
    if comparator:
        made["comparator"] = comparator
    unit, shown, system = (segment.get(6, at).strip() for at in (1, 2, 3))
    if unit or shown:
        made["unit"] = shown or unit
    if unit and system.upper() == "UCUM":
        made |= {"system": "http://unitsofmeasure.org", "code": unit}
    return made


def _structured(segment: Segment, _: Context) -> dict[str, Any] | None:
    """SN: comparator, number, separator, number."""
    comparator, separator = segment.get(5, 1).strip(), segment.get(5, 3).strip()
    low, high = (dt.decimal(segment.get(5, at).strip()) for at in (2, 4))
    if low is None:
        return None
    if separator == "-" and high is not None:
        return {"valueRange": {"low": _quantity(low, segment), "high": _quantity(high, segment)}}
    if separator in (":", "/") and high is not None:
        return {"valueRatio": {"numerator": _quantity(low, segment), "denominator": {"value": high}}}
    if not separator and comparator in ("", "=", "<", "<=", ">", ">="):
        return {"valueQuantity": _quantity(low, segment, "" if comparator == "=" else comparator)}
    return None


def _coded(segment: Segment, context: Context) -> dict[str, Any] | None:
    made = dt.concept(segment.repetitions(5)[0], context)
    return {"valueCodeableConcept": made} if made else None


def _moment(segment: Segment, context: Context) -> dict[str, Any] | None:
    try:
        return {"valueDateTime": read_moment(segment.get(5), context.source.zone).fhir}
    except TimeFormatError:
        return None


_VALUES: dict[str, Callable[[Segment, Context], dict[str, Any] | None]] = {
    "NM": _number,
    "SN": _structured,
    "CE": _coded,
    "CWE": _coded,
    "CNE": _coded,
    "CF": _coded,
    "DT": _moment,
    "TS": _moment,
    "DTM": _moment,
}


def _range(segment: Segment) -> dict[str, Any] | None:
    """OBX-7 as text always, and as numbers where it reads ``3.5-5.0``, ``< 5`` or ``> 60``."""
    shown = next((r.whole().strip() for r in segment.repetitions(7)), "")
    if not shown:
        return None
    made: dict[str, Any] = {}
    if shown[0] in "<>":
        number = dt.decimal(shown.lstrip("<>=").strip())
        if number is not None:
            made["high" if shown[0] == "<" else "low"] = _quantity(number, segment)
    else:
        low, dash, high = shown.rpartition("-")
        bounds = [dt.decimal(part.strip()) for part in (low, high)]
        if dash and bounds[0] is not None and bounds[1] is not None:
            made = {"low": _quantity(bounds[0], segment), "high": _quantity(bounds[1], segment)}
    made["text"] = shown
    return made


def attachment(segment: Segment, context: Context) -> dict[str, Any] | None:
    """ED -> an Attachment with its data; an RP points to where the sender keeps it."""
    repetition = next(iter(segment.repetitions(5)), None)
    if repetition is None:
        return None
    title = segment.get(3, 2).strip() or segment.get(3, 1).strip()
    made: dict[str, Any] = {"title": title} if title else {}
    if segment.get(2).strip().upper() == "RP":
        made["url"] = repetition.get(1).strip()
        return made
    kinds = [part.lower() for at in (2, 3) if (part := repetition.get(at).strip())]
    made["contentType"] = _media_type(kinds)
    data = "".join(repetition.get(5).split())
    if repetition.get(4).strip().lower() == "base64" and _is_base64(data):
        made["data"] = data
        return made
    if repetition.get(4).strip().lower() == "base64":
        made["contentType"] = "text/plain"
        context.mapped.notes.append(f"{segment.place(5)}: says base64 and is none; kept as text")
    made["data"] = base64.b64encode((repetition.get(5) or repetition.get(1)).encode()).decode()
    return made


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except ValueError:
        return False
    return True


def _media_type(kinds: Sequence[str]) -> str:
    """ED.2 and ED.3, such as ``application`` and ``pdf``, or ``PDF`` alone."""
    whole = "/".join(kinds[:2])
    if len(kinds) == 2 and kinds[0] in ("application", "image", "text", "audio", "video"):
        return whole
    known = {"pdf": "application/pdf", "rtf": "application/rtf", "jpeg": "image/jpeg", "png": "image/png",
             "tiff": "image/tiff", "html": "text/html", "xml": "application/xml", "text": "text/plain"}  # fmt: skip
    return next((known[kind] for kind in reversed(kinds) if kind in known), "application/octet-stream")


# Resource types whose notes are Annotations.
_NOTED = frozenset({
    "AllergyIntolerance", "Condition", "Immunization", "MedicationAdministration", "MedicationDispense",
    "MedicationRequest", "Observation", "Procedure", "ServiceRequest", "Specimen", "ChargeItem",
})  # fmt: skip


def note(segment: Segment, owner: Entry, context: Context) -> None:
    """NTE -> the owner's note; of a report its conclusion, of an appointment its comment."""
    context.claim(segment, owner)
    if owner.type not in _NOTED and owner.type not in ("DiagnosticReport", "Appointment"):
        return
    text = "\n".join(r.whole() for r in segment.repetitions(3)).strip()
    if not text:
        return
    if owner.type in _NOTED:
        made: dict[str, Any] = {"text": text}
        if when := next((t for r in segment.repetitions(6) if (t := dt.instant_of_day(r, context))), None):
            made["time"] = when
        if person := next((p for r in segment.repetitions(5) if (p := actors.practitioner(r, context))), None):
            made["authorReference"] = actors.reference(owner, person)
        owner.resource.setdefault("note", []).append(made)
    else:
        element = "conclusion" if owner.type == "DiagnosticReport" else "comment"
        before = owner.resource.get(element)
        owner.resource[element] = f"{before}\n{text}" if before else text


def _whole(segment: Segment) -> str:
    return "\n".join(r.whole().strip() for r in segment.repetitions(5))
