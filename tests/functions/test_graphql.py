"""$graphql: reading by FHIR's GraphQL."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import pytest
from tests.conftest import Hospital, NewHospital
from tests.sharing_kit import World

_CODE = {"coding": [{"system": "http://loinc.org", "code": "29463-7"}]}


@dataclass(frozen=True)
class Ward:
    """A hospital; a patient of its own with three weights, a practitioner who took one of them."""

    hospital: Hospital
    patient: str
    practitioner: str

    async def ask(self, query: str, at: str = "", status: int = 200, **more: Any) -> Any:
        reply = await self.hospital.request(
            "POST", f"/fhir/R4{at}/$graphql", json={"query": query, **more}, headers=await self.hospital.bearer()
        )
        assert reply.status == status, reply.body
        assert reply.headers["content-type"] == "application/json"
        return reply.json

    async def data(self, query: str, at: str = "", **more: Any) -> Any:
        answer = await self.ask(query, at, **more)
        assert "errors" not in answer, answer
        return answer["data"]


@pytest.fixture(scope="module")
async def ward(new_hospital: NewHospital) -> Ward:
    hospital = await new_hospital("--allow", "127.0.0.0/8", scope="system/*.cruds")

    async def made(kind: str, **body: Any) -> str:
        reply = await hospital.request(
            "POST", f"/fhir/R4/{kind}", json={"resourceType": kind, **body}, headers=await hospital.bearer()
        )
        assert reply.status == 201, reply.body
        return str(reply.json["id"])

    patient = (await hospital.patient(await hospital.registered()))["id"]
    practitioner = await made("Practitioner", active=True, name=[
        {"use": "official", "family": "Okafor", "given": ["Ada", "Ngozi"]},
        {"use": "old", "family": "Bell"}])  # fmt: skip
    for day, performer in ((1, f"Practitioner/{practitioner}"), (2, "#c"), (3, "Practitioner/nobody")):
        await made("Observation", status="final", code=_CODE, effectiveDateTime=f"2026-11-0{day}",
                   subject={"reference": f"Patient/{patient}"}, performer=[{"reference": performer}],
                   valueQuantity={"value": 70 + day, "unit": "kg"},
                   **({"contained": [{"resourceType": "Practitioner", "id": "c", "active": False}]}
                      if performer == "#c" else {}))  # fmt: skip
    return Ward(hospital, patient, practitioner)


async def test_a_resource_its_fields_and_lists(ward: Ward) -> None:
    at = f'Practitioner(id: "{ward.practitioner}")'
    query = f"{{ {at} {{ __typename resourceType: id active telecom {{ value }} birthDate "
    query += "all: name { family } one: name(use: official) { given } page: name(_offset: 1, _count: 1) { use } } }"
    (found,) = (await ward.data(query)).values()
    assert found == {
        "__typename": "Practitioner", "resourceType": ward.practitioner, "active": True, "telecom": [],
        "birthDate": None, "all": [{"family": "Okafor"}, {"family": "Bell"}], "one": [{"given": ["Ada", "Ngozi"]}],
        "page": [{"use": "old"}],
    }  # fmt: skip
    flat = (
        f"{{ {at} {{ name(use: official) @flatten {{ given family @singleton }} first: name @first {{ family }} }} }}"
    )
    assert (await ward.data(flat))["Practitioner"] == {
        "given": ["Ada", "Ngozi"], "family": "Okafor", "first": {"family": "Okafor"}
    }  # fmt: skip
    every = f"{{ {at} {{ name @flatten {{ given family }} }} }}"
    assert (await ward.data(every))["Practitioner"] == {"given": ["Ada", "Ngozi"], "family": ["Okafor", "Bell"]}
    kept = f"query q($no: Boolean = false) {{ {at} {{ id @include(if: $no) active @skip(if: $no) }} }}"
    assert (await ward.data(kept))["Practitioner"] == {"active": True}
    assert (await ward.data(kept, variables={"no": True}))["Practitioner"] == {"id": ward.practitioner}


async def test_searches_and_references(ward: Ward) -> None:
    """Both ways, contained ones too; one that is not here is an error, unless it is optional."""
    query = """
        query weights($patient: ID!) {
          Patient(id: $patient) { id ...seen }
          ObservationConnection(patient: $patient, _sort: "date", _count: 2, _total: accurate) {
            count pagesize next edges { mode resource { effectiveDateTime } }
          }
        }
        fragment seen on Patient {
          ObservationList(_reference: patient, _sort: "-date") {
            valueQuantity { value } subject { resource(type: Patient) { ... on Patient { id } } }
            performer { resource(optional: true) { __typename ... on Practitioner { active } } }
          }
        }
    """
    data = await ward.data(query, variables={"patient": ward.patient})
    assert data["Patient"]["id"] == ward.patient
    seen = data["Patient"]["ObservationList"]
    assert [each["valueQuantity"]["value"] for each in seen] == [73, 72, 71]
    assert {each["subject"]["resource"]["id"] for each in seen} == {ward.patient}
    assert [each["performer"][0]["resource"] for each in seen] == [
        None, {"__typename": "Practitioner", "active": False}, {"__typename": "Practitioner", "active": True}
    ]  # fmt: skip
    connection = data["ObservationConnection"]
    assert (connection["count"], connection["pagesize"]) == (3, 2)
    assert [each["resource"]["effectiveDateTime"] for each in connection["edges"]] == ["2026-11-01", "2026-11-02"]
    rest = await ward.data(
        f'query q($c: String) {{ ObservationList(patient: "{ward.patient}", _sort: "date", _cursor: $c) '
        "{ effectiveDateTime } }", variables={"c": connection["next"]},
    )  # fmt: skip
    assert rest == {"ObservationList": [{"effectiveDateTime": "2026-11-03"}]}
    answer = await ward.ask("{ performer { resource { __typename } } }", await first(ward, "Practitioner/nobody"))
    assert answer["data"] == {"performer": [{"resource": None}]}
    assert len(answer["errors"]) == 1


async def first(ward: Ward, performer: str) -> str:
    (found,) = [each for each in await ward.hospital.search(f"Observation?patient={ward.patient}")
                if each["performer"][0]["reference"] == performer]  # fmt: skip
    return f"/Observation/{found['id']}"


async def test_of_one_resource_and_by_get(ward: Ward) -> None:
    at = f"/Patient/{ward.patient}"
    assert await ward.data("{ id ObservationList(_reference: subject, _count: 1) { status } }", at) == {
        "id": ward.patient, "ObservationList": [{"status": "final"}]
    }  # fmt: skip
    reply = await ward.hospital.get(f"Patient/{ward.patient}/$graphql?query=%7Bid%7D")
    assert reply.json == {"data": {"id": ward.patient}}
    bearer = await ward.hospital.bearer()
    raw = await ward.hospital.request("POST", f"/fhir/R4{at}/$graphql", data=b"{id}",
                                      headers=bearer | {"Content-Type": "application/graphql"})  # fmt: skip
    assert raw.json == {"data": {"id": ward.patient}}
    gone = await ward.hospital.get("Patient/nobody/$graphql?query=%7Bid%7D")
    assert (gone.status, gone.json["resourceType"]) == (404, "OperationOutcome")
    missing = await ward.ask('{ Patient(id: "nobody") { id } }')
    assert missing["data"] == {"Patient": None}
    assert missing["errors"][0]["locations"] == [{"line": 1, "column": 3}]


_LOOP = "fragment g on Patient { name { ...h } nom } fragment h on HumanName { ...h }"


@pytest.mark.parametrize(
    ("query", "told"),
    [("{", "Syntax"), ("", "Syntax"), ("mutation { a }", "reads"), ("{ Nobody(id: 1) { id } }", "Nobody"),
     ("{ Patient { id } }", "needs id"), ("{ PatientList { nom } }", "no nom in Patient"),
     ("query a { id } query b { id }", "operation"), ("{ PatientList { name } }", "choice of its fields"),
     ("{ PatientList { id { x } } }", "no fields"), ("{ PatientList(odd: 1) { id } }", "odd"),
     ("{ PatientList(_count: 1000) { id } }", "_count"), ("{ PatientList(name: [1]) { id } }", "list"),
     ("{ PatientList(name: $n) { id } }", "not declared"), ("{ PatientList { ...f } }", "no fragment"),
     ("query q($n: ID!) { Patient(id: $n) { id } }", "n is needed"),
     ("{ PatientList { id @slice(path: 1) } }", "@slice"),
     ("{ ObservationList { code { coding(fhirpath: 1) { code } } } }", "fhirpath"),
     ("{" * 1000 + "}" * 1000, ""), ("[" * 3000, ""),
     ("{ PatientList(name: " + "[" * 900 + "]" * 900 + ") { id } }", ""),
     ("{ " + " ".join(f"a{n}: PatientList {{ id }}" for n in range(150)) + " }", "more than 100"),
     ("{ ...f } fragment f on Query { PatientList { ...g ...g } } " + _LOOP, "nom"), ("{ id }" + "#\n" * 5000, ""),
     (r'{ PatientList(name: "\u0000") { id } }', "no text has"), (r'{ PatientList(identifier: "\ud83d") { id } }', ""),
     ('{ PatientList(_cursor: "odd") { id } }', "_cursor")],
)  # fmt: skip
async def test_what_cannot_be_asked_ends_soon(ward: Ward, query: str, told: str) -> None:
    began = time.monotonic()
    answer = await ward.ask(query, status=400)
    assert told in answer["errors"][0]["message"], answer
    assert time.monotonic() - began < 10


async def test_a_query_is_bounded_in_what_it_gives(ward: Ward) -> None:
    """The same long text under many names, and lookups in lookups: refused before they are made."""
    body = {"resourceType": "Practitioner", "photo": [{"contentType": "image/png", "data": "A" * 200_000}]}
    reply = await ward.hospital.request(
        "POST", "/fhir/R4/Practitioner", json=body, headers=await ward.hospital.bearer()
    )
    at = f"/Practitioner/{reply.json['id']}"
    assert len((await ward.data("{ photo { data } }", at))["photo"][0]["data"]) == 200_000
    many = "{ photo { " + " ".join(f"a{n}: data" for n in range(60)) + " } }"
    answer = await ward.ask(many, at, status=400)
    assert "too much" in answer["errors"][0]["message"]
    below = "{ id }"
    for _ in range(4):
        below = f"{{ ObservationList(_reference: subject) {{ subject {{ resource {{ ... on Patient {below} }} }} }} }}"
    answer = await ward.ask(below, f"/Patient/{ward.patient}", status=400)
    assert "more than 100" in answer["errors"][0]["message"]


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"{}", b'{"query": 1}', b'{"query": "{id}", "variables": 3}', b"\xff"])
async def test_bodies_that_are_none(ward: Ward, body: bytes) -> None:
    headers = await ward.hospital.bearer() | {"Content-Type": "application/json"}
    reply = await ward.hospital.request("POST", "/fhir/R4/$graphql", data=body, headers=headers)
    assert reply.status == 400, reply.body


async def test_it_shows_nothing_that_a_search_does_not(world: World) -> None:
    await world.state("all")
    for name, person in world.people.items():
        bearer = {"Authorization": f"Bearer {person.token()}"}
        found = await world.hospital.request(
            "GET", f"/fhir/R4/Observation?patient={world.patient}&_count=200", headers=bearer
        )
        query = f'{{ ObservationList(patient: "{world.patient}", _count: 200) {{ id }} }}'
        walked = await world.hospital.request("POST", "/fhir/R4/$graphql", json={"query": query}, headers=bearer)
        assert walked.status == 200, (name, walked.body)
        shown = [each["resource"]["id"] for each in found.json.get("entry", [])] if found.status == 200 else []
        assert [each["id"] for each in walked.json["data"]["ObservationList"]] == shown, name
    assert (await world.hospital.request("POST", "/fhir/R4/$graphql", json={"query": "{ id }"})).status == 401
