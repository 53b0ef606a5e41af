"""ORC, OBR, OBX, NTE and SPM -> DiagnosticReport, Observation, Specimen.

A report is one by filler order number and service; a result by those, OBX-3 and OBX-4 (domain rules A4, A5).
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any

from carefolio.hl7 import Message, Segment, TimeFormatError, read_moment
from carefolio.mapping import codes
from carefolio.mapping import datatypes as dt
from carefolio.mapping.engine import apply, put
from carefolio.mapping.model import Context, Entry, Rule

REPORT = (
    Rule(4, "code", dt.concept),
    Rule(7, "effectiveDateTime", dt.instant_of_day),
    Rule(22, "issued", dt.instant),
    Rule(24, "category[]", dt.table_concept("0074")),
    Rule(32, "resultsInterpreter[]", dt.practitioner_reference),
)
OBSERVATION = (
    Rule(3, "code", dt.concept),
    Rule(14, "effectiveDateTime", dt.instant_of_day),
    Rule(16, "performer[]", dt.practitioner_reference),
    Rule(17, "method", dt.concept),
    Rule(23, "performer[]", dt.organization_reference),
)
SPECIMEN = (
    Rule(2, "identifier[]", dt.entity_identifier),
    Rule(4, "type", dt.table_concept("0487")),
    Rule(8, "collection.bodySite", dt.concept),
    Rule(17, "collection.collectedDateTime", dt.instant_of_day),
    Rule(18, "receivedTime", dt.instant_of_day),
)
_TEXT = frozenset({"TX", "FT", "ST"})


def map_results(message: Message, patient: Entry, encounter: Entry | None, context: Context) -> None:
    """Every order group of an ORU, from its OBR to the next."""
    groups: list[list[Segment]] = []
    order: Segment | None = None
    for segment in message.segments:
        if segment.name == "ORC":
            order = segment
        elif segment.name == "OBR":
            groups.append([segment] + ([order] if order else []))
            order = None
        elif groups and segment.name in ("OBX", "NTE", "SPM"):
            groups[-1].append(segment)
    for group in groups:
        _map_group(group, patient, encounter, context)


def _map_group(group: Sequence[Segment], patient: Entry, encounter: Entry | None, context: Context) -> None:
    request = group[0]
    order = next((segment for segment in group if segment.name == "ORC"), None)
    filler = request.get(3).strip() or (order.get(3).strip() if order else "")
    service = request.get(4, 1).strip() or request.get(4, 2).strip()
    report = context.own("DiagnosticReport", (filler, service), str(request.place()))
    own = context.of(report)
    resource = report.resource
    resource["status"] = codes.REPORT_STATUS.get(request.get(25).strip().upper(), "unknown")
    for segment, field, kind in ((request, 3, "FILL"), (order, 3, "FILL"), (request, 2, "PLAC"), (order, 2, "PLAC")):
        for repetition in segment.repetitions(field)[:1] if segment else []:
            if identifier := dt.entity_identifier(repetition, own):
                system = "http://terminology.hl7.org/CodeSystem/v2-0203"
                identifier["type"] = {"coding": [{"system": system, "code": kind}]}
                put(resource, "identifier[]", identifier)
    apply(REPORT, request, own)
    resource.setdefault("code", _unknown())
    resource["subject"] = report.refer(patient)
    if encounter:
        resource["encounter"] = report.refer(encounter)
    specimens = [_specimen(segment, filler, patient, context) for segment in group if segment.name == "SPM"]
    if specimens:
        resource["specimen"] = [report.refer(specimen) for specimen in specimens]
    _results(group, report, (filler, service), patient, encounter, specimens[0] if specimens else None, context)


def _specimen(segment: Segment, filler: str, patient: Entry, context: Context) -> Entry:
    number = segment.get(2).strip() or segment.get(1).strip() or str(segment.occurrence)
    entry = context.own("Specimen", (filler, number), str(segment.place()))
    apply(SPECIMEN, segment, context.of(entry))
    entry.resource["subject"] = entry.refer(patient)
    return entry


def _results(
    group: Sequence[Segment],
    report: Entry,
    order: tuple[str, str],
    patient: Entry,
    encounter: Entry | None,
    specimen: Entry | None,
    context: Context,
) -> None:
    request = group[0]
    by_key: dict[tuple[str, ...], Entry] = {}
    last: Entry = report
    for segment in group:
        if segment.name == "NTE":
            _note(segment, last)
        if segment.name != "OBX":
            continue
        kind = segment.get(2).strip().upper()
        if kind in ("ED", "RP"):
            _attachment(segment, report, context)
            continue
        coded = segment.get(3, 1).strip() or segment.get(3, 2).strip()
        key = (*order, coded or order[1], segment.get(3, 3).strip(), segment.get(4).strip())
        known = by_key.get(key)
        if known is not None and kind in _TEXT and "valueString" in known.resource:
            # A textual report: lines that share OBX-3 are one text.
            known.resource["valueString"] += "\n" + _whole(segment)
            last = known
            continue
        entry = by_key[key] = last = context.own("Observation", key, str(segment.place()))
        _observation(segment, request, entry, context)
        resource = entry.resource
        resource["subject"] = entry.refer(patient)
        if encounter:
            resource["encounter"] = entry.refer(encounter)
        if specimen:
            resource["specimen"] = entry.refer(specimen)
        report.resource.setdefault("result", []).append(report.refer(entry))


def _observation(segment: Segment, request: Segment, entry: Entry, context: Context) -> None:
    own, resource = context.of(entry), entry.resource
    resource["status"] = codes.OBSERVATION_STATUS.get(segment.get(11).strip().upper(), "unknown")
    apply(OBSERVATION, segment, own)
    if "code" not in resource:
        resource["code"] = next((c for r in request.repetitions(4) if (c := dt.concept(r, own))), _unknown())
    if "effectiveDateTime" not in resource:
        taken = next((t for r in request.repetitions(7) if (t := dt.instant_of_day(r, own))), None)
        if taken:
            resource["effectiveDateTime"] = taken
    resource.update(_value(segment, own))
    for repetition in segment.repetitions(8):
        code = repetition.get(1).strip()
        if code:
            coding = {"system": codes.interpretation_system(code), "code": code}
            put(resource, "interpretation[]", {"coding": [coding]})
    if band := _range(segment):
        resource["referenceRange"] = [band]


def _unknown() -> dict[str, Any]:
    """What FHIR wants where a sender says nothing."""
    return {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/data-absent-reason", "code": "unknown"}]}


def _value(segment: Segment, context: Context) -> dict[str, Any]:
    repetitions = segment.repetitions(5)
    if not repetitions:
        return {"dataAbsentReason": _unknown()}
    convert = _VALUES.get(segment.get(2).strip().upper())
    if convert and len(repetitions) == 1 and (made := convert(segment, context)):
        return made
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


def _attachment(segment: Segment, report: Entry, context: Context) -> None:
    """ED -> the report's presentedForm. An RP points to where the sender keeps it."""
    repetition = next(iter(segment.repetitions(5)), None)
    if repetition is None:
        return
    title = segment.get(3, 2).strip() or segment.get(3, 1).strip()
    made: dict[str, Any] = {"title": title} if title else {}
    if segment.get(2).strip().upper() == "RP":
        made["url"] = repetition.get(1).strip()
    else:
        kinds = [part.lower() for at in (2, 3) if (part := repetition.get(at).strip())]
        made["contentType"] = _media_type(kinds)
        data = "".join(repetition.get(5).split())
        if repetition.get(4).strip().lower() == "base64" and _is_base64(data):
            made["data"] = data
        else:
            if repetition.get(4).strip().lower() == "base64":
                made["contentType"] = "text/plain"
                context.mapped.notes.append(f"{segment.place(5)}: says base64 and is none; kept as text")
            made["data"] = base64.b64encode(repetition.get(5).encode()).decode()
    report.resource.setdefault("presentedForm", []).append(made)


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


def _note(segment: Segment, owner: Entry) -> None:
    note = "\n".join(r.whole() for r in segment.repetitions(3)).strip()
    if not note:
        return
    if owner.type == "Observation":
        owner.resource.setdefault("note", []).append({"text": note})
    else:
        before = owner.resource.get("conclusion")
        owner.resource["conclusion"] = f"{before}\n{note}" if before else note


def _whole(segment: Segment) -> str:
    return "\n".join(r.whole().strip() for r in segment.repetitions(5))
