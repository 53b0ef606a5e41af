"""Bulk Data Access 2.0: what a system exports, watches, cancels and fetches."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import quote, urlsplit

import asyncpg
import pytest
from tests.conftest import Hospital, NewHospital, Reply, nhs, unique
from tests.record.people import Person, end
from tests.sharing_kit import World

from carefolio.cloud.settings import settings
from carefolio.fhir.validation import validate
from carefolio.record import jobs

ASYNC = {"Prefer": "respond-async", "Accept": "application/fhir+json"}


async def begun(hospital: Hospital, path: str = "$export", method: str = "GET", **options: Any) -> Reply:
    headers = {**ASYNC, **await hospital.bearer(), **options.pop("headers", {})}
    return await hospital.request(method, f"/fhir/R4/{path}", headers=headers, **options)


async def polled(hospital: Hospital, reply: Reply) -> Reply:
    """The job's answer when it is over."""
    assert reply.status == 202, reply.body
    place = urlsplit(reply.headers["Content-Location"]).path
    for _ in range(400):
        told = await hospital.request("GET", place, headers=await hospital.bearer())
        if told.status != 202:
            return told
        assert told.headers["Retry-After"]
        await asyncio.sleep(0.05)
    raise AssertionError("the job does not end")


async def exported(
    hospital: Hospital, path: str = "$export", **options: Any
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """The manifest, and the resources by type."""
    told = await polled(hospital, await begun(hospital, path, **options))
    assert told.status == 200, told.body
    manifest = told.json
    found: dict[str, list[Any]] = {}
    for each in [*manifest["output"], *manifest["deleted"]]:
        file = await hospital.request("GET", urlsplit(each["url"]).path, headers=await hospital.bearer())
        assert (file.status, file.headers["Content-Type"].partition(";")[0]) == (200, "application/fhir+ndjson")
        lines = [json.loads(line) for line in file.body.splitlines()]
        assert len(lines) == each["count"]
        found.setdefault(each["type"], []).extend(lines)
    return manifest, found


@pytest.fixture(scope="module")
async def owner(new_hospital: NewHospital) -> Hospital:
    hospital = await new_hospital("--allow", "127.0.0.0/8", scope="system/*.cruds")
    for _ in range(3):
        person = Person(nhs(), unique("L"))
        await end(hospital, person.message("A28", rest="AL1|1|DA|P^Penicillin"))
        await end(hospital, person.result(unique("F"), "90"))
    doctor = {"resourceType": "Practitioner", "name": [{"family": "Farrow"}]}
    made = await hospital.request("POST", "/fhir/R4/Practitioner", json=doctor, headers=await hospital.bearer())
    assert made.status == 201, made.body
    return hospital


async def test_everything_that_a_system_may_read(owner: Hospital, database: asyncpg.Pool) -> None:
    """As valid ndjson by type, with a manifest, and a line for each patient in the trail."""
    manifest, found = await exported(owner)
    assert manifest["requiresAccessToken"] is True
    assert manifest["request"].endswith("/fhir/R4/$export")
    assert manifest["error"] == []
    assert len(found["Patient"]) == 3
    assert len(found["AllergyIntolerance"]) == 3
    assert len(found["Observation"]) == 3
    assert len(found["Practitioner"]) == 1
    for kind, resources in found.items():
        for resource in resources:
            assert resource["resourceType"] == kind
            assert validate(resource) == []
    patients = [each["id"] for each in found["Patient"]]
    lines = await database.fetch(
        "SELECT patient_id FROM audit WHERE action = 'export' AND patient_id = ANY($1::uuid[])", patients
    )
    assert {str(line["patient_id"]) for line in lines} == set(patients)


async def test_of_patients_and_groups_only_what_is_theirs(owner: Hospital) -> None:
    _, found = await exported(owner, "Patient/$export")
    assert len(found["Patient"]) == 3
    assert "Practitioner" not in found
    chosen = found["Patient"][0]["id"]
    group = {"resourceType": "Group", "type": "person", "actual": True,
             "member": [{"entity": {"reference": f"Patient/{chosen}"}}]}  # fmt: skip
    made = await owner.request("POST", "/fhir/R4/Group", json=group, headers=await owner.bearer())
    assert made.status == 201, made.body
    _, found = await exported(owner, f"Group/{made.json['id']}/$export")
    assert [each["id"] for each in found["Patient"]] == [chosen]
    assert {each["subject"]["reference"] for each in found["Observation"]} == {f"Patient/{chosen}"}
    assert (await begun(owner, "Group/none/$export")).status == 404


async def test_types_filters_elements_and_since(owner: Hospital) -> None:
    _, found = await exported(owner, "$export?_type=Patient,Observation")
    assert set(found) == {"Patient", "Observation"}
    # What was written within two seconds of an export is in the next one too.
    await asyncio.sleep(2.1)
    since = (await exported(owner, "$export?_type=Patient"))[0]["transactionTime"]
    _, found = await exported(
        owner, f"$export?_typeFilter={quote('Observation?value-quantity=gt1000')}&_type=Patient,Observation"
    )
    assert set(found) == {"Patient"}
    _, found = await exported(owner, "$export?_type=Patient&_elements=Patient.birthDate")
    assert set(found["Patient"][0]) == {"resourceType", "id", "meta", "birthDate"}
    assert found["Patient"][0]["meta"]["tag"][0]["code"] == "SUBSETTED"
    await asyncio.sleep(2.1)
    person = Person(nhs(), unique("L"))
    await end(owner, person.message("A28"))
    _, found = await exported(owner, f"Patient/$export?_since={quote(since)}")
    assert len(found["Patient"]) == 1


async def test_what_was_deleted_since_is_told(owner: Hospital) -> None:
    patient = (await exported(owner, "$export?_type=Patient"))[1]["Patient"][0]["id"]
    body = {"resourceType": "Observation", "status": "final", "code": {"text": "Weight"},
            "subject": {"reference": f"Patient/{patient}"}}  # fmt: skip
    made = await owner.request(
        "PUT", "/fhir/R4/Observation/gone-1", json=body | {"id": "gone-1"}, headers=await owner.bearer()
    )
    assert made.status == 201, made.body
    since = (await exported(owner, "$export?_type=Patient"))[0]["transactionTime"]
    await owner.request("DELETE", "/fhir/R4/Observation/gone-1", headers=await owner.bearer())
    manifest, found = await exported(owner, f"Patient/$export?_type=Observation&_since={quote(since)}")
    assert manifest["deleted"]
    assert [each["entry"][0]["request"] for each in found["Bundle"]] == [
        {"method": "DELETE", "url": "Observation/gone-1"}
    ]


async def test_people_and_what_is_nobodys_that_were_deleted_since_are_told(owner: Hospital) -> None:
    for kind in ("Patient", "Practitioner"):
        made = await owner.request(
            "PUT", f"/fhir/R4/{kind}/gone-{kind}", json={"resourceType": kind, "id": f"gone-{kind}"},
            headers=await owner.bearer(),
        )  # fmt: skip
        assert made.status == 201, made.body
    since = (await exported(owner, "$export?_type=Patient"))[0]["transactionTime"]
    for kind in ("Patient", "Practitioner"):
        await owner.request("DELETE", f"/fhir/R4/{kind}/gone-{kind}", headers=await owner.bearer())
    _, found = await exported(owner, f"$export?_type=Patient,Practitioner&_since={quote(since)}")
    gone = {each["entry"][0]["request"]["url"] for each in found["Bundle"]}
    assert gone == {"Patient/gone-Patient", "Practitioner/gone-Practitioner"}


async def test_asked_by_parameters_in_a_body(owner: Hospital) -> None:
    everybody = (await exported(owner, "Patient/$export?_type=Patient"))[1]["Patient"]
    said = {"resourceType": "Parameters", "parameter": [
        {"name": "_type", "valueString": "Patient"},
        {"name": "patient", "valueReference": {"reference": f"Patient/{everybody[0]['id']}"}},
    ]}  # fmt: skip
    _, found = await exported(owner, "Patient/$export", method="POST", json=said)
    assert [each["id"] for each in found["Patient"]] == [everybody[0]["id"]]
    for odd in (["x"], [{"name": "_type", "part": ["x"]}]):
        reply = await begun(owner, method="POST", json={"resourceType": "Parameters", "parameter": odd})
        assert reply.status == 400, reply.body


@pytest.mark.parametrize(
    ("query", "place"),
    [("_type=Nothing", "_type"), ("_outputFormat=csv", "_outputFormat"), ("_since=yesterday", "_since"),
     ("_typeFilter=Observation", "_typeFilter"), ("_typeFilter=Observation%3Fodd%3D1", "odd"), ("odd=1", "odd"),
     ("_elements=Patient.odd", "_elements"),
     ("includeAssociatedData=LatestProvenanceResources,odd", "includeAssociatedData"),
     ("_typeFilter=Patient%3Fname%3Aexact%3D" + "x" * 9000, "")],
)  # fmt: skip
async def test_what_cannot_be_is_told_at_once(owner: Hospital, query: str, place: str) -> None:
    reply = await begun(owner, f"$export?{query}")
    if place:
        assert (reply.status, place in reply.body.decode()) == (400, True), reply.body
    else:
        assert reply.status in (202, 400, 414)


async def test_from_where_it_came_goes_with_it(new_hospital: NewHospital) -> None:
    """The Provenances that a search finds, ours and what a client said, of the newest version or of all."""
    hospital = await new_hospital(scope="system/*.cruds")
    person = Person(nhs(), unique("L"))
    await end(hospital, person.message("A28", rest="AL1|1|DA|P^Penicillin"))
    moved = person.message("A31", "20261102090000", "AL1|1|DA|P^Penicillin").replace("1 Road", "2 Road")
    await end(hospital, moved)
    [allergy] = await hospital.search("AllergyIntolerance")
    said = {
        "resourceType": "Provenance", "target": [{"reference": f"AllergyIntolerance/{allergy['id']}"}],
        "recorded": "2026-01-01T00:00:00Z", "agent": [{"who": {"display": "Dr Farrow"}}],
    }  # fmt: skip
    for _ in range(2):
        made = await hospital.request("POST", "/fhir/R4/Provenance", json=said, headers=await hospital.bearer())
        assert made.status == 201, made.body
    searched = {}
    for kind in ("Patient", "AllergyIntolerance"):
        [one] = await hospital.search(kind)
        for each in await hospital.search(f"Provenance?target={kind}/{one['id']}"):
            searched[each["id"]] = each
    _, found = await exported(hospital, "$export?includeAssociatedData=RelevantProvenanceResources")
    assert set(found) == {"Patient", "AllergyIntolerance", "Provenance"}
    assert {each["id"]: each for each in found["Provenance"]} == searched
    path = "$export?includeAssociatedData=LatestProvenanceResources&_elements=Provenance.target"
    _, found = await exported(hospital, path)
    [patient] = found["Patient"]
    newest = [each["target"][0]["reference"] for each in found["Provenance"]]
    named = {f"{each['resourceType']}/{each['id']}": each["meta"]["versionId"] for each in (patient, allergy)}
    ours = [f"{name}/_history/{version}" for name, version in named.items()]
    assert sorted(newest) == sorted([*ours, f"AllergyIntolerance/{allergy['id']}"])
    assert "entity" not in found["Provenance"][0]
    _, found = await exported(hospital, "$export?_type=Patient&includeAssociatedData=RelevantProvenanceResources")
    assert {each["target"][0]["reference"].split("/")[0] for each in found["Provenance"]} == {"Patient"}
    _, found = await exported(hospital)
    assert [each["agent"][0]["who"]["display"] for each in found["Provenance"]] == ["Dr Farrow"] * 2
    both = "includeAssociatedData=RelevantProvenanceResources&includeAssociatedData=LatestProvenanceResources"
    _, found = await exported(hospital, f"$export?{both}")
    assert len(found["Provenance"]) == len(searched)
    noted = await hospital.database.fetchval(
        "SELECT resource_type FROM audit WHERE action = 'export' AND patient_id = $1 ORDER BY at DESC LIMIT 1",
        patient["id"],
    )
    assert noted.split(",")[-1] == "Provenance"
    narrow = {"Authorization": f"Bearer {await hospital.authorize('system/Patient.rs')}"}
    reply = await begun(hospital, "$export?includeAssociatedData=LatestProvenanceResources", headers=narrow)
    assert (reply.status, "includeAssociatedData" in reply.body.decode()) == (400, True)


async def test_a_provenance_of_many_comes_once_and_of_others_with_them(new_hospital: NewHospital) -> None:
    """What is said of several resources at once, of two patients, of nobody's."""
    hospital = await new_hospital(scope="system/*.cruds")

    async def make(kind: str, number: str, **more: Any) -> str:
        headers, resource = await hospital.bearer(), {"resourceType": kind, "id": number, **more}
        made = await hospital.request("PUT", f"/fhir/R4/{kind}/{number}", json=resource, headers=headers)
        assert made.status == 201, made.body
        return f"{kind}/{number}"

    first, second = [await make("Patient", unique("pa"), name=[{"family": "Larch"}]) for _ in range(2)]
    doctors = [await make("Practitioner", unique("dr")) for _ in range(120)]
    said = {"recorded": "2026-01-01T00:00:00Z", "agent": [{"who": {"display": "Dr Farrow"}}]}
    targets = [{"reference": each} for each in (first, second)]
    of_two = await make("Provenance", unique("pr"), target=targets, **said)
    of_doctors = await make("Provenance", unique("pr"), target=[{"reference": each} for each in doctors], **said)
    associated = "includeAssociatedData=RelevantProvenanceResources"
    _, found = await exported(hospital, f"$export?{associated}")
    posted = [each["id"] for each in found["Provenance"] if each["agent"][0]["who"]["display"] == "Dr Farrow"]
    assert sorted(f"Provenance/{each}" for each in posted) == sorted([of_two, of_doctors])
    asked = {"resourceType": "Parameters", "parameter": [
        {"name": "patient", "valueReference": {"reference": second}},
        {"name": "includeAssociatedData", "valueString": "RelevantProvenanceResources"},
    ]}  # fmt: skip
    _, found = await exported(hospital, "Patient/$export", method="POST", json=asked)
    assert {each["target"][0]["reference"].split("/_")[0] for each in found["Provenance"]} == {second}


async def test_lenient_passes_over_what_it_does_not_know(owner: Hospital) -> None:
    headers = {"Prefer": "respond-async, handling=lenient"}
    told = await polled(owner, await begun(owner, "$export?_type=Patient&odd=1", headers=headers))
    assert told.status == 200


async def test_one_that_is_cancelled_is_gone(owner: Hospital) -> None:
    reply = await begun(owner, "$export?_type=Patient")
    place = urlsplit(reply.headers["Content-Location"]).path
    told = await polled(owner, reply)
    file = urlsplit(told.json["output"][0]["url"]).path
    folder = owner.installation.here.home / "files/jobs" / place.rpartition("/")[2]
    assert folder.is_dir()
    assert (await owner.request("DELETE", place, headers=await owner.bearer())).status == 202
    for path in (place, file):
        assert (await owner.request("GET", path, headers=await owner.bearer())).status == 404
    assert not folder.exists()


async def test_a_job_is_its_clients_alone(owner: Hospital, new_hospital: NewHospital) -> None:
    """And what another organisation wrote is in nobody else's export."""
    other = await new_hospital("--allow", "127.0.0.0/8")
    reply = await begun(owner, "$export?_type=Patient")
    place = urlsplit(reply.headers["Content-Location"]).path
    told = await polled(owner, reply)
    for path in (place, urlsplit(told.json["output"][0]["url"]).path):
        assert (await other.request("GET", path, headers=await other.bearer())).status == 404
        assert (await other.request("GET", path)).status == 401
    assert (await other.request("DELETE", place, headers=await other.bearer())).status == 404
    # Nor a narrower token's of the same client.
    narrow = {"Authorization": f"Bearer {await owner.authorize('system/Location.rs')}"}
    for path in (place, urlsplit(told.json["output"][0]["url"]).path):
        assert (await owner.request("GET", path, headers=narrow)).status == 404
    assert (await exported(other))[1] == {}
    for path in (f"{place}/../x", f"{place}/Patient-000001.ndjson%2f..", f"{place}/odd", "/fhir/R4/$job/odd"):
        assert (await owner.request("GET", path, headers=await owner.bearer())).status == 404


async def test_what_the_scope_does_not_read_is_not_exported(new_hospital: NewHospital) -> None:
    hospital = await new_hospital(
        "--allow", "127.0.0.0/8", scope="system/Patient.rs system/Observation.rs?status=preliminary"
    )
    person = Person(nhs(), unique("L"))
    await end(hospital, person.message("A28", rest="AL1|1|DA|P^Penicillin"))
    await end(hospital, person.result(unique("F"), "90"))
    assert set((await exported(hospital))[1]) == {"Patient"}
    assert (await begun(hospital, "$export?_type=AllergyIntolerance")).status == 400


async def test_a_search_that_is_answered_later(owner: Hospital, world: World) -> None:
    """All pages of what the search would find, with what goes with it; for a person what he sees, for nobody else."""
    patient = (await owner.search("Observation?_count=1"))[0]["subject"]["reference"]
    reply = await begun(owner, f"Observation?patient={patient}&_include=Observation:subject&_count=1")
    told = await polled(owner, reply)
    assert {each["type"] for each in told.json["output"]} == {"Observation", "Patient"}
    refused = await begun(owner, "Observation?odd=1")
    assert (refused.status, "odd" in refused.body.decode()) == (400, True)
    await world.state("all")
    member, stranger = world.people["member"], world.people["stranger"]
    bearer = {"Authorization": f"Bearer {member.token()}"}
    at_once = await world.hospital.request("GET", "/fhir/R4/Observation?_count=500", headers=bearer)
    later = await world.hospital.request("GET", "/fhir/R4/Observation", headers=bearer | ASYNC)
    assert later.status == 202, later.body
    place = urlsplit(later.headers["Content-Location"]).path
    for _ in range(200):
        told = await world.hospital.request("GET", place, headers=bearer)
        if told.status == 200:
            break
        await asyncio.sleep(0.05)
    found = set()
    for each in told.json["output"]:
        file = await world.hospital.request("GET", urlsplit(each["url"]).path, headers=bearer)
        found |= {json.loads(line)["id"] for line in file.body.splitlines()}
    assert found == {each["resource"]["id"] for each in at_once.json.get("entry", [])}
    other = {"Authorization": f"Bearer {stranger.token()}"}
    assert (await world.hospital.request("GET", place, headers=other)).status == 404


async def test_so_many_at_a_time_and_no_more(owner: Hospital, database: asyncpg.Pool) -> None:
    """A client that asks and asks is told to wait."""
    await database.execute(
        """
        INSERT INTO job (kind, request, reader, asked)
        SELECT 'export', '', jsonb_build_object('actor', 'client/' || $1::text), '{}'
        FROM generate_series(1, 5)
        """,
        owner.client["client_id"],
    )
    try:
        reply = await begun(owner)
        assert (reply.status, bool(reply.headers["Retry-After"])) == (429, True)
    finally:
        await database.execute("DELETE FROM job WHERE request = ''")


async def test_what_has_run_out_is_removed(owner: Hospital, database: asyncpg.Pool) -> None:
    reply = await begun(owner, "$export?_type=Patient")
    place = urlsplit(reply.headers["Content-Location"]).path
    await polled(owner, reply)
    await database.execute(
        "UPDATE job SET expires_at = now() - interval '1 minute' WHERE id = $1", place.rpartition("/")[2]
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in owner.installation.here.environment().items():
            patch.setenv(name, value)
        settings.cache_clear()
        _, expired = await jobs.sweep(database)
    settings.cache_clear()
    assert expired >= 1
    assert (await owner.request("GET", place, headers=await owner.bearer())).status == 404


async def test_work_that_never_ends_is_given_up(owner: Hospital, database: asyncpg.Pool) -> None:
    """A part that was begun again and again, a client that has ended, a job of yesterday: each fails, in words."""
    told = {"actor": "client/none", "scope": "system/*.rs", "at": None, "own": None, "patient": None, "account": None,
            "acts_for": None, "organisation_id": None}  # fmt: skip
    ended = await database.fetchval("SELECT id FROM client LIMIT 1")
    made = {}
    for name, more in (("tries", {}), ("ended", {"actor": f"client/{ended}"}), ("old", {})):
        job = await database.fetchval(
            """
            INSERT INTO job (kind, request, reader, asked, status) VALUES ('export', '', $1, '{}', 'working')
            RETURNING id
            """,
            json.dumps(told | more),
        )
        part = await database.fetchval(
            "INSERT INTO job_part (job_id, number, subject, attempts) VALUES ($1, 1, '{}', 10) RETURNING id", job
        )
        made[name] = (job, part)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in owner.installation.here.environment().items():
            patch.setenv(name, value)
        settings.cache_clear()
        assert await jobs.run(database, made["tries"][1])
        before = await database.fetchval("SELECT ended_at FROM client WHERE id = $1", ended)
        await database.execute("UPDATE client SET ended_at = now() WHERE id = $1", ended)
        assert await jobs.run(database, made["ended"][1])
        await database.execute("UPDATE client SET ended_at = $2 WHERE id = $1", ended, before)
        await database.execute("UPDATE job SET made_at = now() - interval '25 hours' WHERE id = $1", made["old"][0])
        await jobs.sweep(database)
    settings.cache_clear()
    said = {
        name: await database.fetchval("SELECT failed FROM job WHERE id = $1", job) for name, (job, _) in made.items()
    }
    assert said == {
        "tries": "a part of it does not come to an end", "ended": "the client or account that asked for it has ended",
        "old": "it did not come to an end within a day",
    }  # fmt: skip
    await database.execute("DELETE FROM job WHERE request = ''")
