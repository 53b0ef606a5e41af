"""Composition/$document, $convert, $versions."""

from __future__ import annotations

from typing import Any

import pytest
from tests.conftest import Hospital, NewHospital

from carefolio.fhir.validation import validate


@pytest.fixture(scope="module")
async def owner(new_hospital: NewHospital) -> Hospital:
    return await new_hospital("--allow", "127.0.0.0/8", scope="system/*.cruds")


async def put(owner: Hospital, body: dict[str, Any]) -> str:
    reply = await owner.request("POST", f"/fhir/R4/{body['resourceType']}", json=body, headers=await owner.bearer())
    assert reply.status == 201, reply.body
    return str(reply.json["id"])


async def test_a_composition_as_a_document(owner: Hospital, new_hospital: NewHospital) -> None:
    """With what it names, each once, the Composition first; of what the token reads."""
    patient = (await owner.patient(await owner.registered()))["id"]
    doctor = await put(owner, {"resourceType": "Practitioner", "name": [{"family": "Farrow"}]})
    problem = await put(owner, {"resourceType": "Condition", "subject": {"reference": f"Patient/{patient}"},
                                "code": {"text": "Asthma"}})  # fmt: skip
    section = {"title": "Problems", "entry": [{"reference": f"Condition/{problem}"}] * 2}
    letter = await put(owner, {
        "resourceType": "Composition", "status": "final", "type": {"text": "Letter"}, "date": "2026-11-27",
        "title": "Letter", "subject": {"reference": f"Patient/{patient}"},
        "author": [{"reference": f"Practitioner/{doctor}"}], "section": [section],
    })  # fmt: skip
    reply = await owner.get(f"Composition/{letter}/$document")
    assert reply.status == 200, reply.body
    assert (reply.json["type"], validate(reply.json)) == ("document", [])
    kinds = [each["resource"]["resourceType"] for each in reply.json["entry"]]
    assert (kinds[0], sorted(kinds[1:])) == ("Composition", ["Condition", "Patient", "Practitioner"])
    assert (await owner.get(f"Composition/{letter}/$document?persist=false")).status == 200
    assert (await owner.get(f"Composition/{letter}/$document?persist=true")).status == 400
    narrow = {"Authorization": f"Bearer {await owner.authorize('system/Composition.rs system/Patient.rs')}"}
    path = f"/fhir/R4/Composition/{letter}/$document"
    reply = await owner.request("GET", path, headers=narrow)
    assert {each["resource"]["resourceType"] for each in reply.json["entry"]} == {"Composition", "Patient"}
    other = await new_hospital("--allow", "127.0.0.0/8", scope="system/*.rs")
    for path in (f"Composition/{letter}/$document", "Composition/none/$document"):
        assert (await other.get(path)).status == 404


async def test_a_resource_in_the_other_form(owner: Hospital) -> None:
    body = b'<Patient xmlns="http://hl7.org/fhir"><birthDate value="1970-01-01"/></Patient>'
    headers = {**await owner.bearer(), "Content-Type": "application/fhir+xml", "Accept": "application/fhir+json"}
    reply = await owner.request("POST", "/fhir/R4/$convert", data=body, headers=headers)
    assert reply.json == {"resourceType": "Patient", "birthDate": "1970-01-01"}
    headers |= {"Accept": "application/fhir+xml", "Content-Type": "application/fhir+json"}
    reply = await owner.request("POST", "/fhir/R4/$convert", json=reply.json, headers=headers)
    assert b'<birthDate value="1970-01-01"' in reply.body
    wrong = {"resourceType": "Patient", "birthDate": "yesterday"}
    assert (await owner.request("POST", "/fhir/R4/$convert", json=wrong, headers=await owner.bearer())).status == 400


async def test_which_versions_are_spoken(owner: Hospital) -> None:
    reply = await owner.request("GET", "/fhir/R4/$versions")
    assert [each["valueString"] for each in reply.json["parameter"]] == ["4.0", "4.0"]
