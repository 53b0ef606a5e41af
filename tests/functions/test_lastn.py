"""Observation/$lastn: the latest of each kind."""

from __future__ import annotations

from typing import Any

import pytest
from tests.conftest import Hospital, NewHospital
from tests.sharing_kit import World

_LOINC = "http://loinc.org"
_VITAL = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "vital-signs"}]}


async def made(hospital: Hospital, patient: str, code: dict[str, Any], at: str | None, value: float) -> str:
    body = {"resourceType": "Observation", "status": "final", "category": [_VITAL], "code": code,
            "subject": {"reference": f"Patient/{patient}"}, "valueQuantity": {"value": value}}  # fmt: skip
    reply = await hospital.request(
        "POST", "/fhir/R4/Observation", json=body | ({"effectiveDateTime": at} if at else {}),
        headers=await hospital.bearer(),
    )  # fmt: skip
    assert reply.status == 201, reply.body
    return str(reply.json["id"])


@pytest.fixture(scope="module")
async def owner(new_hospital: NewHospital) -> Hospital:
    return await new_hospital("--allow", "127.0.0.0/8", scope="system/*.cruds")


async def test_the_latest_of_each_kind(owner: Hospital) -> None:
    """By code, the latest first; another coding beside it makes no other kind, a missing time comes last."""
    patient, other = [(await owner.patient(await owner.registered()))["id"] for _ in range(2)]
    weight = {"coding": [{"system": _LOINC, "code": "29463-7"}, {"system": "urn:own", "code": "W"}]}
    height = {"coding": [{"display": "no system", "code": "H"}, {"system": _LOINC, "code": "8302-2"}]}
    pain = {"text": "Pain"}
    for day in ("02", "04", "03"):
        await made(owner, patient, weight, f"2026-11-{day}T09:00:00Z", float(day))
    await made(owner, patient, weight, None, 99)
    await made(owner, patient, height, "2026-11-01", 170)
    await made(owner, patient, pain, "2026-11-01", 3)
    await made(owner, other, weight, "2026-11-20", 1)
    found = await owner.search(f"Observation/$lastn?patient={patient}&category=vital-signs")
    assert sorted(each["valueQuantity"]["value"] for each in found) == [3, 4, 170]
    found = await owner.search(f"Observation/$lastn?patient=Patient/{patient}&code={_LOINC}|29463-7&max=4")
    assert [each["valueQuantity"]["value"] for each in found] == [4, 3, 2, 99]
    found = await owner.search(
        f"Observation/$lastn?subject=Patient/{patient}&category=vital-signs&date=lt2026-11-03&max=1"
    )
    assert sorted(each["valueQuantity"]["value"] for each in found) == [2, 3, 170]
    posted = await owner.request(
        "POST", "/fhir/R4/Observation/$lastn", data={"patient": patient, "category": "vital-signs"},
        headers=await owner.bearer(),
    )  # fmt: skip
    assert (posted.status, posted.json["total"]) == (200, 3)


@pytest.mark.parametrize(
    ("query", "place"),
    [("category=vital-signs", "patient"), ("patient=x", "category"), ("patient=x&code=a&max=0", "max"),
     ("patient=x,y&code=a", "patient"), ("patient:missing=false&code=a", "patient"),
     ("patient.name=a&code=a", "patient"), ("patient=x&code=a&max=" + "1" * 5000, "max"),
     ("patient=x&code=a&max=two", "max"), ("patient=x&code=a&max=1&max=2", "max"), ("patient=x&code=a&odd=1", "odd")],
)  # fmt: skip
async def test_what_cannot_be_asked(owner: Hospital, query: str, place: str) -> None:
    reply = await owner.get(f"Observation/$lastn?{query}")
    assert (reply.status, place in reply.body.decode()) == (400, True), reply.body


async def test_it_opens_nothing_that_a_search_does_not(world: World, owner: Hospital) -> None:
    await world.state("all")
    for name, person in world.people.items():
        bearer = {"Authorization": f"Bearer {person.token()}"}
        query = f"patient={world.patient}&code:missing=false"
        asked = await world.hospital.request("GET", f"/fhir/R4/Observation?{query}&_count=500", headers=bearer)
        latest = await world.hospital.request("GET", f"/fhir/R4/Observation/$lastn?{query}&max=100", headers=bearer)
        assert asked.status == latest.status, (name, latest.body)
        if asked.status == 200:
            ids = [sorted(e["resource"]["id"] for e in reply.json.get("entry", [])) for reply in (asked, latest)]
            assert ids[0] == ids[1], name
    assert (await owner.request("GET", "/fhir/R4/Observation/$lastn?patient=x&code=a")).status == 401
