"""FHIR's terminology operations (R4 4.7): on what is loaded here, and what the caller's organisation posted."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from carefolio.cloud import database
from carefolio.cloud.telemetry import span
from carefolio.doors import fhir_answers as answers
from carefolio.doors import fhir_formats
from carefolio.doors.bearer import authorised
from carefolio.doors.fhir_parameters import Parameters, given
from carefolio.doors.fhir_requests import reader_of
from carefolio.fhir.errors import FhirError, error
from carefolio.fhir.validation import validate
from carefolio.mapping.serialise import dumps
from carefolio.record.access import Reader
from carefolio.record.arguments import SearchError
from carefolio.record.ids import internal_id
from carefolio.record.rows import instant
from carefolio.terminology import asking
from carefolio.terminology.asking import Coding
from carefolio.terminology.concepts import TerminologyError
from carefolio.terminology.expansion import Expansion, ExpansionError, Member, ValueSets
from carefolio.terminology.store import Canonical, Incoming, find, find_posted

_MOST_PAGE, _LONGEST_FILTER, _MOST_CODINGS = 10_000, 200, 50
_USE = "http://snomed.info/sct"


async def lookup(request: Request) -> Response:
    """GET, POST CodeSystem/$lookup: what a code means."""
    asked = await _Asked.of(request, "CodeSystem")
    [coding] = asked.codings("coding", single=True)
    wanted = asked.many("property")
    language = asked.text("displayLanguage")
    asked.done()
    if not coding.system:
        raise SearchError("system", "is needed with a code")
    with span("lookup"):
        system = await find(asked.pool, "CodeSystem", coding.system, asked.organisation, coding.version)
        found = await asking.meaning(asked.pool, system, coding.code) if system else None
    if found is None:
        raise error(404, "not-found", "the system has no such code, or is not loaded here")
    made: list[dict[str, Any]] = [
        {"name": "name", "valueString": str(found.system.content.get("name", found.system.url))},
        {"name": "display", "valueString": found.display},
    ]
    if found.system.version:
        made.insert(1, {"name": "version", "valueString": found.system.version})
    for name, said, use in found.names:
        if not language or said.partition("-")[0] == language.partition("-")[0]:
            part: list[dict[str, Any]] = [{"name": "language", "valueCode": said}] if said else []
            part += [{"name": "use", "valueCoding": {"system": _USE, "code": use}}] if use else []
            made.append({"name": "designation", "part": [*part, {"name": "value", "valueString": name}]})
    properties: list[tuple[str, Any, str]] = [("inactive", not found.active, "")]
    properties += [("parent", code, display) for code, display in found.parents]
    properties += [("child", code, display) for code, display in found.children]
    properties += [(name, value, "") for name, values in found.properties.items() for value in values]
    for name, value, text in properties:
        if not wanted or name in wanted:
            made.append({"name": "property", "part": _property(name, value, text)})
    return _parameters(made)


def _property(name: str, value: Any, text: str) -> list[dict[str, Any]]:
    kind = {bool: "valueBoolean", int: "valueInteger", float: "valueDecimal", dict: "valueCoding"}.get(type(value))
    if kind is None:
        kind = "valueCode" if name in ("parent", "child") else "valueString"
    made = [{"name": "code", "valueCode": name}, {"name": "value", kind: value}]
    return [*made, {"name": "description", "valueString": text}] if text else made


async def validate_code_of_system(request: Request) -> Response:
    """GET, POST CodeSystem/$validate-code and CodeSystem/[id]/$validate-code: whether a code is one, and so named."""
    asked = await _Asked.of(request, "CodeSystem")
    system = await asked.canonical()
    codings = asked.codings("coding")
    selectable = asked.selectable()
    asked.done()
    with span("validate code"):
        verdicts = [
            asking.Verdict(False, reason="a code of another system")
            if system is not None and each.system not in (None, system.url)
            else await asking.in_system(asked.pool, asked.organisation, each, system, selectable=selectable)
            for each in codings
        ]
    return _verdict(next((each for each in verdicts if each.result), verdicts[0]))


async def validate_code(request: Request) -> Response:
    """GET, POST ValueSet/$validate-code and ValueSet/[id]/$validate-code: whether a code is in a value set."""
    asked = await _Asked.of(request, "ValueSet")
    value_set = await asked.value_set()
    codings, selectable = asked.codings("coding"), asked.selectable()
    asked.text("displayLanguage")
    asked.done()
    with span("validate code"):
        found = await asking.in_value_set(asked.pool, asked.organisation, value_set, codings, selectable=selectable)
    return _verdict(found)


def _verdict(verdict: asking.Verdict) -> Response:
    made: list[dict[str, Any]] = [{"name": "result", "valueBoolean": verdict.result}]
    if verdict.reason:
        made.append({"name": "message", "valueString": verdict.reason})
    if verdict.display:
        made.append({"name": "display", "valueString": verdict.display})
    return _parameters(made)


async def expand(request: Request) -> Response:
    """GET, POST ValueSet/$expand and ValueSet/[id]/$expand: filter, count, offset, activeOnly, includeDesignations."""
    asked = await _Asked.of(request, "ValueSet")
    value_set = await asked.value_set()
    text = asked.text("filter")
    if len(text) > _LONGEST_FILTER:
        raise SearchError("filter", f"longer than {_LONGEST_FILTER} characters")
    count, offset = asked.number("count"), asked.number("offset") or 0
    if count is not None and count > _MOST_PAGE:
        raise SearchError("count", f"at most {_MOST_PAGE}")
    active, named = asked.flag("activeOnly"), asked.flag("includeDesignations")
    for name in ("includeDefinition", "excludeNested", "displayLanguage"):
        asked.text(name)
    asked.done()
    with span("expand"):
        found = await ValueSets(asked.pool, asked.organisation).expand(
            value_set, text=text, count=count, offset=offset, active=active
        )
    told = {"filter": text, "count": count, "offset": offset or None, "activeOnly": active or None}
    return answers.answer(dumps(_expanded(value_set, found, told, named=named)))


def _expanded(value_set: dict[str, Any], found: Expansion, told: dict[str, Any], *, named: bool) -> dict[str, Any]:
    now = datetime.now(UTC)
    parameters: list[dict[str, Any]] = [{"name": "used-codesystem", "valueUri": each} for each in found.used]
    for name, value in told.items():
        kind = {bool: "valueBoolean", int: "valueInteger"}.get(type(value), "valueString")
        if value not in (None, ""):
            parameters.append({"name": name, kind: value})
    expansion: dict[str, Any] = {"identifier": f"urn:uuid:{uuid.uuid4()}", "timestamp": instant(now)}
    if found.total is not None:
        expansion["total"] = found.total
    if told.get("offset") is not None:
        expansion["offset"] = told["offset"]
    if parameters:
        expansion["parameter"] = parameters
    if found.members:
        expansion["contains"] = [_contained(each, named=named) for each in found.members]
    kept = ("url", "version", "name", "title", "status", "id")
    made = {name: value_set[name] for name in kept if name in value_set}
    return {"resourceType": "ValueSet", "status": "active"} | made | {"expansion": expansion}


def _contained(member: Member, *, named: bool) -> dict[str, Any]:
    made: dict[str, Any] = {"system": member.system, "code": member.code, "display": member.display}
    if member.version:
        made["version"] = member.version
    if not member.active:
        made["inactive"] = True
    if member.abstract:
        made["abstract"] = True
    if named and member.names:
        made["designation"] = [
            ({"language": language} if language else {})
            | ({"use": {"system": _USE, "code": use}} if use else {})
            | {"value": name}
            for name, language, use in member.names
        ]
    return made


async def subsumes(request: Request) -> Response:
    """GET, POST CodeSystem/$subsumes and CodeSystem/[id]/$subsumes: whether one code is a kind of another."""
    asked = await _Asked.of(request, "CodeSystem")
    named = asked.path_id()
    at = await asked.posted(named) if named is not None else None
    url, version = at.url if at else asked.text("system"), asked.text("version")
    pair = []
    for letter in "AB":
        coding = asked.value(f"coding{letter}") or {}
        code = asked.text(f"code{letter}") or str(coding.get("code", ""))
        url = url or str(coding.get("system", ""))
        if not code or coding.get("system", url) != url:
            raise SearchError(f"code{letter}", "two codes of one system are needed")
        pair.append(code)
    asked.done()
    if not url:
        raise SearchError("system", "is needed with codes")
    with span("subsumes"):
        system = at or await find(asked.pool, "CodeSystem", url, asked.organisation, version)
        found = await asking.relation(asked.pool, system, pair[0], pair[1]) if system else None
    if found is None:
        raise error(404, "not-found", "the system does not have both codes, or is not loaded here")
    return _parameters([{"name": "outcome", "valueCode": found}])


async def translate(request: Request) -> Response:
    """GET, POST ConceptMap/$translate and ConceptMap/[id]/$translate: what a code is in another system."""
    asked = await _Asked.of(request, "ConceptMap")
    named = asked.path_id()
    at = await asked.posted(named) if named is not None else None
    url, version = asked.text("url"), asked.text("conceptMapVersion")
    codings = asked.codings("coding")
    wish = asking.Wish(
        at, f"{url}|{version}" if url and version else url, asked.text("source"), asked.text("target"),
        asked.text("targetsystem"), asked.flag("reverse"),
    )  # fmt: skip
    asked.done()
    with span("translate"):
        found = await asking.translations(asked.pool, asked.organisation, codings, wish)
    good = any(each.equivalence not in ("unmatched", "disjoint") for each in found)
    made: list[dict[str, Any]] = [{"name": "result", "valueBoolean": good}]
    if not found:
        made.append({"name": "message", "valueString": "no map says anything of the code"})
    for each in found:
        part: list[dict[str, Any]] = [{"name": "equivalence", "valueCode": each.equivalence}]
        if each.code:
            concept = {"system": each.system, "code": each.code, "display": each.display}
            part.append({"name": "concept", "valueCoding": {name: value for name, value in concept.items() if value}})
        made.append({"name": "match", "part": [*part, {"name": "source", "valueUri": each.source}]})
    return _parameters(made)


def _parameters(parameter: Sequence[dict[str, Any]]) -> Response:
    return answers.answer(dumps({"resourceType": "Parameters", "parameter": list(parameter)}))


class _Asked(Parameters):
    """A terminology operation: its parameters, and what they are asked of."""

    def __init__(self, request: Request, kind: str, reader: Reader, said: Sequence[tuple[str, Any]], pool: Any) -> None:
        super().__init__(said)
        self.pool = pool
        self.organisation = reader.organisation_id
        self._request = request
        self._kind = kind

    @classmethod
    async def of(cls, request: Request, kind: str) -> _Asked:
        """For whoever has a token: codes are nobody's."""
        fhir_formats.check_format(request)
        reader = reader_of(await authorised(request, "", ""))
        said = await given(request)
        return cls(request, kind, reader, said, await database.pool())

    def selectable(self) -> bool:
        """Whether codes for grouping alone do not count (``abstract`` false)."""
        return self.text("abstract") == "false"

    def path_id(self) -> uuid.UUID | None:
        """The resource's number, where the operation is on one."""
        named = self._request.path_params.get("id")
        return internal_id(self._kind, str(named)) if named else None

    async def posted(self, number: uuid.UUID) -> Canonical:
        """What the organisation posted under a number. Raises FhirError."""
        found = await find_posted(self.pool, self._kind, number, self.organisation)
        if found is None:
            raise error(404, "not-found", f"no such {self._kind} of this organisation's")
        return found

    def codings(self, name: str, *, single: bool = False) -> list[Coding]:
        """What is asked about: a code with its system, a Coding, or a CodeableConcept's. Raises SearchError."""
        made = []
        code, system, display = self.text("code"), self.text("system"), self.text("display")
        version = self.text("version") or self.text("systemVersion")
        if code:
            made.append(Coding(code, system or None, display, version))
        said = self.several(name)
        if not single:
            said += (self.value("codeableConcept") or {}).get("coding", [])
        made += [
            Coding(each.get("code", ""), each.get("system"), each.get("display", ""), each.get("version", ""))
            for each in said
        ]
        if not made or len(made) > (1 if single else _MOST_CODINGS) or not all(each.code for each in made):
            raise SearchError("code", "one is needed" if single else f"1 to {_MOST_CODINGS} are needed")
        return made

    async def canonical(self) -> Canonical | None:
        """The code system that is named by URL or by the address."""
        if (number := self.path_id()) is not None:
            return await self.posted(number)
        url = self.text("url")
        if not url:
            return None
        found = await find(self.pool, "CodeSystem", url, self.organisation)
        if found is None:
            raise error(404, "not-found", "the code system is not loaded here")
        return found

    async def value_set(self) -> dict[str, Any]:
        """The value set that is named by URL or by the address, or that came along. Raises FhirError."""
        if (number := self.path_id()) is not None:
            return (await self.posted(number)).content
        url, version = self.text("url"), self.text("valueSetVersion")
        said = self.value("valueSet")
        if said is not None:
            if issues := validate(said):
                raise FhirError(400, issues)
            if said.get("resourceType") != "ValueSet":
                raise SearchError("valueSet", "a ValueSet")
            try:
                return Incoming.of(said).content
            except TerminologyError as failure:
                raise SearchError("valueSet", str(failure)) from None
        if not url:
            raise SearchError("url", "which value set is needed: url, valueSet, or its own address")
        return await ValueSets(self.pool, self.organisation).definition(url, version)


def failure_of(failure: ExpansionError) -> FhirError:
    """How a value set that cannot be expanded is answered."""
    if failure.missing:
        return error(404, "not-found", str(failure))
    return error(422, "too-costly" if "more than" in str(failure) else "not-supported", str(failure))
