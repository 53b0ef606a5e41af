"""The International Patient Summary of a record: what a stranger who treats the patient has to know, as one document.

(https://hl7.org/fhir/uv/ips/STU1.1) Of what the reader may see; nothing is left out that is current, and what is over
is said to be in a section of its own. A section that has nothing says so: that is not a statement that there is
nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Any

from carefolio.cloud.database import Pool
from carefolio.fhir import text
from carefolio.fhir.errors import FhirError, error
from carefolio.mapping.serialise import dumps
from carefolio.record import latest, reading
from carefolio.record.access import Reader
from carefolio.record.ids import uuid7
from carefolio.record.includes import include, local_references
from carefolio.record.rows import instant
from carefolio.record.search import masked_page
from carefolio.view.telling import concept, tell

_IPS = "http://hl7.org/fhir/uv/ips/StructureDefinition"
_LOINC = "http://loinc.org"
_KINDS = ("AllergyIntolerance", "Condition", "Immunization", "MedicationRequest", "MedicationStatement", "Procedure")
# Read at a time; and at most: beyond it there is none, rather than one that something is missing in.
_PAGE, _MOST = 1000, 20_000
_OVER = frozenset({"inactive", "remission", "resolved"})
_UNTRUE = frozenset({"entered-in-error", "refuted"})
_NOT_DONE = frozenset({"entered-in-error", "cancelled", "stopped", "completed", "not-taken", "not-done", "draft"})

Resource = dict[str, Any]


def _codes(resource: Resource, name: str) -> set[str]:
    said = resource.get(name)
    concepts = said if isinstance(said, list) else [said] if said else []
    return {str(coding.get("code")) for concept in concepts for coding in concept.get("coding", [])}


def _is_true(resource: Resource) -> bool:
    """Not withdrawn and not refuted: those are no summary's."""
    return not _codes(resource, "verificationStatus") & _UNTRUE and resource.get("status") != "entered-in-error"


def _is_over(resource: Resource) -> bool:
    return bool(_codes(resource, "clinicalStatus") & _OVER) or "abatementDateTime" in resource


def _is_vital(resource: Resource) -> bool:
    return "vital-signs" in _codes(resource, "category")


@dataclass(frozen=True, slots=True)
class _Section:
    """A section of the Composition: its LOINC code, and which resources it has; ``needed`` also with nothing in it."""

    code: str
    title: str
    kinds: tuple[str, ...]
    has: Callable[[Resource], bool]
    needed: bool = False


_SECTIONS = (
    _Section("48765-2", "Allergies and intolerances", ("AllergyIntolerance",), lambda r: not _is_over(r), needed=True),
    _Section("10160-0", "Medication summary", ("MedicationStatement", "MedicationRequest"),
             lambda r: r.get("status") not in _NOT_DONE, needed=True),
    _Section("11450-4", "Problem list", ("Condition",), lambda r: not _is_over(r), needed=True),
    _Section("11369-6", "Immunizations", ("Immunization",), lambda r: r.get("status") == "completed"),
    _Section("47519-4", "History of procedures", ("Procedure",), lambda r: r.get("status") != "not-done"),
    _Section("30954-2", "Results, the latest of each kind", ("Observation",), lambda r: not _is_vital(r)),
    _Section("8716-3", "Vital signs, the latest of each kind", ("Observation",), _is_vital),
    _Section("11348-0", "History of past illness", ("Condition", "AllergyIntolerance"), _is_over),
)  # fmt: skip


async def make(pool: Pool, reader: Reader, patient: uuid.UUID, base: str) -> bytes | None:
    """The document, a Bundle; None where the reader sees no such patient. ``base``: the server's address.

    Raises FhirError (422) for a record that is too long to be told whole.
    """
    found = await reading.read(pool, reader, "Patient", patient)
    if found is None or found.content is None:
        return None
    person = text.loads(found.content)
    read = [each async for each in _all_of(pool, reader, patient)]
    resources = [text.loads(each.content) for each in read]
    medications: dict[str, Resource] = {}
    if reader.may("Medication", "r"):
        wanted = [(f"{kind}:medication", False, False) for kind in ("MedicationRequest", "MedicationStatement")]
        found_, _ = await include(pool, reader, wanted, read)
        for each in await masked_page(pool, reader, found_):
            medication = text.loads(each.content)
            medications[f"Medication/{medication['id']}"] = medication
    if reader.may("Observation", "r"):
        query = [("patient", f"Patient/{person['id']}"), ("code:missing", "false"),
                 ("status:not", "entered-in-error,cancelled")]  # fmt: skip
        page = await latest.latest(pool, reader, query, 1)
        if page.cut:
            raise _too_long()
        resources += [text.loads(each.content) for each in page.found]
    true = [each for each in resources if _is_true(each)]
    return dumps(_bundle(person, true, medications, base, datetime.now(UTC)))


async def _all_of(pool: Pool, reader: Reader, patient: uuid.UUID) -> Any:
    kinds = [kind for kind in _KINDS if reader.may(kind, "r")]
    after, count = None, 0
    while kinds:
        page = await reading.everything(pool, reader, patient, count=_PAGE, after=after, kinds=kinds)
        if page is None:
            return
        for each in page.found:
            yield each
        count += len(page.found)
        if count > _MOST:
            raise _too_long()
        if page.cursor is None:
            return
        after = uuid.UUID(page.cursor)


def _too_long() -> FhirError:
    return error(422, "too-costly", "the record is too long for a summary of it: read what is needed by type")


def _bundle(
    person: Resource, resources: list[Resource], medications: dict[str, Resource], base: str, now: datetime
) -> Resource:
    device = {
        "resourceType": "Device",
        "id": str(uuid7()),
        "deviceName": [{"name": "Carefolio", "type": "user-friendly-name"}],
    }
    sections, named = [], []
    for section in _SECTIONS:
        mine = [each for each in resources if each["resourceType"] in section.kinds and section.has(each)]
        if mine or section.needed:
            sections.append(_section(section, mine, medications))
            named += mine
            named += [medication for each in mine if (medication := _medication(each, medications))]
    composition = {
        "resourceType": "Composition",
        "id": str(uuid7()),
        "meta": {"profile": [f"{_IPS}/Composition-uv-ips"]},
        "status": "final",
        "type": {"coding": [{"system": _LOINC, "code": "60591-5", "display": "Patient summary Document"}]},
        "subject": {"reference": f"Patient/{person['id']}"},
        "date": instant(now),
        "author": [{"reference": f"Device/{device['id']}"}],
        "title": "Patient summary",
        "confidentiality": "N",
        "section": sections,
    }
    kept = {(each["resourceType"], each["id"]): each for each in (composition, person, device, *named)}
    return {
        "resourceType": "Bundle",
        "meta": {"profile": [f"{_IPS}/Bundle-uv-ips"]},
        "identifier": {"system": "urn:ietf:rfc:3986", "value": f"urn:uuid:{uuid7()}"},
        "type": "document",
        "timestamp": instant(now),
        "entry": [{"fullUrl": f"{base}/{kind}/{number}", "resource": each} for (kind, number), each in kept.items()],
    }


def _medication(resource: Resource, medications: dict[str, Resource]) -> Resource | None:
    """What a medicine's reference names, where it is a resource of its own."""
    for kind, number in local_references([resource.get("medicationReference")]):
        return medications.get(f"{kind}/{number}")
    return None


def _section(section: _Section, mine: list[Resource], medications: dict[str, Resource]) -> Resource:
    made: Resource = {
        "title": section.title,
        "code": {"coding": [{"system": _LOINC, "code": section.code}]},
    }
    if not mine:
        said = "Nothing is recorded here that you may see. That does not say that there is nothing."
        reason = {"system": "http://terminology.hl7.org/CodeSystem/list-empty-reason", "code": "unavailable"}
        made |= {"text": _narrative([f"<p>{said}</p>"]), "emptyReason": {"coding": [reason], "text": said}}
        return made
    mine.sort(key=lambda each: tell(each).when, reverse=True)
    made["text"] = _narrative(["<ul>", *(f"<li>{_line(each, medications)}</li>" for each in mine), "</ul>"])
    made["entry"] = [{"reference": f"{each['resourceType']}/{each['id']}"} for each in mine]
    return made


def _narrative(parts: list[str]) -> Resource:
    return {"status": "generated", "div": f'<div xmlns="http://www.w3.org/1999/xhtml">{"".join(parts)}</div>'}


def _line(resource: Resource, medications: dict[str, Resource]) -> str:
    """A resource in one line of words, as the portal says it; a medicine by the name of what it refers to."""
    reference = resource.get("medicationReference", {})
    if not reference.get("display"):
        contained = {f"#{each.get('id')}": each for each in resource.get("contained", [])}
        medication = contained.get(reference.get("reference")) or _medication(resource, medications)
        if medication:
            resource = resource | {"medicationReference": reference | {"display": concept(medication.get("code"))}}

    def said() -> Iterator[str]:
        told = tell(resource)
        yield told.title
        yield told.value
        yield from (f"{part.title} {part.value}" for part in told.parts)
        yield told.flag
        yield told.status
        yield told.when[:10]

    return escape(", ".join(filter(None, said())))
