"""A patient's rows -> the resources that they are: several rows may be one, and one row two (domain notes B9)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from carefolio.mapping.emis import clinical, medicines
from carefolio.mapping.emis import converters as to
from carefolio.mapping.emis.clinical import CONSULTATION, DIARY, OBSERVATION, PROBLEM, REFERRAL
from carefolio.mapping.emis.codes import ROUTES, Code
from carefolio.mapping.emis.medicines import DRUG, ISSUE, SLOT
from carefolio.mapping.emis.model import (
    CONFIDENTIALITY,
    ColumnError,
    Context,
    Line,
    Made,
    Resource,
    UnknownCodeError,
    column,
    fill,
    guid,
)

AUDIT = "Audit_PatientAudit"
# What a row of each table can have become, whatever its code and its neighbours said then.
CANDIDATES: dict[str, tuple[str, ...]] = {
    OBSERVATION: ROUTES,
    DRUG: ("MedicationStatement",),
    ISSUE: ("MedicationRequest",),
    CONSULTATION: ("Encounter",),
    DIARY: ("ServiceRequest",),
    SLOT: ("Appointment", "Slot"),
    AUDIT: ("Provenance",),
}
_CONFIDENTIAL = {"system": CONFIDENTIALITY, "code": "R", "display": "restricted"}
_LOINC = "http://loinc.org"
_PRESSURES = {
    "systolic": {"system": _LOINC, "code": "8480-6", "display": "Systolic blood pressure"},
    "diastolic": {"system": _LOINC, "code": "8462-4", "display": "Diastolic blood pressure"},
}
_PANEL = {"system": _LOINC, "code": "85354-9", "display": "Blood pressure panel with all children optional"}
_OPERATION = "http://terminology.hl7.org/CodeSystem/v3-DataOperation"
_CLINICAL_STATUS = "http://terminology.hl7.org/CodeSystem/condition-clinical"
_CONDITION_CATEGORY = "http://terminology.hl7.org/CodeSystem/condition-category"
_ENCOUNTER_CLASS = {
    "system": "http://terminology.hl7.org/CodeSystem/v3-ActCode",
    "code": "AMB",
    "display": "ambulatory",
}


@dataclass(slots=True)
class Items:
    """One patient's live rows, as far as they matter to what is mapped.

    ``sessions`` and ``session_users`` are the practice's, by the session's GUID.
    """

    tables: dict[str, dict[str, Line]] = field(default_factory=lambda: defaultdict(dict))
    children: dict[str, list[Line]] = field(default_factory=lambda: defaultdict(list))
    issues: dict[str, list[Line]] = field(default_factory=lambda: defaultdict(list))
    audits: dict[str, list[Line]] = field(default_factory=lambda: defaultdict(list))
    sessions: dict[str, Line] = field(default_factory=dict)
    session_users: dict[str, list[str]] = field(default_factory=dict)

    def add(self, line: Line) -> None:
        self.tables[line.table][line.key] = line
        if line.parent:
            if line.table == OBSERVATION:
                self.children[line.parent].append(line)
            elif line.table == ISSUE:
                self.issues[line.parent].append(line)
            elif line.table == AUDIT:
                self.audits[line.parent].append(line)


Failure = tuple[Line, ColumnError | UnknownCodeError]


def map_items(
    context: Context, items: Items, roots: Iterable[tuple[str, str]] | None = None
) -> tuple[list[Made], list[Failure]]:
    """The resources of a patient's rows, and the rows that cannot be mapped.

    ``roots``: (table, key) of the rows whose resources are wanted (of Observation where Problem or Referral share the
    key); None for all. Whatever they need of others must be among the items.
    """
    made: list[Made] = []
    failed: list[Failure] = []
    wanted = {} if roots is None else _by_table(roots)
    for table, map_line in _MAPPERS.items():
        lines = items.tables.get(table, {})
        keys: Iterable[str] = lines if roots is None else wanted.get(table, ())
        for key in keys:
            line = lines.get(key)
            if line is None:
                continue
            of_line = _tried(line, map_line(context, items, line), failed)
            if not of_line:
                continue
            for audit in items.audits.get(key, ()) if items.audits else ():
                of_line += _tried(audit, _audited(context, audit, of_line), failed)
            if line.is_confidential:
                for each in of_line:
                    each.resource["meta"] = {"security": [_CONFIDENTIAL]}
            made += of_line
    if roots is None or OBSERVATION in wanted:
        made += _orphaned_pressures(context, items, None if roots is None else wanted[OBSERVATION])
    return made, failed


def _tried(line: Line, making: Iterable[Made], failed: list[Failure]) -> list[Made]:
    """What is made of a row; nothing, and a failure more, where it cannot be mapped."""
    try:
        return list(making)
    except (ColumnError, UnknownCodeError) as error:
        failed.append((line, error))
    except (ValueError, OverflowError):
        failed.append((line, ColumnError("?", "a value that is none of its column's")))
    return []


def _by_table(roots: Iterable[tuple[str, str]]) -> dict[str, dict[str, None]]:
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for table, key in roots:
        found[table][key] = None
    return found


def _observation(context: Context, items: Items, line: Line) -> Iterator[Made]:
    """An Observation row: by its code's category, its value and its neighbours (B9, routing 1 to 6)."""
    code = _code(context, line)
    if line.parent and code.pressure and line.values[_VALUE_AT].strip() and _is_paired(context, items, line):
        # It is a component of its parent.
        return
    kind = code.type
    if code.needs_value and line.values[_VALUE_AT].strip():
        kind = "Observation"
    resource: Resource = {"resourceType": kind, **clinical.FIXED[kind]}
    resource[clinical.SUBJECT.get(kind, "subject")] = context.subject
    if kind in ("Observation", "DiagnosticReport") and code.category:
        resource["category"] = [clinical.CATEGORIES[code.category]]
    elif kind == "ServiceRequest":
        resource["category"] = [clinical.SERVICES[code.category]]
    elif kind == "AllergyIntolerance" and code.category:
        resource["category"] = [code.category]
    fill(resource, line.values, clinical.OBSERVATIONS[kind], context)
    _complete(context, items, line, kind, code, resource)
    problem = items.tables[PROBLEM].get(line.key) if PROBLEM in items.tables else None
    if kind == "Condition":
        yield Made(kind, line.key, _condition(context, resource, problem), line, code.label)
        return
    yield Made(kind, line.key, resource, line, code.label)
    if problem is not None:
        named: Resource = {"resourceType": "Condition", "subject": context.subject}
        fill(named, line.values, clinical.OBSERVATIONS["Condition"], context)
        yield Made("Condition", line.key, _condition(context, named, problem), line, code.label)


_VALUE_AT = column(OBSERVATION, "Value")
_CODE_AT = column(OBSERVATION, "CodeId")


def _code(context: Context, line: Line) -> Code:
    try:
        return context.code(line.values[_CODE_AT])
    except ValueError:
        raise ColumnError("CodeId", "there is none") from None


def _complete(context: Context, items: Items, line: Line, kind: str, code: Code, resource: Resource) -> None:
    """What a type needs besides its table."""
    if kind == "FamilyMemberHistory":
        resource["condition"] = [{"code": code.concept}]
    elif kind == "Immunization":
        if "occurrenceDateTime" not in resource:
            resource["occurrenceString"] = "unknown"
    elif kind == "ServiceRequest":
        referral = items.tables[REFERRAL].get(line.key) if REFERRAL in items.tables else None
        if referral is not None:
            fill(resource, referral.values, clinical.REFERRALS, context)
    elif kind in ("DiagnosticReport", "Observation") and (children := items.children.get(line.key)):
        pressures = _pressures(context, children) if kind == "Observation" else None
        if pressures:
            _panel(context, resource, pressures)
        results = [
            context.own("Observation", child.key)
            for child in sorted(children, key=lambda child: child.key)
            if (pressures is None or child not in pressures.values()) and _is_observation(context, child)
        ]
        if results:
            resource["result" if kind == "DiagnosticReport" else "hasMember"] = results


def _is_observation(context: Context, line: Line) -> bool:
    """Whether a row is an Observation of its own; one whose code is not known yet is none yet."""
    try:
        code = _code(context, line)
    except (ColumnError, UnknownCodeError):
        return False
    return code.type == "Observation" or (code.needs_value and bool(line.values[_VALUE_AT].strip()))


def _pressures(context: Context, lines: Iterable[Line]) -> dict[str, Line] | None:
    """The first systolic and the first diastolic value among siblings; None where one is missing."""
    found: dict[str, Line] = {}
    for line in sorted(lines, key=lambda line: line.key):
        try:
            which = _code(context, line).pressure
        except (ColumnError, UnknownCodeError):
            continue
        if which and line.values[_VALUE_AT].strip():
            found.setdefault(which, line)
    return found if len(found) == 2 else None


def _is_paired(context: Context, items: Items, line: Line) -> bool:
    """Whether a pressure has its other half beside it, and a parent that can hold both."""
    parent = items.tables[OBSERVATION].get(line.parent)
    if parent is not None:
        try:
            of_parent = _code(context, parent)
        except (ColumnError, UnknownCodeError):
            return False
        if of_parent.type != "Observation" or parent.values[_VALUE_AT].strip():
            return False
    pressures = _pressures(context, items.children[line.parent])
    return pressures is not None and line in pressures.values()


def _panel(context: Context, resource: Resource, pressures: dict[str, Line]) -> None:
    if any(half.is_confidential for half in pressures.values()):
        # What they say stands in the panel now.
        resource["meta"] = {"security": [_CONFIDENTIAL]}
    code = resource["code"]
    resource["code"] = code | {"coding": [*code.get("coding", []), _PANEL]}
    resource["category"] = [clinical.CATEGORIES["vital-signs"]]
    components = []
    for which, loinc in _PRESSURES.items():
        single: Resource = {}
        fill(single, pressures[which].values, clinical.OBSERVATIONS["Observation"], context)
        concept = single["code"]
        component = {"code": concept | {"coding": [*concept.get("coding", []), loinc]}}
        component |= {name: single[name] for name in ("valueQuantity", "interpretation", "referenceRange")
                      if name in single}  # fmt: skip
        components.append(component)
        resource.setdefault("note", []).extend(single.get("note", []))
    if not resource["note"]:
        del resource["note"]
    resource["component"] = components


def _orphaned_pressures(context: Context, items: Items, wanted: Iterable[str] | None) -> Iterator[Made]:
    """Two halves of a blood pressure whose parent has not come: one panel under the parent's key."""
    known = items.tables.get(OBSERVATION, {})
    parents = [parent for parent in items.children if parent not in known]
    for parent in parents if wanted is None else [parent for parent in parents if parent in set(wanted)]:
        pressures = _pressures(context, items.children[parent])
        if pressures is None:
            continue
        line = pressures["systolic"]
        resource: Resource = {"resourceType": "Observation", "status": "final", "subject": context.subject}
        try:
            fill(resource, line.values, clinical.OBSERVATIONS["Observation"], context)
            resource["code"] = {"text": "Blood pressure"}
            for name in ("valueQuantity", "interpretation", "referenceRange", "note"):
                resource.pop(name, None)
            _panel(context, resource, pressures)
        except (ColumnError, UnknownCodeError):
            continue
        yield Made("Observation", parent, resource, line, context.code(line["CodeId"]).label)


def _condition(context: Context, resource: Resource, problem: Line | None) -> Resource:
    """A Condition, as a problem of the list or as what a consultation found."""
    status, category = "active", "encounter-diagnosis"
    if problem is not None:
        fill(resource, problem.values, clinical.PROBLEMS, context)
        category = "problem-list-item"
        if "abatementDateTime" in resource or problem["ProblemStatusDescription"].casefold().startswith("past"):
            status = "inactive"
    resource["clinicalStatus"] = {"coding": [{"system": _CLINICAL_STATUS, "code": status}]}
    resource["category"] = [{"coding": [{"system": _CONDITION_CATEGORY, "code": category}]}]
    return resource


def _drug(context: Context, items: Items, line: Line) -> Iterator[Made]:
    issues = items.issues.get(line.key, [])
    yield Made("MedicationStatement", line.key, _medicine(medicines.drug(context, line, issues)), line)


def _issue(context: Context, items: Items, line: Line) -> Iterator[Made]:
    resource = {
        "resourceType": "MedicationRequest",
        "status": "completed",
        "intent": "order",
        "subject": context.subject,
    }
    yield Made("MedicationRequest", line.key, _medicine(fill(resource, line.values, medicines.ISSUES, context)), line)


def _medicine(resource: Resource) -> Resource:
    if "medicationCodeableConcept" not in resource:
        raise ColumnError("CodeId", "there is none")
    return resource


def _consultation(context: Context, items: Items, line: Line) -> Iterator[Made]:
    resource: Resource = {
        "resourceType": "Encounter",
        "status": "finished" if to.truth(context, line["Complete"]) else "in-progress",
        "class": _ENCOUNTER_CLASS,
        "subject": context.subject,
        "serviceProvider": context.shared("Organization", context.practice),
    }
    fill(resource, line.values, clinical.CONSULTATIONS, context)
    if "type" not in resource and (term := line["ConsultationSourceTerm"].strip()):
        resource["type"] = [{"text": term}]
    yield Made("Encounter", line.key, resource, line)


def _diary(context: Context, items: Items, line: Line) -> Iterator[Made]:
    status = "revoked"
    if to.truth(context, line["IsComplete"]):
        status = "completed"
    elif to.truth(context, line["IsActive"]):
        status = "active"
    resource: Resource = {
        "resourceType": "ServiceRequest",
        "status": status,
        "intent": "plan",
        "subject": context.subject,
    }
    fill(resource, line.values, clinical.DIARIES, context)
    if "code" not in resource:
        raise ColumnError("CodeId", "there is none")
    yield Made("ServiceRequest", line.key, resource, line, context.code(line["CodeId"]).label)


def _slot(context: Context, items: Items, line: Line) -> Iterator[Made]:
    session = guid(line["SessionGuid"])
    slot, booked = medicines.appointment(
        context, line, items.sessions.get(session), items.session_users.get(session, [])
    )
    yield Made("Slot", line.key, slot, line)
    yield Made("Appointment", line.key, booked, line)


def _audited(context: Context, audit: Line, of: list[Made]) -> Iterator[Made]:
    """Who did something to an item, and when: Provenance of what the item became."""
    of = [each for each in of if each.type != "Provenance"]
    if not of or not audit["ModifiedDate"].strip():
        return
    mode = audit["ModeType"].strip()
    code = {"insert": "CREATE", "add": "CREATE", "delete": "DELETE"}.get(mode.casefold(), "UPDATE")
    activity: dict[str, Any] = {"coding": [{"system": _OPERATION, "code": code}]}
    if shown := " ".join(part for part in (audit["ItemType"].strip(), mode) if part):
        activity["text"] = shown
    resource = {
        "resourceType": "Provenance",
        "target": [context.own(each.type, each.key) for each in of],
        "recorded": to.at("ModifiedDate", audit["ModifiedDate"], audit["ModifiedTime"]),
        "activity": activity,
        "agent": [
            {
                "who": context.shared("Practitioner", audit["UserInRoleGuid"])
                if audit["UserInRoleGuid"].strip()
                else context.shared("Organization", context.practice)
            }
        ],
    }
    yield Made("Provenance", audit.key, resource, audit)


_MAPPERS = {
    OBSERVATION: _observation,
    DRUG: _drug,
    ISSUE: _issue,
    CONSULTATION: _consultation,
    DIARY: _diary,
    SLOT: _slot,
}
