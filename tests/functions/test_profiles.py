"""$validate against profiles that are posted or loaded, with bindings and invariants; profiles that are enforced."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from tests.conftest import Hospital, NewHospital, Running, running, unique
from tests.functions.fhir_client import made, observation, patient, send
from tests.long.test_export_kills import authorized
from tests.profiles import ukcore
from tests.profiles.test_walking import element, profile
from tests.terminology import kit

from carefolio.mapping.serialise import dumps


async def validated(app: Hospital, resource: dict[str, Any], *profiles: str) -> dict[str, list[tuple[str, str]]]:
    """By severity what is told: (element, text)."""
    query = "&".join(f"profile={quote(each, safe='')}" for each in profiles)
    reply = await send(app, "POST", f"{resource['resourceType']}/$validate?{query}", dumps(resource))
    assert reply.status == 200, reply.body
    told: dict[str, list[tuple[str, str]]] = {}
    for issue in reply.json["issue"]:
        told.setdefault(issue["severity"], []).append((issue.get("expression", [""])[0], issue["diagnostics"]))
    return told


async def posted(app: Hospital, said: dict[str, Any]) -> str:
    """A profile under a URL of its own."""
    url = f"urn:x:{unique('p')}"
    await made(app, said | {"url": url, "name": "P", "status": "active", "kind": "resource", "abstract": False})
    return url


async def test_a_posted_profile_with_bindings_and_invariants(app: Hospital, new_hospital: NewHospital) -> None:
    """Required ones are errors, extensible ones warnings; what is not known is told; it is nobody else's."""
    colours = f"urn:x:{unique('v')}"
    await made(app, {"resourceType": "ValueSet", "url": colours, "status": "active", "compose": {
        "include": [{"system": "urn:c", "concept": [{"code": "red"}, {"code": "blue"}]}]}})  # fmt: skip
    url = await posted(app, profile(
        "Observation",
        element("Observation", constraint=[
            {"key": "x-1", "severity": "error", "human": "a value is needed", "expression": "value.exists()"},
            {"key": "x-2", "severity": "warning", "human": "a note helps", "expression": "note.exists()"},
        ]),
        element("Observation.code", binding={"strength": "required", "valueSet": colours}),
        element("Observation.method", binding={"strength": "extensible", "valueSet": colours}),
        element("Observation.bodySite", binding={"strength": "required", "valueSet": "urn:not:here"}),
    ))  # fmt: skip
    red, blue = ({"coding": [{"system": "urn:c", "code": code}]} for code in ("red", "blue"))
    bare = {"resourceType": "Observation", "status": "final", "code": red, "method": blue}
    good = bare | {"valueString": "x", "note": [{"text": "n"}]}
    told = await validated(app, good, url)
    assert set(told) == {"information"}
    wrong = good | {"code": {"coding": [{"system": "urn:c", "code": "green"}]}}
    assert [place for place, _ in (await validated(app, wrong, url))["error"]] == ["Observation.code"]
    wrong = good | {"method": {"coding": [{"system": "urn:d", "code": "red"}]}}
    told = await validated(app, wrong, url)
    assert ([place for place, _ in told["warning"]], "error" in told) == (["Observation.method"], False)
    told = await validated(app, bare, url)
    assert ([text[:3] for _, text in told["error"]], [text[:3] for _, text in told["warning"]]) == (["x-1"], ["x-2"])
    told = await validated(app, good | {"bodySite": {"text": "arm", "coding": [{"code": "a"}]}}, url)
    assert "not known here" in json.dumps(told["information"])
    # What it says of itself counts without being asked.
    told = await validated(app, wrong | {"meta": {"profile": [url]}, "code": {"text": "none"}})
    assert [place for place, _ in told["error"]] == ["Observation.code"]
    other = await new_hospital(scope="system/*.rs")
    assert "not known here" in json.dumps((await validated(other, wrong, url))["warning"])
    assert "is of Observation" in json.dumps((await validated(app, patient(), url))["error"])


async def test_what_a_profile_refers_to_is_found(app: Hospital) -> None:
    """Profiles of parts, of extensions, of what is referred to, and versions."""
    given = await posted(app, profile("HumanName", element("HumanName.given", min=1)) | {"kind": "complex-type"})
    mine = await posted(app, profile("Patient", element("Patient.gender", min=1)))
    url = await posted(
        app, profile("Patient", element("Patient.name", type=[{"code": "HumanName", "profile": [given]}]))
    )
    told = await validated(app, {"resourceType": "Patient", "name": [{"family": "x"}]}, url)
    assert [place for place, _ in told["error"]] == ["Patient.name[0].given"]
    of_mine = await posted(app, profile("Observation", element(
        "Observation.subject", type=[{"code": "Reference", "targetProfile": [mine]}])))  # fmt: skip
    body = {"resourceType": "Observation", "status": "final", "code": {"text": "x"}}
    told = await validated(app, body | {"subject": {"reference": "Device/1"}}, of_mine)
    assert [place for place, _ in told["error"]] == ["Observation.subject"]
    away = await posted(app, profile("Patient", base="urn:not:here"))
    assert "urn:not:here" in json.dumps(
        (await validated(app, {"resourceType": "Patient", "gender": "other"}, away))["warning"]
    )


async def test_a_slow_expression_costs_nobody_else(app: Hospital, new_hospital: NewHospital) -> None:
    """Not another organisation, and not twice; what is false beside it is told."""
    slow = {"key": "x-1", "severity": "error", "human": "x", "expression": "code.text.matches('^(a+)+$')"}
    false = {"key": "x-2", "severity": "error", "human": "x", "expression": "false"}
    url = await posted(app, profile("Observation", element("Observation", constraint=[false, slow])))
    other = await new_hospital(scope="system/*.rs")
    body = {"resourceType": "Observation", "status": "final", "code": {"text": "a" * 40 + "!"}}
    first = asyncio.create_task(validated(app, body, url))
    await asyncio.sleep(0.3)
    started = time.monotonic()
    assert set(await validated(other, body)) == {"information"}
    assert time.monotonic() - started < 2
    assert [text[:3] for _, text in (await first)["error"]] == ["x-2"]
    started = time.monotonic()
    assert [text[:3] for _, text in (await validated(app, body, url))["error"]] == ["x-2"]
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    "body",
    [
        {"resourceType": "Parameters", "parameter": [1]},
        {"resourceType": "Parameters", "parameter": 5},
        {"resourceType": "Parameters"},
        [],
    ],
)
async def test_bodies_that_are_none(app: Hospital, body: Any) -> None:
    reply = await send(app, "POST", "Patient/$validate", json.dumps(body).encode())
    assert reply.status in (200, 400), reply.body
    assert reply.json["resourceType"] == "OperationOutcome"


async def test_fhirs_own_invariants(app: Hospital) -> None:
    """Those too that only FHIRPath tells."""
    body = {"resourceType": "Observation", "status": "final", "code": {"text": "x"}}
    told = await validated(app, body | {"component": [{"code": {"text": "x"}}], "valueString": "x"})
    assert "error" not in told
    same = {"coding": [{"system": "urn:s", "code": "a"}]}
    told = await validated(app, body | {"code": same, "component": [{"code": same}], "valueString": "x"})
    assert [text[:5] for _, text in told["error"]] == ["obs-7"]
    status = "http://terminology.hl7.org/CodeSystem/condition"
    told = await validated(app, {
        "resourceType": "Condition", "subject": {"reference": "Patient/1"},
        "verificationStatus": {"coding": [{"system": f"{status}-ver-status", "code": "entered-in-error"}]},
        "clinicalStatus": {"coding": [{"system": f"{status}-clinical", "code": "active"}]},
    })  # fmt: skip
    assert [text[:5] for _, text in told["error"]] == ["con-5"]


@pytest.mark.parametrize(
    "expression",
    [
        "code.text.matches('^(a+)+$')",
        "repeat(children()).repeat(children()).where(repeat(children()).exists()).exists() or true",
        "((((((((((" * 40 + "true" + "))))))))))" * 40,
        "nonsense(",
        "1 / 0 = 2",
        "__import__('os')",
    ],
)
async def test_hostile_expressions_are_bounded(app: Hospital, expression: str) -> None:
    """They cost some seconds, and nobody else anything."""
    rule = {"key": "x-1", "severity": "error", "human": "x", "expression": expression}
    url = await posted(app, profile("Observation", element("Observation", constraint=[rule])))
    body = {"resourceType": "Observation", "status": "final", "code": {"text": "a" * 40 + "!"}}
    started = time.monotonic()
    told = await validated(app, body, url)
    assert time.monotonic() - started < 20
    assert told
    assert set(await validated(app, body)) == {"information"}


@pytest.mark.skipif(not ukcore.ROOT.exists(), reason="UK Core's definitions are not at hand")
async def test_uk_cores_examples_are_valid(app: Hospital, installation: Running, tmp_path: Path) -> None:
    """As a package that an operator loads: every example meets its profile."""
    installation.cli("terminology", "load", str(ukcore.package(tmp_path / "ukcore.tgz")))
    urls = {each["url"].rpartition("/")[2]: each["url"] for each in ukcore.resources("structuredefinitions").values()}
    refused = {}
    for name, resource in ukcore.resources("examples").items():
        known = [urls[each] for each in sorted(urls, key=len, reverse=True) if name.startswith(each)]
        told = await validated(app, resource, *(known[:1] if name.startswith("UKCore") else []))
        if "error" in told:
            refused[name] = told["error"]
    assert refused == {}
    uk = "https://fhir.hl7.org.uk/StructureDefinition"
    verified = {"url": f"{uk}/Extension-UKCore-NHSNumberVerificationStatus",
                "valueCodeableConcept": {"coding": [{"system": "urn:x", "code": "nonsense"}]}}  # fmt: skip
    number = {"system": "https://fhir.nhs.uk/Id/nhs-number", "value": "9990001103", "extension": [verified]}
    someone = {"resourceType": "Patient", "identifier": [number]}
    told = await validated(app, someone, f"{uk}/UKCore-Patient")
    assert ["valueCodeableConcept" in place for place, _ in told["error"]] == [True]


async def test_profiles_are_enforced_where_the_installation_wants_it(homes: Callable[[], Path], tmp_path: Path) -> None:
    """What claims a profile that is known meets it, by every way of writing; what claims none is R4's alone."""
    with running(homes(), "--no-demo", ENFORCE_PROFILES="true") as there:
        there.cli("organisation", "add", "RENF", "Enforced")
        options = ("--organisation", "RENF", "--scope", "system/*.cruds", "--json")
        client = json.loads(there.cli("client", "add", "c", *options).stdout)
        async with aiohttp.ClientSession(there.url) as session:
            token = await authorized(session, client)

            async def wrote(method: str, path: str, body: dict[str, Any]) -> int:
                async with session.request(method, f"/fhir/R4/{path}", json=body, headers=token) as answer:
                    await answer.read()
                    return answer.status

            said = profile("Patient", element("Patient.gender", min=1), url="urn:x:enforced")
            said |= {"name": "P", "status": "active", "kind": "resource", "abstract": False}
            assert await wrote("POST", "StructureDefinition", said) == 201
            claims = {"resourceType": "Patient", "meta": {"profile": ["urn:x:enforced"]}}
            assert await wrote("POST", "Patient", claims) == 422
            assert await wrote("PUT", "Patient/p", claims | {"id": "p", "gender": "other"}) == 201
            entry = {"resource": claims, "request": {"method": "POST", "url": "Patient"}}
            bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [entry]}
            assert await wrote("POST", "", bundle) == 422
            patch = token | {"Content-Type": "application/merge-patch+json"}
            async with session.patch("/fhir/R4/Patient/p", data='{"gender": null}', headers=patch) as answer:
                assert answer.status == 422
            assert await wrote("POST", "Patient", {"resourceType": "Patient"}) == 201
            assert await wrote("POST", "Patient", claims | {"meta": {"profile": ["urn:x:elsewhere"]}}) == 201
            # An empty profile of one's own does not stand for one that everybody has.
            file = kit.package(tmp_path / "p.tgz", [said | {"url": "urn:x:everybodys"}])
            there.cli("terminology", "load", str(file))
            empty = said | {
                "url": "urn:x:everybodys",
                "differential": {"element": [{"id": "Patient", "path": "Patient"}]},
            }
            assert await wrote("POST", "StructureDefinition", empty) == 201
            assert await wrote("POST", "Patient", claims | {"meta": {"profile": ["urn:x:everybodys"]}}) == 422


async def test_too_many_profiles(app: Hospital) -> None:
    someone = await made(app, patient())
    body = observation(someone) | {"meta": {"profile": [f"urn:x:{n}" for n in range(30)]}}
    assert (await send(app, "POST", "Observation/$validate", body)).status == 400
