"""FHIR resources in plain words: one table of type -> what its title, value and facts are (R4)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

LONDON = ZoneInfo("Europe/London")
Resource = Mapping[str, Any]
_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
           "December")  # fmt: skip
# http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation, in words.
_FLAGS = {
    "H": "high", "HH": "very high", "HU": "very high", "L": "low", "LL": "very low", "LU": "very low",
    "A": "outside the usual range", "AA": "far outside the usual range", "POS": "positive", "NEG": "negative",
    "DET": "detected", "ND": "not detected", "R": "resistant", "S": "susceptible", "I": "intermediate",
    "IND": "indeterminate", ">": "above what can be measured", "<": "below what can be measured",
}  # fmt: skip
NORMAL = frozenset({"N", "NEG", "ND", "S"})
_STATUS = {
    "entered-in-error": "entered in error: do not rely on it", "preliminary": "not final yet", "cancelled": "cancelled",
    "registered": "asked for, no result yet", "corrected": "corrected", "amended": "changed later", "noshow": "missed",
    "partial": "not complete yet", "proposed": "proposed", "pending": "not confirmed yet", "stopped": "stopped",
    "on-hold": "on hold", "not-done": "not done", "draft": "draft", "revoked": "withdrawn", "superseded": "replaced",
    "waitlist": "on the waiting list", "in-progress": "now", "planned": "planned", "unknown": "",
    "refuted": "ruled out", "unconfirmed": "not confirmed", "provisional": "not confirmed yet",
    "differential": "one possibility, not confirmed", "not-taken": "not taken", "intended": "planned",
}  # fmt: skip
# Of what comes and goes: what is said of it when it is over.
_OVER = {"inactive": "not active any more", "resolved": "in the past", "remission": "in remission"}
_PERIODS = {"s": "second", "min": "minute", "h": "hour", "d": "day", "wk": "week", "mo": "month", "a": "year"}
_DAYS = {"mon": "Monday", "tue": "Tuesday", "wed": "Wednesday", "thu": "Thursday", "fri": "Friday", "sat": "Saturday",
         "sun": "Sunday"}  # fmt: skip
_WHEN = {"MORN": "in the morning", "AFT": "in the afternoon", "EVE": "in the evening", "NIGHT": "at night",
         "HS": "before sleep", "WAKE": "after waking", "C": "with meals", "AC": "before meals", "PC": "after meals",
         "CM": "with breakfast", "CD": "with lunch", "CV": "with dinner", "ACM": "before breakfast",
         "ACD": "before lunch", "ACV": "before dinner", "PCM": "after breakfast", "PCD": "after lunch",
         "PCV": "after dinner"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Measured:
    """A number that can be drawn, with the range that its laboratory calls usual (either end may be open)."""

    value: float
    unit: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """A resource in words. ``when`` is its date as FHIR writes it; ``flag`` and ``status`` say what is not as usual.

    ``parts`` are its own components (systolic and diastolic), ``text`` is what somebody wrote at length, never HTML.
    """

    title: str
    value: str = ""
    when: str = ""
    until: str = ""
    flag: str = ""
    status: str = ""
    usual: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    text: str = ""
    parts: tuple[Told, ...] = ()
    measured: Measured | None = None
    is_past: bool = False


@dataclass(slots=True)
class _Made:
    title: str
    value: str = ""
    when: str = ""
    until: str = ""
    flag: str = ""
    usual: str = ""
    facts: list[tuple[str, str]] = field(default_factory=list)
    text: str = ""
    parts: list[Told] = field(default_factory=list)
    measured: Measured | None = None
    is_past: bool = False
    over: str = ""

    def add(self, name: str, value: str) -> None:
        if value:
            self.facts.append((name, value))


def tell(resource: Resource) -> Told:
    """A resource in words; one of a type that is not in the table by its code."""
    made = _BY_TYPE.get(resource["resourceType"], _other)(resource)
    notes = [str(note.get("text", "")) for note in _list(resource, "note")]
    made.text = "\n".join(filter(None, [made.text, *notes]))
    said = [_STATUS.get(str(resource.get("status", "")), "")]
    said += [_STATUS.get(code, "") for code in _codes(resource, "verificationStatus")[:1]]
    said += [_OVER.get(code, "") for code in _codes(resource, "clinicalStatus")[:1]]
    status = ", ".join(dict.fromkeys(filter(None, (*said, made.over))))
    return Told(made.title or "Without a name", made.value, made.when, made.until, made.flag, status, made.usual,
                tuple(made.facts), made.text.strip(), tuple(made.parts), made.measured, made.is_past)  # fmt: skip


def words() -> Iterator[str]:
    """The flags and statuses that are said here: ours, not the record's."""
    yield from (text for text in (*_FLAGS.values(), *_STATUS.values()) if text)


# Dates.


def day(text: str) -> str:
    """A FHIR date, as precise as it is: 3 March 2026, March 2026, 2026."""
    if re.match(r"\d{4}-\d{2}-\d{2}T", text):
        return day(_london(text).date().isoformat())
    parts = text.split("-")
    try:
        if len(parts) == 3:
            found = date.fromisoformat(text)
            return f"{found.day} {_MONTHS[found.month - 1]} {found.year}"
        return f"{_MONTHS[int(parts[1]) - 1]} {parts[0]}" if len(parts) == 2 else text
    except (ValueError, IndexError):
        return text


def moment(text: str) -> str:
    """The same with the time of day in the United Kingdom, where it has one: 3 March 2026 at 9.05am."""
    if "T" not in text:
        return day(text)
    found = _london(text)
    hour = found.hour % 12 or 12
    return f"{day(text)} at {hour}{f'.{found.minute:02}' if found.minute else ''}{'am' if found.hour < 12 else 'pm'}"


def _london(text: str) -> datetime:
    try:
        # A leap second is a minute's last.
        found = datetime.fromisoformat(re.sub(r"(T\d\d:\d\d):60", r"\1:59", text))
        return (found if found.tzinfo else found.replace(tzinfo=LONDON)).astimezone(LONDON)
    except (ValueError, OverflowError):
        return datetime.fromisoformat(text[:10]).replace(hour=12, tzinfo=LONDON)


def today() -> date:
    """The date in the United Kingdom."""
    return datetime.now(LONDON).date()


# Elements.


def _list(resource: Resource, name: str) -> list[Any]:
    found = resource.get(name, [])
    return found if isinstance(found, list) else [found]


def concept(value: Any) -> str:
    """A CodeableConcept in words."""
    if not isinstance(value, dict):
        return ""
    shown = value.get("text") or next((c["display"] for c in value.get("coding", ()) if c.get("display")), "")
    return str(shown or next((c["code"] for c in value.get("coding", ()) if c.get("code")), ""))


def _concepts(resource: Resource, name: str) -> str:
    return ", ".join(filter(None, (concept(each) for each in _list(resource, name))))


def _codes(resource: Resource, name: str) -> list[str]:
    return [str(c["code"]) for each in _list(resource, name) for c in each.get("coding", ()) if c.get("code")]


def _who(value: Any) -> str:
    return str(value.get("display", "")) if isinstance(value, dict) else ""


def _whos(resource: Resource, name: str, inner: str = "") -> str:
    found = (_who(each.get(inner) if inner else each) for each in _list(resource, name))
    return ", ".join(dict.fromkeys(filter(None, found)))


def quantity(value: Any) -> str:
    """A Quantity in words: < 5.1 mmol/L."""
    if not isinstance(value, dict) or "value" not in value:
        return str(value.get("unit", "")) if isinstance(value, dict) else ""
    # The number as it was sent: 5.10 was measured more exactly than 5.1.
    unit = _unit(str(value.get("unit", "")))
    return " ".join(filter(None, (value.get("comparator", ""), str(value["value"]), unit)))


def _unit(text: str) -> str:
    """A unit as people write it: 10*9/L is ×10⁹/L."""
    powers = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
    return re.sub(r"^(?:x)?10[*^](-?\d+)", lambda found: f"×10{found[1].translate(powers)}", text)


def _value(resource: Resource) -> str:
    for name, shown in (("valueQuantity", quantity), ("valueCodeableConcept", concept)):
        if name in resource:
            return shown(resource[name])
    if "valueRange" in resource:
        return _range(resource["valueRange"])
    if "valueRatio" in resource:
        ratio = resource["valueRatio"]
        return f"{quantity(ratio.get('numerator'))} : {quantity(ratio.get('denominator'))}"
    if "valueBoolean" in resource:
        return "yes" if resource["valueBoolean"] else "no"
    for name in ("valueDateTime", "valueTime"):
        if name in resource:
            return moment(str(resource[name]))
    if "valuePeriod" in resource:
        return _period(resource["valuePeriod"])
    for name in ("valueString", "valueInteger"):
        if name in resource:
            return str(resource[name])
    return concept(resource.get("dataAbsentReason"))


def _range(value: Any) -> str:
    if not isinstance(value, dict):
        return ""
    low, high = value.get("low", {}), value.get("high", {})
    if "value" not in low and "value" not in high:
        return str(value.get("text", ""))
    unit = _unit(str(high.get("unit") or low.get("unit") or ""))
    if "value" in low and "value" in high:
        return f"{low['value']} to {high['value']} {unit}".strip()
    return (
        f"above {low['value']} {unit}".strip()
        if "value" in low
        else f"below {high['value']} {unit}".strip()
        if "value" in high
        else ""
    )


def _period(value: Any) -> str:
    if not isinstance(value, dict):
        return ""
    start, end = value.get("start", ""), value.get("end", "")
    if start and end and day(start) == day(end):
        return day(start)
    return " to ".join(day(each) for each in (start, end) if each)


def _first(resource: Resource, *names: str) -> str:
    """The first of these dates; of a Period its start."""
    for name in names:
        value = resource.get(name)
        if isinstance(value, dict):
            value = value.get("start") or value.get("end")
        if value:
            return str(value)
    return ""


# Types.


def _observation(resource: Resource) -> _Made:
    made = _Made(concept(resource.get("code")), _value(resource))
    made.when = _first(resource, "effectiveDateTime", "effectivePeriod", "effectiveInstant", "issued")
    codes = _codes(resource, "interpretation")
    made.flag = ", ".join(_FLAGS[code] for code in codes if code in _FLAGS)
    if not made.flag and codes and codes[0] not in NORMAL and len(said := _concepts(resource, "interpretation")) > 2:
        made.flag = said
    ranges = [each for each in _list(resource, "referenceRange") if isinstance(each, dict)]
    made.usual = ", ".join(filter(None, (_range(each) for each in ranges)))
    made.measured = _measured(resource, ranges)
    if made.measured and not made.flag:
        made.flag = _outside(made.measured)
    # A long answer is a text, such as a report of a scan.
    if "valueString" in resource and ("\n" in made.value or len(made.value) > 80):
        made.text, made.value = made.value, ""
    for part in _list(resource, "component"):
        inner = _observation({"resourceType": "Observation", **part})
        made.parts.append(Told(inner.title, inner.value, flag=inner.flag, usual=inner.usual, measured=inner.measured))
    if made.parts and not made.value:
        made.value = _together(made.parts)
    made.add("Done by", _whos(resource, "performer"))
    made.add("Sample", _who(resource.get("specimen")))
    made.add("Part of the body", concept(resource.get("bodySite")))
    made.add("Method", concept(resource.get("method")))
    return made


def _together(parts: list[Told]) -> str:
    """Components in one line; two pressures as 120/80 mmHg."""
    measured = [part.measured for part in parts]
    if len(parts) == 2 and all(m and m.unit == "mmHg" for m in measured):
        return "/".join(part.value.partition(" ")[0] for part in parts) + " mmHg"
    return ", ".join(f"{part.title}: {part.value}" for part in parts if part.value)


def _measured(resource: Resource, ranges: list[Any]) -> Measured | None:
    value = resource.get("valueQuantity", {})
    if not isinstance(value.get("value"), (int, float, Decimal)) or value.get("comparator"):
        return None
    low = high = None
    for each in ranges:
        if not each.get("appliesTo") and not each.get("age"):
            low = _plain(each.get("low")) if low is None else low
            high = _plain(each.get("high")) if high is None else high
    return Measured(float(value["value"]), str(value.get("unit", "")), low, high)


def _plain(value: Any) -> float | None:
    found = value.get("value") if isinstance(value, dict) else None
    return float(found) if isinstance(found, (int, float, Decimal)) else None


def _outside(measured: Measured) -> str:
    if measured.low is not None and measured.value < measured.low:
        return "low"
    return "high" if measured.high is not None and measured.value > measured.high else ""


def _report(resource: Resource) -> _Made:
    made = _Made(concept(resource.get("code")) or "Report")
    made.when = _first(resource, "effectiveDateTime", "effectivePeriod", "issued")
    made.text = str(resource.get("conclusion", ""))
    made.add("Kind", _concepts(resource, "category"))
    made.add("Done by", _whos(resource, "performer"))
    made.add("Conclusion", _concepts(resource, "conclusionCode"))
    return made


def _appointment(resource: Resource) -> _Made:
    title = resource.get("description") or _concepts(resource, "serviceType") or _concepts(resource, "specialty")
    made = _Made(str(title or "Appointment"), when=_first(resource, "start"), until=_first(resource, "end"))
    for each in _list(resource, "participant"):
        actor = each.get("actor", {})
        kind = actor.get("type") or str(actor.get("reference", "")).partition("/")[0]
        if kind != "Patient":
            made.add("Where" if kind == "Location" else "With", _who(actor))
    made.add("About", _concepts(resource, "reasonCode"))
    made.add("Why it was cancelled", concept(resource.get("cancelationReason")))
    made.add("What to know", str(resource.get("patientInstruction", "")))
    made.text = str(resource.get("comment", ""))
    made.is_past = bool(made.when) and _london(made.when).date() < today()
    return made


def _medicine(resource: Resource) -> _Made:
    made = _Made(concept(resource.get("medicationCodeableConcept")) or _who(resource.get("medicationReference")))
    doses = [*_list(resource, "dosage"), *_list(resource, "dosageInstruction")]
    made.value = "; ".join(filter(None, (_dose(each) for each in doses if isinstance(each, dict))))
    made.when = _first(resource, "effectiveDateTime", "effectivePeriod", "authoredOn", "dateAsserted",
                       "whenHandedOver", "whenPrepared")  # fmt: skip
    period = resource.get("effectivePeriod", {})
    made.until = str(period.get("end", ""))
    ended = bool(made.until) and made.until[:10] < today().isoformat()
    finished = str(resource.get("status")) in ("completed", "stopped", "cancelled", "inactive")
    made.is_past = ended or finished
    if resource["resourceType"] in ("MedicationStatement", "MedicationRequest"):
        made.over = f"ended {day(made.until)}" if ended else "finished" if made.is_past else ""
    if resource.get("doNotPerform") is True:
        made.title = f"Do not give: {made.title}"
    made.add("For", _concepts(resource, "reasonCode"))
    made.add("Prescribed by", _who(resource.get("requester")) or _who(resource.get("informationSource")))
    supply = resource.get("dispenseRequest", {})
    made.add("Supply", quantity(supply.get("quantity")) or quantity(resource.get("quantity")))
    return made


def _dose(dose: Resource) -> str:
    if dose.get("text"):
        return str(dose["text"])
    amount = ", ".join(
        quantity(each["doseQuantity"]) if "doseQuantity" in each else _range(each.get("doseRange"))
        for each in _list(dose, "doseAndRate")
    )
    timing = concept(dose.get("timing", {}).get("code")) or _repeated(dose.get("timing", {}).get("repeat", {}))
    needed = "when needed" if dose.get("asNeededBoolean") else concept(dose.get("asNeededCodeableConcept"))
    most = dose.get("maxDosePerPeriod", {})
    limit = f"at most {quantity(most.get('numerator'))} in {quantity(most.get('denominator'))}" if most else ""
    more = [concept(each) for each in _list(dose, "additionalInstruction")]
    needed = f"for {needed}" if needed not in ("", "when needed") else needed
    told = [amount, concept(dose.get("route")), timing, needed, limit, *more, str(dose.get("patientInstruction", ""))]
    if not timing and not needed and not dose.get("patientInstruction") and not any(more):
        # An amount alone could be taken for a day's.
        told.append("(how often is not said here: see the label or the letter)")
    return " ".join(filter(None, told))


def _repeated(repeat: Resource) -> str:
    """How often, in words: twice a day, every 8 hours, once a week on Monday, in the morning."""
    frequency, period, unit = repeat.get("frequency", 1), repeat.get("period"), repeat.get("periodUnit")
    said = []
    if period is not None and unit in _PERIODS:
        times = {1: "once", 2: "twice"}.get(frequency, f"{frequency} times")
        if repeat.get("frequencyMax"):
            times = f"{frequency} to {repeat['frequencyMax']} times"
        name = _PERIODS[unit]
        each = f"a {name}" if period == 1 and unit != "h" else f"every {period} {name}s" if period != 1 else "an hour"
        said.append(each if frequency == 1 and period != 1 else f"{times} {each}")
    if days := [_DAYS[each] for each in repeat.get("dayOfWeek", ()) if each in _DAYS]:
        said.append(f"on {', '.join(days)}")
    said += [_WHEN[each] for each in repeat.get("when", ()) if each in _WHEN]
    if times_of_day := repeat.get("timeOfDay"):
        said.append(f"at {', '.join(str(each)[:5] for each in times_of_day)}")
    return " ".join(said)


def _allergy(resource: Resource) -> _Made:
    made = _Made(concept(resource.get("code")), when=_first(resource, "onsetDateTime", "recordedDate"))
    reactions = _list(resource, "reaction")
    made.value = ", ".join(filter(None, (_concepts(each, "manifestation") for each in reactions)))
    severe = [str(each["severity"]) for each in reactions if each.get("severity")]
    made.add("How bad", ", ".join(severe) or {"high": "high risk", "low": "low risk"}.get(
        str(resource.get("criticality", "")), ""))  # fmt: skip
    made.add("Kind", ", ".join(str(each) for each in _list(resource, "category")))
    made.add("Recorded by", _who(resource.get("recorder")) or _who(resource.get("asserter")))
    made.is_past = "active" not in _codes(resource, "clinicalStatus") and "clinicalStatus" in resource
    return made


def _condition(resource: Resource) -> _Made:
    made = _Made(concept(resource.get("code")))
    made.when = _first(resource, "onsetDateTime", "onsetPeriod", "recordedDate")
    made.until = _first(resource, "abatementDateTime", "abatementPeriod")
    clinical = _codes(resource, "clinicalStatus")
    made.is_past = (bool(clinical) and clinical[0] in ("inactive", "remission", "resolved")) or bool(made.until)
    made.over = f"until {day(made.until)}" if made.until else ""
    made.value = str(resource.get("onsetString", ""))
    made.add("How bad", concept(resource.get("severity")))
    made.add("Part of the body", _concepts(resource, "bodySite"))
    made.add("Kind", _concepts(resource, "category"))
    made.add("Recorded by", _who(resource.get("recorder")) or _who(resource.get("asserter")))
    return made


def _family(resource: Resource) -> _Made:
    told = [concept(each.get("code")) for each in _list(resource, "condition")]
    return _Made(f"Family: {concept(resource.get('relationship'))}", ", ".join(filter(None, told)),
                 _first(resource, "date"))  # fmt: skip


def _vaccination(resource: Resource) -> _Made:
    made = _Made(concept(resource.get("vaccineCode")), when=_first(resource, "occurrenceDateTime", "recorded"))
    made.value = str(resource.get("occurrenceString", ""))
    for each in _list(resource, "protocolApplied"):
        dose = each.get("doseNumberPositiveInt") or each.get("doseNumberString")
        made.add("Dose", str(dose) if dose else "")
        made.add("Against", _concepts(each, "targetDisease"))
    made.add("Batch", str(resource.get("lotNumber", "")))
    made.add("Where on the body", concept(resource.get("site")))
    made.add("Given by", _whos(resource, "performer", "actor"))
    made.add("Reason", concept(resource.get("statusReason")))
    return made


def _document(resource: Resource) -> _Made:
    files = [each.get("attachment", {}) for each in _list(resource, "content")]
    named = [str(each["title"]) for each in files if each.get("title")]
    title = resource.get("description") or concept(resource.get("type")) or (named[0] if named else "Document")
    made = _Made(str(title), when=_first(resource, "date"))
    context = resource.get("context", {})
    made.when = _first(context, "period") or made.when
    made.add("Kind", concept(resource.get("type")) if resource.get("description") else "")
    made.add("Written by", _whos(resource, "author"))
    made.add("About", _concepts(context, "event"))
    return made


def _stay(resource: Resource) -> _Made:
    kind = resource.get("class", {})
    title = _concepts(resource, "type") or str(kind.get("display", "") or kind.get("code", ""))
    made = _Made(title or "Visit", when=_first(resource, "period"))
    made.until = str(resource.get("period", {}).get("end", ""))
    made.value = _period(resource.get("period"))
    made.add("Service", concept(resource.get("serviceType")))
    made.add("Where", _whos(resource, "location", "location"))
    made.add("With", _whos(resource, "participant", "individual"))
    made.add("About", _concepts(resource, "reasonCode"))
    left = resource.get("hospitalization", {})
    made.add("Came from", concept(left.get("admitSource")))
    made.add("Went to", concept(left.get("dischargeDisposition")))
    return made


def _procedure(resource: Resource) -> _Made:
    made = _Made(concept(resource.get("code")), when=_first(resource, "performedDateTime", "performedPeriod"))
    made.add("Done by", _whos(resource, "performer", "actor"))
    made.add("Where", _who(resource.get("location")))
    made.add("About", _concepts(resource, "reasonCode"))
    made.add("Outcome", concept(resource.get("outcome")))
    made.add("Part of the body", _concepts(resource, "bodySite"))
    return made


def _plan(resource: Resource) -> _Made:
    made = _Made(str(resource.get("title", "")) or _concepts(resource, "category") or "Care plan")
    made.when = _first(resource, "period", "created", "startDate")
    made.until = str(resource.get("period", {}).get("end", ""))
    made.text = str(resource.get("description", ""))
    for each in _list(resource, "activity"):
        detail = each.get("detail", {})
        made.add("To do", str(detail.get("description", "")) or concept(detail.get("code")))
    made.add("Made by", _who(resource.get("author")))
    return made


def _goal(resource: Resource) -> _Made:
    made = _Made(f"Goal: {concept(resource.get('description'))}", when=_first(resource, "startDate"))
    made.add("How it goes", concept(resource.get("achievementStatus")))
    made.add("By", ", ".join(day(each["dueDate"]) for each in _list(resource, "target") if each.get("dueDate")))
    return made


def _other(resource: Resource) -> _Made:
    title = concept(resource.get("code")) or _words(str(resource["resourceType"]))
    return _Made(title, when=_first(resource, "date", "authoredOn", "issued", "sent", "created", "recorded"))


def _words(name: str) -> str:
    return re.sub(r"(?<!^)([A-Z])", r" \1", name).capitalize()


_BY_TYPE: Mapping[str, Callable[[Resource], _Made]] = {
    "AllergyIntolerance": _allergy,
    "Appointment": _appointment,
    "CarePlan": _plan,
    "Condition": _condition,
    "DiagnosticReport": _report,
    "DocumentReference": _document,
    "Encounter": _stay,
    "FamilyMemberHistory": _family,
    "Goal": _goal,
    "Immunization": _vaccination,
    "MedicationAdministration": _medicine,
    "MedicationDispense": _medicine,
    "MedicationRequest": _medicine,
    "MedicationStatement": _medicine,
    "Observation": _observation,
    "Procedure": _procedure,
}


def person(patient: Resource) -> dict[str, str]:
    """A Patient as the head of a page: name, born, nhs_number, address, and the like."""
    name: dict[str, Any] = next((each for each in _list(patient, "name") if each.get("use") == "official"),
                                next(iter(_list(patient, "name")), {}))  # fmt: skip
    given = " ".join(str(each) for each in _list(name, "given"))
    shown = name.get("text") or " ".join(filter(None, (*_list(name, "prefix"), given, name.get("family", ""))))
    numbers = [str(each.get("value", "")) for each in _list(patient, "identifier")
               if each.get("system") == "https://fhir.nhs.uk/Id/nhs-number"]  # fmt: skip
    number = numbers[0] if numbers else ""
    address: dict[str, Any] = next(iter(_list(patient, "address")), {})
    lines = [*_list(address, "line"), address.get("city", ""), address.get("postalCode", "")]
    return {
        "name": str(shown or "unknown"), "given": given or str(shown),
        "born": day(str(patient["birthDate"])) if patient.get("birthDate") else "unknown",
        "nhs_number": f"{number[:3]} {number[3:6]} {number[6:]}" if len(number) == 10 else number,
        "gender": str(patient.get("gender", "")),
        "address": ", ".join(str(line) for line in lines if line),
        "telephone": ", ".join(_contacts(patient, "phone")), "email": ", ".join(_contacts(patient, "email")),
        "practice": _whos(patient, "generalPractitioner"),
        "deceased": "yes" if patient.get("deceasedBoolean") or patient.get("deceasedDateTime") else "",
    }  # fmt: skip


def _contacts(patient: Resource, system: str) -> Iterator[str]:
    return (str(each["value"]) for each in _list(patient, "telecom") if each.get("system") == system
            and each.get("value"))  # fmt: skip
