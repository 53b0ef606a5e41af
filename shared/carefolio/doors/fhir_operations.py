"""FHIR's operations on the record (R4 3.2.0): of a patient, a composition, a meta; and of the server."""

from __future__ import annotations

import re
import uuid
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from carefolio.cloud import database
from carefolio.cloud.telemetry import span
from carefolio.doors import fhir_answers as answers
from carefolio.doors import fhir_formats
from carefolio.doors.bearer import authorised
from carefolio.doors.fhir_requests import FORM, document_of, number_of, query_of, reader_of, span_of, type_of
from carefolio.fhir import text
from carefolio.fhir.errors import FhirError, error
from carefolio.fhir.validation import Issue, validate
from carefolio.identity import scopes
from carefolio.mapping.serialise import dumps
from carefolio.profiles import checking
from carefolio.record import document, latest, look_alikes, reading, resources, search, summary
from carefolio.record.arguments import SearchError
from carefolio.record.ids import internal_id
from carefolio.record.includes import logical_id
from carefolio.record.resources import Operation


async def everything(request: Request) -> Response:
    """GET Patient/[id]/$everything, in pages; _type, _since, start, end, _count, _at."""
    fhir_formats.check_format(request)
    token = await authorised(request, "Patient", "r")
    query = dict(request.query_params)
    kinds = query["_type"].split(",") if "_type" in query else []
    wanted = kinds or ["*"]
    if not all(scopes.permits(token.scope, kind, "r") for kind in wanted):
        raise HTTPException(403, "$everything needs the scope system/*.rs, or reading each of its _type")
    asked: dict[str, Any] = {"count": search.MAX_COUNT, "kinds": kinds}
    for name, value in query.items():
        if name == "_count":
            asked["count"] = max(1, search.read_count(value))
        elif name in ("start", "_since"):
            asked[name.removeprefix("_")] = span_of(name, value)[0]
        elif name == "end":
            asked["end"] = span_of(name, value)[1]
        elif name == "_cursor":
            asked["after"] = _cursor(value)
        elif name not in ("_type", "_at", *FORM):
            raise SearchError(name, "not a parameter of $everything here")
    patient = internal_id("Patient", str(request.path_params["id"]))
    with span("everything"):
        page = await reading.everything(await database.pool(), reader_of(token, request), patient, **asked)
    if page is None:
        raise error(404, "not-found", "no such Patient, or not for this reader")
    return answers.searchset(
        page, f"Patient/{request.path_params['id']}/$everything", list(request.query_params.multi_items())
    )


async def patient_summary(request: Request) -> Response:
    """GET Patient/[id]/$summary: the International Patient Summary, of what the caller may read."""
    fhir_formats.check_format(request)
    token = await authorised(request, "Patient", "r")
    patient = internal_id("Patient", str(request.path_params["id"]))
    with span("summary"):
        made = await summary.make(await database.pool(), reader_of(token), patient, answers.base())
    if made is None:
        raise error(404, "not-found", "no such Patient, or not for this reader")
    return answers.answer(made)


async def match(request: Request) -> Response:
    """POST Patient/$match: who may be the Patient in Parameters, with grades (R4 patient-match)."""
    fhir_formats.check_format(request)
    token = await authorised(request, "Patient", "s")
    described, count, only_certain = _described(await document_of(request))
    resources.check(described, "Patient")
    with span("match"):
        found = await look_alikes.find(
            await database.pool(), reader_of(token), described, count, only_certain=only_certain
        )
    entries = [_match_entry(each) for each in found]
    listed = f',"entry":[{",".join(entries)}]' if entries else ""
    return answers.answer(f'{{"resourceType":"Bundle","type":"searchset","total":{len(found)}{listed}}}')


_NUMBER = re.compile(r"[0-9]{1,9}\Z")
_GRADE = "http://hl7.org/fhir/StructureDefinition/match-grade"


def _match_entry(found: look_alikes.Alike) -> str:
    grade = {"url": _GRADE, "valueCode": found.likeness.grade}
    how = dumps({"extension": [grade], "mode": "match", "score": found.likeness.score}).decode()
    address = f"{answers.base()}/Patient/{logical_id(found.content)}"
    return f'{{"fullUrl":"{address}","resource":{found.content},"search":{how}}}'


def _described(said: Any) -> tuple[Any, int, bool]:
    """The Patient, how many at most, whether certain ones alone. Raises FhirError."""
    if not isinstance(said, dict) or said.get("resourceType") not in ("Parameters", "Patient"):
        raise error(400, "invalid", "Parameters with a Patient are needed", "Parameters")
    if said["resourceType"] == "Patient":
        return said, 10, False
    if issues := validate(said):
        raise FhirError(400, issues)
    given = {each.get("name", ""): each for each in said.get("parameter", [])}
    if "resource" not in given.get("resource", {}):
        raise error(400, "required", "a Patient is needed, as the parameter resource", "Parameters.parameter")
    count = given.get("count", {}).get("valueInteger", 10)
    if not 1 <= count <= look_alikes.MOST:
        raise error(400, "invalid", f"count is from 1 to {look_alikes.MOST}", "Parameters.parameter")
    return given["resource"]["resource"], count, given.get("onlyCertainMatches", {}).get("valueBoolean", False)


async def composed_document(request: Request) -> Response:
    """GET Composition/[id]/$document: it, and all that it names and the caller may read (R4 composition-document).

    It is kept nowhere: a Bundle is in nobody's record, so that what is in it would be past consent.
    """
    fhir_formats.check_format(request)
    token = await authorised(request, "Composition", "r")
    if request.query_params.get("persist", "false") != "false":
        raise SearchError("persist", "a document is not kept here")
    pool, reader = await database.pool(), reader_of(token)
    with span("document"):
        made = await document.make(pool, reader, number_of("Composition", request), answers.base())
    if made is None:
        raise error(404, "not-found", "no such Composition, or not for this reader")
    return answers.answer(dumps(made))


async def convert(request: Request) -> Response:
    """POST $convert: a resource in the other form: what comes as XML goes as JSON, or as is asked for."""
    fhir_formats.check_format(request)
    await authorised(request, "", "")
    said = await document_of(request)
    if issues := validate(said):
        raise FhirError(400, issues)
    return answers.answer(dumps(said))


async def versions(request: Request) -> Response:
    """GET $versions: which of FHIR's are spoken here (R4 capabilitystatement-versions); without a token."""
    fhir_formats.check_format(request)
    told = [{"name": name, "valueString": "4.0"} for name in ("version", "default")]
    return answers.answer(dumps({"resourceType": "Parameters", "parameter": told}))


async def lastn(request: Request) -> Response:
    """GET, POST Observation/$lastn: of each kind the ``max`` (1) latest of a patient (R4 observation-lastn)."""
    fhir_formats.check_format(request)
    token = await authorised(request, "Observation", "s")
    given = await query_of(request)
    query = [(name, value) for name, value in given if name not in ("max", *FORM)]
    counts = [value for name, value in given if name == "max"] or ["1"]
    if len(counts) > 1 or not _NUMBER.match(counts[0]) or not 1 <= int(counts[0]) <= latest.MOST:
        raise SearchError("max", f"a number from 1 to {latest.MOST}")
    with span("lastn"):
        page = await latest.latest(await database.pool(), reader_of(token), query, int(counts[0]))
    return answers.searchset(page, "Observation/$lastn", given)


def _cursor(value: str) -> uuid.UUID:
    try:
        return uuid.UUID(value)
    except ValueError:
        raise SearchError("_cursor", "not a cursor of this operation") from None


async def validate_resource(request: Request) -> Response:
    """POST [type]/$validate and [type]/[id]/$validate, GET [type]/[id]/$validate: against R4 and profiles.

    The profiles are those that it names and those that are asked for (``profile``). The body is the resource, or
    Parameters with it (R4 resource-operation-validate). 200 whatever is found.
    """
    kind = type_of(request)
    stored = "id" in request.path_params
    token = await authorised(request, kind if stored else "", "r")
    resource, profiles = None, request.query_params.getlist("profile")
    if request.method == "POST":
        resource, named = _to_validate(await document_of(request))
        profiles += named
    if resource is None:
        if not stored:
            raise error(400, "required", "a resource is needed, by itself or in Parameters", "Parameters.parameter")
        found = await reading.read(await database.pool(), reader_of(token), kind, number_of(kind, request))
        if found is None or found.content is None:
            raise error(404, "not-found", f"no such {kind}, or not for this reader")
        resource = text.loads(found.content)
    issues = validate(resource)
    if not issues and resource["resourceType"] != kind:
        issues = [Issue("invalid", resource["resourceType"], f"not a {kind}")]
    listed = [("error", issue) for issue in issues]
    if not issues:
        # What it says of itself counts as what the caller asks.
        claimed = [each for each in resource.get("meta", {}).get("profile", []) if each]
        wanted = list(dict.fromkeys([*profiles, *claimed]))
        if len(wanted) > _MOST_PROFILES:
            raise error(400, "too-costly", f"more than {_MOST_PROFILES} profiles", "Resource.meta.profile")
        with span("validate"):
            organisation = reader_of(token).organisation_id
            listed = await checking.check(await database.pool(), organisation, resource, wanted)
    if not any(severity == "error" for severity, _ in listed):
        listed.append(("information", Issue("informational", "", "valid")))
    return answers.answer(answers.graded(listed))


_MOST_PROFILES = 20


def _to_validate(document: Any) -> tuple[Any, list[str]]:
    """The resource in a body, and the profiles that it names; Parameters are the operation's own."""
    if not isinstance(document, dict) or document.get("resourceType") != "Parameters":
        return document, []
    resource, profiles = None, []
    listed = document.get("parameter", [])
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise error(400, "invalid", "no Parameters resource", "Parameters.parameter")
    for parameter in listed:
        if parameter.get("name") == "resource":
            resource = parameter.get("resource")
        elif parameter.get("name") == "profile":
            profiles.append(str(parameter.get("valueUri", parameter.get("valueCanonical", ""))))
    return resource, profiles


async def meta(request: Request) -> Response:
    """GET $meta of a resource, or of one of its versions."""
    kind = type_of(request)
    token = await authorised(request, kind, "r")
    pool, reader, number = await database.pool(), reader_of(token, request), number_of(kind, request)
    version = str(request.path_params.get("version", ""))
    if not version:
        found = await reading.read(pool, reader, kind, number)
    elif version.isascii() and version.isdigit() and len(version) < 10:
        found = await reading.vread(pool, reader, kind, number, int(version))
    else:
        found = None
    if found is None or found.content is None:
        raise error(404, "not-found", f"no such {kind}, or not for this reader")
    return _meta(found.content)


async def meta_add(request: Request) -> Response:
    """POST [type]/[id]/$meta-add: profiles, tags and security labels more; a new version where they are new."""
    return await _change_meta(request, add=True)


async def meta_delete(request: Request) -> Response:
    """POST [type]/[id]/$meta-delete: profiles, tags and security labels less."""
    return await _change_meta(request, add=False)


async def _change_meta(request: Request, *, add: bool) -> Response:
    kind = type_of(request)
    token = await authorised(request, kind, "u")
    document = await document_of(request)
    if issues := validate(document):
        raise error(400, "invalid", "Parameters with a meta are needed", issues[0].expression)
    given = next((p["valueMeta"] for p in document.get("parameter", []) if "valueMeta" in p), None)
    if given is None:
        raise error(400, "required", "Parameters with a meta are needed", "Parameters.parameter")

    def change(resource: dict[str, Any]) -> dict[str, Any]:
        there = dict(resource.get("meta", {}))
        for name in ("profile", "security", "tag"):
            named = [_identity(item) for item in given.get(name, [])]
            kept = [item for item in there.get(name, []) if _identity(item) not in named]
            there[name] = [*kept, *given.get(name, [])] if add else kept
        return resource | {"meta": {name: value for name, value in there.items() if value}}

    operation = Operation("PATCH", kind, id=str(request.path_params["id"]), patch=change)
    (result,) = await resources.commit(await database.pool(), reader_of(token), [operation])
    assert result.content is not None
    return _meta(result.content)


def _identity(item: Any) -> Any:
    return (item.get("system"), item.get("code")) if isinstance(item, dict) else item


def _meta(content: str) -> Response:
    returned = {"name": "return", "valueMeta": text.loads(content)["meta"]}
    return answers.answer(dumps({"resourceType": "Parameters", "parameter": [returned]}))
