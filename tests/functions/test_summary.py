"""Patient/$summary: the International Patient Summary."""

from __future__ import annotations

from typing import Any

import pytest
from tests.conftest import Hospital, NewHospital, nhs, unique
from tests.record.people import Person, end
from tests.sharing_kit import World

from carefolio.fhir.validation import validate

_NEEDED = {"48765-2", "10160-0", "11450-4"}


@pytest.fixture(scope="module")
async def owner(new_hospital: NewHospital) -> Hospital:
    return await new_hospital("--allow", "127.0.0.0/8", scope="system/*.cruds")


def sections(bundle: dict[str, Any]) -> dict[str, dict[str, Any]]:
    composition = bundle["entry"][0]["resource"]
    assert composition["resourceType"] == "Composition"
    return {each["code"]["coding"][0]["code"]: each for each in composition["section"]}


async def put(owner: Hospital, body: dict[str, Any]) -> str:
    reply = await owner.request("POST", f"/fhir/R4/{body['resourceType']}", json=body, headers=await owner.bearer())
    assert reply.status == 201, reply.body
    return str(reply.json["id"])


async def test_what_a_stranger_has_to_know(owner: Hospital) -> None:
    """Current things in their sections, over and past apart, untrue ones nowhere; every reference leads into it."""
    person = Person(nhs(), unique("L"))
    await end(owner, person.message("A28", rest="AL1|1|DA|P^Penicillin"))
    filler = unique("F")
    await end(owner, person.result(filler, "90"))
    await end(owner, person.result(unique("F"), "95"))
    patient = (await owner.patient(person.number))["id"]
    subject = {"subject": {"reference": f"Patient/{patient}"}}
    clinical, verified = ("http://terminology.hl7.org/CodeSystem/condition-clinical",
                          "http://terminology.hl7.org/CodeSystem/condition-ver-status")  # fmt: skip

    def condition(name: str, status: str, sure: str = "confirmed") -> dict[str, Any]:
        return {"resourceType": "Condition", "code": {"text": name}, **subject,
                "clinicalStatus": {"coding": [{"system": clinical, "code": status}]},
                "verificationStatus": {"coding": [{"system": verified, "code": sure}]}}  # fmt: skip

    await put(owner, condition("Asthma <b>bold</b>", "active"))
    await put(owner, condition("Broken arm", "resolved"))
    await put(owner, condition("Not at all", "active", "refuted"))
    await put(owner, {"resourceType": "MedicationStatement", "status": "active", **subject,
                      "medicationCodeableConcept": {"text": "Salbutamol"}})  # fmt: skip
    await put(owner, {"resourceType": "MedicationStatement", "status": "stopped", **subject,
                      "medicationCodeableConcept": {"text": "Aspirin"}})  # fmt: skip
    medication = await put(owner, {"resourceType": "Medication", "code": {"text": "Ramipril 5 mg"}})
    for reference in (f"Medication/{medication}", "#m"):
        await put(owner, {"resourceType": "MedicationRequest", "status": "active", "intent": "order", **subject,
                          "medicationReference": {"reference": reference},
                          **({"contained": [{"resourceType": "Medication", "id": "m", "code": {"text": "Bisoprolol"}}]}
                             if reference == "#m" else {})})  # fmt: skip
    reply = await owner.get(f"Patient/{patient}/$summary")
    assert reply.status == 200, reply.body
    bundle = reply.json
    told = sections(bundle)["10160-0"]["text"]["div"]
    assert ("Ramipril 5 mg" in told, "Bisoprolol" in told) == (True, True), told
    assert medication in {each["resource"]["id"] for each in bundle["entry"]}
    assert (bundle["type"], validate(bundle)) == ("document", [])
    found = sections(bundle)
    assert set(found) >= _NEEDED
    said = {code: each["text"]["div"] for code, each in found.items()}
    assert "Penicillin" in said["48765-2"]
    assert "Asthma &lt;b&gt;bold&lt;/b&gt;" in said["11450-4"]
    assert "Broken arm" in said["11348-0"]
    assert "Salbutamol" in said["10160-0"]
    for untrue in ("Not at all", "Aspirin"):
        assert untrue not in reply.body.decode()
    # Two results of one kind: the latest of them.
    assert len(found["30954-2"]["entry"]) == 1
    there = {each["fullUrl"].rpartition("/fhir/R4/")[2] for each in bundle["entry"]}
    assert {each["reference"] for section in found.values() for each in section.get("entry", [])} <= there
    assert f"Patient/{patient}" in there


async def test_nothing_recorded_is_not_said_to_be_nothing(owner: Hospital) -> None:
    patient = (await owner.patient(await owner.registered()))["id"]
    found = sections((await owner.get(f"Patient/{patient}/$summary")).json)
    assert set(found) == _NEEDED
    for each in found.values():
        assert each["emptyReason"]["coding"][0]["code"] == "unavailable"
        assert "does not say that there is nothing" in each["text"]["div"]


async def test_it_has_what_the_reader_sees_and_no_more(world: World, owner: Hospital) -> None:
    await world.state("all")
    for name, person in world.people.items():
        bearer = {"Authorization": f"Bearer {person.token()}"}
        at_all = await world.hospital.request("GET", f"/fhir/R4/Patient/{world.patient}", headers=bearer)
        reply = await world.hospital.request("GET", f"/fhir/R4/Patient/{world.patient}/$summary", headers=bearer)
        assert reply.status == at_all.status, name
        if reply.status != 200:
            continue
        everything = await world.hospital.request(
            "GET", f"/fhir/R4/Patient/{world.patient}/$everything?_count=1000", headers=bearer
        )
        seen = {each["resource"]["id"] for each in everything.json["entry"]}
        named = {each["resource"]["id"] for each in reply.json["entry"]
                 if each["resource"]["resourceType"] not in ("Composition", "Device")}  # fmt: skip
        assert named <= seen, name
    narrow = await owner.authorize("system/Patient.rs")
    patient = (await owner.patient(await owner.registered()))["id"]
    reply = await owner.request(
        "GET", f"/fhir/R4/Patient/{patient}/$summary", headers={"Authorization": f"Bearer {narrow}"}
    )
    assert (reply.status, len(reply.json["entry"])) == (200, 3)
