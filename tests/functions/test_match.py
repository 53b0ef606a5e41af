"""Patient/$match at the door."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest
from tests.conftest import Hospital, NewHospital, Reply, nhs, unique

_NHS = "https://fhir.nhs.uk/Id/nhs-number"


@pytest.fixture(scope="module")
async def owner(new_hospital: NewHospital) -> Hospital:
    return await new_hospital("--allow", "127.0.0.0/8", scope="system/*.cruds")


def patient(family: str, given: str = "Miriam", born: str = "1970-01-02", **more: Any) -> dict[str, Any]:
    made = {"resourceType": "Patient", "name": [{"family": family, "given": [given]}], "birthDate": born,
            "gender": "female", "address": [{"postalCode": "DT9 1AA"}]} | more  # fmt: skip
    return {name: value for name, value in made.items() if value}


async def put(owner: Hospital, body: dict[str, Any]) -> str:
    reply = await owner.request("POST", "/fhir/R4/Patient", json=body, headers=await owner.bearer())
    assert reply.status == 201, reply.body
    return str(reply.json["id"])


async def asked(owner: Hospital, described: Any, **parameters: Any) -> Reply:
    said = [{"name": "resource", "resource": described}]
    said += [{"name": name, "valueBoolean" if isinstance(value, bool) else "valueInteger": value}
             for name, value in parameters.items()]  # fmt: skip
    body = {"resourceType": "Parameters", "parameter": said}
    return await owner.request("POST", "/fhir/R4/Patient/$match", json=body, headers=await owner.bearer())


def graded(reply: Reply) -> dict[str, str]:
    assert reply.status == 200, reply.body
    found = reply.json.get("entry", [])
    scores = [each["search"]["score"] for each in found]
    assert scores == sorted(scores, reverse=True)
    return {each["resource"]["id"]: each["search"]["extension"][0]["valueCode"] for each in found}


async def looks(database: asyncpg.Pool, at: str) -> int:
    count: int = await database.fetchval("SELECT count(*) FROM audit WHERE patient_id = $1 AND action = 'read'", at)
    return count


async def test_who_it_may_be(owner: Hospital, new_hospital: NewHospital, database: asyncpg.Pool) -> None:
    """The same person, misheard; a twin and a namesake as no more than possible; nobody of another organisation."""
    family = unique("Farrow") + "son"
    number = nhs()
    her = await put(owner, patient(family, identifier=[{"system": _NHS, "value": number}]))
    twin = await put(owner, patient(family, "Robin"))
    namesake = await put(owner, patient(family, born="1940-11-30"))
    other = await new_hospital("--allow", "127.0.0.0/8", scope="system/*.cruds")
    await put(other, patient(family))
    found = graded(await asked(owner, patient(family)))
    assert found == {her: "certain", twin: "possible", namesake: "possible"}
    # By her number, with a name that was misheard, and day and month in each other's place.
    misheard = patient(family[:-1], born="1970-02-01", identifier=[{"system": _NHS, "value": number}])
    before = await looks(database, twin), await looks(database, her)
    assert graded(await asked(owner, misheard, onlyCertainMatches=True)) == {her: "certain"}
    # Who is told of has a line in her trail; who was compared has none.
    assert (await looks(database, twin), await looks(database, her)) == (before[0], before[1] + 1)
    assert len(graded(await asked(owner, patient(family), count=1))) == 1
    assert graded(await asked(owner, patient(unique("Nobody"), "Zed", "1901-01-01", address=[]))) == {}


_NAMELESS = {"family": "A", "given": [None, "B"], "_given": [{"extension": [{"url": "urn:x", "valueCode": "y"}]}, None]}


@pytest.mark.parametrize(
    ("described", "status"),
    [({"resourceType": "Patient", "gender": "female"}, 422), ({"resourceType": "Patient", "birthDate": "odd"}, 400),
     ({"resourceType": "Observation"}, 400), ("odd", 400),
     ({"resourceType": "Patient", "birthDate": "1970-01-01", "name": [_NAMELESS]}, 200),
     ({"resourceType": "Patient", "name": [{"family": "a,b|c\\$"}], "birthDate": "1970-01-01"}, 200)],
)  # fmt: skip
async def test_what_cannot_be_looked_for(owner: Hospital, described: Any, status: int) -> None:
    reply = await asked(owner, described)
    assert reply.status == status, reply.body
    assert (await asked(owner, patient("X"), count=0)).status == 400
