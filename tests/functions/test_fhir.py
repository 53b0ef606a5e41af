"""The FHIR door: what was posted can be read by those who may, exactly, and by nobody else."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import urlsplit

import pytest
from fhir.resources.R4B import get_fhir_model_class
from tests.conftest import Hospital, NewHospital, nhs, unique

from carefolio.local import load


async def with_reports(hospital: Hospital, reports: int = 3) -> tuple[str, str]:
    """A new patient with so many reports of four results: NHS number and id."""
    number = await hospital.registered()
    for _ in range(reports):
        assert (await hospital.accepted(load.report(number, unique("R"))))["status"] == "applied"
    return number, (await hospital.patient(number))["id"]


async def test_a_posted_result_is_found_by_patient_and_code(hospital: Hospital) -> None:
    _, patient = await with_reports(hospital)
    found = await hospital.search(
        f"Observation?patient={patient}&code=http://snomed.info/sct|1022431000000105&_sort=-date"
    )
    assert len(found) == 3
    for observation in found:
        assert observation["subject"] == {"reference": f"Patient/{patient}"}
        assert observation["valueQuantity"]["unit"] == "g/L"
        assert observation["effectiveDateTime"] == "2026-11-02T09:00:00+00:00"
    assert await hospital.search(f"Observation?patient={patient}&code=nothing") == []


@pytest.mark.parametrize(
    ("query", "hits"),
    [
        ("Observation?patient={p}", 12),
        ("Observation?patient=Patient/{p}", 12),
        ("Observation?subject=Patient/{p}&status=final", 12),
        ("Observation?patient={p}&date=2026-11-02", 12),
        ("Observation?patient={p}&date=lt2026-11-02", 0),
        ("Observation?patient={p}&date=ge2026-11&date=lt2026-12", 12),
        ("Observation?patient={p}&code=1022431000000105,1022541000000102", 6),
        ("Observation?patient={p}&code=http://snomed.info/sct|", 12),
        ("Observation?patient={p}&code=http://loinc.org|1022431000000105", 0),
        ("DiagnosticReport?patient={p}", 3),
        ("DiagnosticReport?patient={p}&_count=1&_total=accurate", 1),
        ("Patient?_id={p}", 1),
        ("Patient?identifier=https://fhir.nhs.uk/Id/nhs-number|{n}", 1),
        ("Patient?identifier={n}", 1),
        ("Patient?identifier=https://fhir.nhs.uk/Id/nhs-number|{n}&birthdate=1970-01-01", 1),
        ("Patient?identifier=https://fhir.nhs.uk/Id/nhs-number|{n}&birthdate=1970-01-02", 0),
        ("Patient?_id=rubbish", 0),
        ("Observation?patient={p}&_lastUpdated=gt2020-01-01", 12),
    ],
)
async def test_search(hospital: Hospital, query: str, hits: int) -> None:
    number, patient = await shared_patient(hospital)
    assert len(await hospital.search(query.format(p=patient, n=number))) == hits


_shared: dict[str, tuple[str, str]] = {}


async def shared_patient(hospital: Hospital) -> tuple[str, str]:
    if hospital.ods_code not in _shared:
        _shared[hospital.ods_code] = await with_reports(hospital)
    return _shared[hospital.ods_code]


async def test_pages_hold_everything_once_and_in_order(hospital: Hospital) -> None:
    _, patient = await shared_patient(hospital)
    seen: list[str] = []
    path = f"Observation?patient={patient}&_count=5&_sort=-date"
    for _ in range(10):
        bundle = (await hospital.get(path)).json
        seen += [entry["resource"]["id"] for entry in bundle.get("entry", [])]
        following = next((link["url"] for link in bundle["link"] if link["relation"] == "next"), None)
        if following is None:
            break
        assert len(bundle["entry"]) == 5
        parts = urlsplit(following)
        path = f"{parts.path.removeprefix('/fhir/R4/')}?{parts.query}"
    assert len(seen) == len(set(seen)) == 12


async def test_search_by_post_is_the_same(hospital: Hospital) -> None:
    _, patient = await shared_patient(hospital)
    token = await hospital.authorize()
    reply = await hospital.request(
        "POST",
        "/fhir/R4/Observation/_search",
        data={"patient": patient, "_count": "100"},
        headers={"Authorization": f"Bearer {token}"},
    )
    assert len(reply.json["entry"]) == 12


@pytest.mark.parametrize(
    "query",
    ["nosuch=1", "patient", "patient=", "date=yesterday", "_count=x", "_sort=nosuch", "_cursor=rubbish",
     "code:wrong=1", "date=2026-13-45", "_total=some", "date=ge", "_count=99999999999999999999",
     "_count=%C2%B2", "_count=" + "9" * 5000,
     "_cursor=" + base64.urlsafe_b64encode(b"0001-01-01T00:00:00+23:59|" + b"0" * 32).decode().rstrip("=")],
)  # fmt: skip
async def test_a_search_that_cannot_be_answered_says_why(hospital: Hospital, query: str) -> None:
    reply = await hospital.get(f"Observation?{query}")
    assert reply.status == 400
    issue = reply.json["issue"][0]
    assert reply.json["resourceType"] == "OperationOutcome"
    assert query.split("=")[0] in issue["diagnostics"]


async def test_everything_of_a_patient(hospital: Hospital) -> None:
    _, patient = await shared_patient(hospital)
    resources = await hospital.search(f"Patient/{patient}/$everything")
    kinds = sorted(resource["resourceType"] for resource in resources)
    assert kinds.count("Observation") == 12
    assert kinds.count("DiagnosticReport") == 3
    assert kinds.count("Patient") == 1
    present = {f"{resource['resourceType']}/{resource['id']}" for resource in resources}
    assert set(references(resources)) <= present, "a reference dangles"


def references(value: Any) -> list[str]:
    if isinstance(value, list):
        return [found for item in value for found in references(item)]
    if isinstance(value, dict):
        own = [value["reference"]] if isinstance(value.get("reference"), str) else []
        return own + [found for item in value.values() for found in references(item)]
    return []


async def test_what_is_served_is_valid_fhir(hospital: Hospital) -> None:
    _, patient = await shared_patient(hospital)
    bundle = (await hospital.get(f"Patient/{patient}/$everything")).json
    get_fhir_model_class("Bundle").model_validate(bundle)
    statement = (await hospital.request("GET", "/fhir/R4/metadata")).json
    get_fhir_model_class("CapabilityStatement").model_validate(statement)
    assert statement["fhirVersion"] == "4.0.1"


async def test_a_read_tells_its_version(hospital: Hospital) -> None:
    _, patient = await shared_patient(hospital)
    reply = await hospital.get(f"Patient/{patient}")
    assert reply.headers["ETag"] == f'W/"{reply.json["meta"]["versionId"]}"'
    assert "Last-Modified" in reply.headers
    assert reply.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["Patient", "Patient/x", "Observation?patient=1", "Patient/x/$everything"])
async def test_without_a_token_401_with_an_outcome(hospital: Hospital, path: str) -> None:
    for headers in (
        {},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": "Basic x"},
        {"Authorization": "Bearer"},
    ):
        reply = await hospital.request("GET", f"/fhir/R4/{path}", headers=headers)
        assert reply.status == 401
        assert reply.headers["WWW-Authenticate"].startswith("Bearer ")
        assert reply.json["resourceType"] == "OperationOutcome"


async def test_with_too_little_scope_403_with_an_outcome(new_hospital: NewHospital) -> None:
    hospital = await new_hospital(scope="system/Patient.r system/Observation.rs")
    number = await hospital.registered()
    for path in (f"Patient?identifier={number}", "Encounter", f"Patient/{nhs()}/$everything"):
        reply = await hospital.get(path)
        assert reply.status == 403, path
        assert reply.json["issue"][0]["code"] == "forbidden"
    assert (await hospital.get("Observation")).status == 200


async def test_another_organisation_sees_nothing_of_it(hospital: Hospital, new_hospital: NewHospital) -> None:
    number, patient = await shared_patient(hospital)
    other = await new_hospital()
    assert await other.search(f"Patient?identifier={number}") == []
    assert await other.search(f"Observation?patient={patient}") == []
    report = (await hospital.search(f"DiagnosticReport?patient={patient}"))[0]
    for path in (f"Patient/{patient}", f"DiagnosticReport/{report['id']}", f"Patient/{patient}/$everything"):
        assert (await other.get(path)).status == 404


async def test_a_second_organisation_sees_only_what_it_contributed_itself(
    hospital: Hospital, new_hospital: NewHospital
) -> None:
    number, patient = await with_reports(hospital, reports=1)
    other = await new_hospital()
    assert (await other.accepted(load.registration(number, unique())))["status"] == "applied"
    assert (await other.patient(number))["id"] == patient
    assert await other.search(f"Observation?patient={patient}") == []
    assert (await other.accepted(load.report(number, unique("R"))))["status"] == "applied"
    assert len(await other.search(f"Observation?patient={patient}")) == 4
    assert len(await hospital.search(f"Observation?patient={patient}")) == 4


async def test_every_read_leaves_an_audit_line(hospital: Hospital) -> None:
    _, patient = await with_reports(hospital, reports=1)
    await hospital.get(f"Patient/{patient}")
    await hospital.search(f"Observation?patient={patient}")
    await hospital.search(f"Patient/{patient}/$everything")
    rows = await hospital.database.fetch(
        "SELECT action, actor FROM audit WHERE patient_id::text = $1 AND actor LIKE 'client/%'", patient
    )
    assert {"read", "search", "everything"} <= {row["action"] for row in rows}
    assert {row["actor"] for row in rows} == {f"client/{hospital.client['client_id']}"}


async def test_what_is_not_there(hospital: Hospital) -> None:
    for path in ("NoSuchType", "Patient/00000000-0000-0000-0000-000000000000", "Patient/1/2/3"):
        reply = await hospital.get(path)
        assert reply.status == 404, path
        assert reply.json["resourceType"] == "OperationOutcome"
    assert (await hospital.get("Patient?_format=text/turtle")).status == 406
    token = await hospital.authorize()
    deleted = await hospital.request("DELETE", "/fhir/R4/Patient/1", headers={"Authorization": f"Bearer {token}"})
    # The token reads and searches.
    assert deleted.status == 403


@pytest.mark.parametrize("path", ["Patient?identifier=%00", "Observation?code=a%00b", "Patient?_id=%00", "Patient/%00"])
async def test_nul_harms_nobody(hospital: Hospital, path: str) -> None:
    assert (await hospital.get(path)).status in (200, 400, 404)


@pytest.mark.parametrize("date", ["le9999-12-31", "ge0001-01-01", "9999", "0001-01-01T00:00:00+14:00"])
async def test_the_ends_of_the_calendar(hospital: Hospital, date: str) -> None:
    assert (await hospital.get(f"Observation?date={date.replace('+', '%2B')}")).status in (200, 400)


async def test_a_day_is_a_day_in_london(hospital: Hospital) -> None:
    number = await hospital.registered()
    text = load.report(number, unique("R")).decode().replace("20261102090000", "20260701003000")
    await hospital.accepted(text.encode())
    patient = (await hospital.patient(number))["id"]
    assert len(await hospital.search(f"Observation?patient={patient}&date=2026-07-01")) == 4
    assert await hospital.search(f"Observation?patient={patient}&date=2026-06-30") == []
