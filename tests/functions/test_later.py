"""Prefer: respond-async on requests that are not bulk data."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from dataclasses import asdict, replace
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from tests.conftest import Hospital, NewHospital, Reply, nhs, unique
from tests.functions.test_export import begun, polled
from tests.record.people import Person, end
from tests.sharing_kit import World

from carefolio.doors import fhir_later
from carefolio.doors.fhir_routes import DOOR
from carefolio.fhir.validation import validate
from carefolio.identity import registry
from carefolio.record import jobs, purging


@pytest.fixture(scope="module")
async def owner(new_hospital: NewHospital) -> Hospital:
    hospital = await new_hospital(scope="system/*.cruds")
    for _ in range(2):
        person = Person(nhs(), unique("L"))
        await end(hospital, person.message("A28", rest="AL1|1|DA|P^Penicillin"))
    return hospital


async def answered(hospital: Hospital, path: str, method: str = "GET", **options: Any) -> Any:
    """The one entry of what comes later."""
    told = await polled(hospital, await begun(hospital, path, method, **options))
    assert (told.status, bool(told.headers["Expires"])) == (200, True), told.body
    assert validate(told.json) == []
    assert told.json["type"] == "batch-response"
    (entry,) = told.json["entry"]
    return entry


async def test_what_is_read_is_what_would_be_read_at_once(owner: Hospital) -> None:
    patient = (await owner.search("Patient?_count=1"))[0]
    one = f"Patient/{patient['id']}"
    for path in (one, f"{one}/$everything", f"{one}/_history",
                 f"?_type=Encounter,AllergyIntolerance&patient={patient['id']}&_pretty=true"):  # fmt: skip
        at_once = await owner.get(path.replace("&_pretty=true", ""))
        entry = await answered(owner, path)
        assert entry.get("resource") == at_once.json, (path, entry["response"])
        assert entry["response"]["status"] == "200 OK"
        assert entry["response"].get("etag") == at_once.headers.get("ETag")
    xml = await begun(owner, f"Patient/{patient['id']}")
    place = urlsplit(xml.headers["Content-Location"]).path
    await polled(owner, xml)
    told = await owner.request("GET", place, headers=await owner.bearer() | {"Accept": "application/fhir+xml"})
    assert told.body.startswith(b"<Bundle ") or b"<Bundle " in told.body[:100]


async def test_what_is_written_is_written_once(owner: Hospital, database: asyncpg.Pool) -> None:
    doctor = {"resourceType": "Practitioner", "name": [{"family": unique("Larch")}]}
    entry = await answered(owner, "Practitioner", "POST", json=doctor)
    assert entry["response"]["status"] == "201 Created"
    assert entry["response"]["lastModified"]
    assert entry["response"]["location"].endswith(f"Practitioner/{entry['resource']['id']}/_history/1")
    assert len(await owner.search(f"Practitioner?family={doctor['name'][0]['family']}")) == 1
    bundle = {
        "resourceType": "Bundle", "type": "transaction",
        "entry": [{"resource": doctor, "request": {"method": "POST", "url": "Practitioner"}}],
    }  # fmt: skip
    headers = {"Prefer": "return=minimal; respond-async"}
    entry = await answered(owner, "", "POST", json=bundle, headers=headers)
    assert entry["resource"]["type"] == "transaction-response"
    assert entry["resource"]["entry"][0]["response"]["status"] == "201 Created"
    assert "resource" not in entry["resource"]["entry"][0]
    stale = {"If-Match": 'W/"7"'}
    number = entry["resource"]["entry"][0]["response"]["location"].split("/")[-3]
    entry = await answered(owner, f"Practitioner/{number}", "PUT", json=doctor | {"id": number}, headers=stale)
    assert entry["response"]["status"].startswith("412")


async def test_what_cannot_be_is_told(owner: Hospital) -> None:
    entry = await answered(owner, f"Patient/{unique('no')}")
    assert entry["response"]["status"] == "404 Not Found"
    assert entry["response"]["outcome"]["issue"][0]["code"] == "not-found"
    narrow = {"Authorization": f"Bearer {await owner.authorize('system/Location.rs')}"}
    reply = await begun(owner, "Patient/x", headers=narrow)
    place = urlsplit(reply.headers["Content-Location"]).path
    assert reply.status == 202
    told = await _told(owner, place, narrow)
    assert told.json["entry"][0]["response"]["status"] == "403 Forbidden"
    assert (await owner.request("GET", "/fhir/R4/Patient/x", headers={"Prefer": "respond-async"})).status == 401
    large = await begun(owner, "", "POST", data=io.BytesIO(b" " * (10 * 1024 * 1024 + 1)))
    assert large.status == 413


async def _told(hospital: Hospital, place: str, headers: dict[str, str]) -> Reply:
    for _ in range(200):
        told = await hospital.request("GET", place, headers=headers)
        if told.status != 202:
            return told
        await asyncio.sleep(0.05)
    raise AssertionError("the job does not end")


async def test_a_person_reads_later_what_he_may_and_nobody_else_reads_it(world: World) -> None:
    await world.state("all")
    bearers = {name: {"Authorization": f"Bearer {world.people[name].token()}"} for name in ("member", "stranger")}
    hospital = world.hospital
    path = f"/fhir/R4/Patient/{world.patient}/$everything"
    at_once = await hospital.request("GET", path, headers=bearers["member"])
    reply = await hospital.request("GET", path, headers=bearers["member"] | {"Prefer": "respond-async"})
    place = urlsplit(reply.headers["Content-Location"]).path
    told = await _told(hospital, place, bearers["member"])
    assert told.json["entry"][0]["resource"]["entry"] == at_once.json["entry"]
    assert (await hospital.request("GET", place, headers=bearers["stranger"])).status == 404
    reply = await hospital.request("GET", path, headers=bearers["stranger"] | {"Prefer": "respond-async"})
    told = await _told(hospital, urlsplit(reply.headers["Content-Location"]).path, bearers["stranger"])
    assert told.json["entry"][0]["response"]["status"] == "404 Not Found"


@pytest.mark.parametrize("why", ["it was begun before", "its token was ended", "nothing"])
async def test_what_ended_in_mid_work_is_not_done_twice(owner: Hospital, pool: asyncpg.Pool, why: str) -> None:
    """A write that a crash cut off fails in words; one whose token was revoked meanwhile is not begun."""
    doctor = {"resourceType": "Practitioner", "name": [{"family": unique("Willow")}]}
    job, part, jti = await _made(owner, pool, "Practitioner", doctor)
    if why == "it was begun before":
        await pool.execute("UPDATE job_part SET subject = '{\"begun\": true}' WHERE id = $1", part)
    if why == "its token was ended":
        await _end_token(pool, jti)
    assert await jobs.run(pool, part)
    told = await pool.fetchrow("SELECT status, failed FROM job WHERE id = $1", job)
    found = await owner.search(f"Practitioner?family={doctor['name'][0]['family']}")
    if why == "nothing":
        assert (told["status"], len(found)) == ("done", 1)
    else:
        assert (told["status"], found) == ("failed", [])
        assert ("mid-work" if "begun" in why else "ended") in told["failed"]


@pytest.mark.parametrize("how", ["cancelled", "revoked"])
async def test_a_batch_ends_when_it_is_no_longer_wanted(owner: Hospital, pool: asyncpg.Pool, how: str) -> None:
    """Between its entries; of what was cancelled nothing is left, of what was revoked it is told what was done."""
    family = unique("Rowan")
    doctor = {"resourceType": "Practitioner", "name": [{"family": family}]}
    entries = [{"resource": doctor, "request": {"method": "POST", "url": "Practitioner"}}] * 5000
    batch = {"resourceType": "Bundle", "type": "batch", "entry": entries}
    job, part, jti = await _made(owner, pool, "", batch)
    running = asyncio.create_task(jobs.run(pool, part))
    while not await owner.search(f"Practitioner?family={family}&_count=1"):
        await asyncio.sleep(0.05)
    if how == "cancelled":
        await jobs.cancel(pool, jobs._job(await pool.fetchrow("SELECT * FROM job WHERE id = $1", job)))
    else:
        await _end_token(pool, jti)
    assert await running
    done = (await owner.get(f"Practitioner?family={family}&_summary=count")).json["total"]
    assert 0 < done < 5000
    status = await pool.fetchval("SELECT status FROM job WHERE id = $1", job)
    folder = owner.installation.here.home / "files/jobs" / str(job)
    if how == "cancelled":
        assert (status in ("cancelled", "expired"), folder.exists()) == (True, False)
    else:
        told = json.loads((folder / "answer").read_text())["entry"][0]["resource"]["entry"]
        statuses = [each["response"]["status"] for each in told]
        assert (status, len(told), statuses.count("201 Created")) == ("done", 5000, done)
        assert told[-1]["response"]["status"].startswith("403")
        assert [each.name for each in folder.iterdir()] == ["answer"]


async def _made(owner: Hospital, pool: asyncpg.Pool, path: str, resource: Any) -> tuple[Any, Any, str]:
    """A job that no queue knows, as the door makes one: its number, its part's, and the id of its token."""
    fhir_later.serve(DOOR)
    like = await pool.fetchrow("SELECT * FROM job WHERE id = $1", _number(await begun(owner, "Patient/x")))
    asked = json.loads(like["asked"]) | {"method": "POST", "path": f"/fhir/R4/{path}".rstrip("/")}
    asked["headers"] = {"content-type": "application/fhir+json"}
    asked["token"]["jti"] = unique("jti")
    job = await pool.fetchval(
        "INSERT INTO job (kind, request, reader, asked, status) VALUES ($1, 'later', $2, $3, 'working') RETURNING id",
        fhir_later.KIND, like["reader"], json.dumps(asked),
    )  # fmt: skip
    folder = owner.installation.here.home / "files/jobs" / str(job)
    folder.mkdir(parents=True)
    (folder / "request").write_text(json.dumps(resource))
    part = await pool.fetchval("INSERT INTO job_part (job_id, number, subject) VALUES ($1, 1, '{}') RETURNING id", job)
    return job, part, asked["token"]["jti"]


async def _end_token(pool: asyncpg.Pool, jti: str) -> None:
    await pool.execute("INSERT INTO revoked_token (jti, expires_at) VALUES ($1, now() + interval '1 hour')", jti)


async def test_what_is_not_fhir_comes_as_a_binary(owner: Hospital) -> None:
    """Bytes, a text that looks like a resource, GraphQL's own JSON; in a batch too, and as XML."""
    forged = b'{"resourceType":"Patient","id":"forged"}'
    for content in (b"hello", forged, bytes(range(256))):
        headers = await owner.bearer() | {"Content-Type": "text/plain"}
        made = await owner.request("PUT", f"/fhir/R4/Binary/{unique('b')}", data=content, headers=headers)
        number = urlsplit(made.headers["Location"]).path.split("/")[-3]
        entry = await answered(owner, f"Binary/{number}", headers={"Accept": "*/*"})
        assert entry["resource"]["resourceType"] == "Binary"
        assert base64.b64decode(entry["resource"]["data"]) == content
    graph = "$graphql?query=%7BPatientList%7Bid%7D%7D"
    entry = await answered(owner, graph)
    assert "data" in json.loads(base64.b64decode(entry["resource"]["data"]))
    batch = {"resourceType": "Bundle", "type": "batch", "entry": [{"request": {"method": "GET", "url": graph}}]}
    headers = await owner.bearer() | {"Accept": "application/fhir+xml"}
    reply = await owner.request("POST", "/fhir/R4", json=batch, headers=headers)
    assert (reply.status, b"<Binary" in reply.body) == (200, True)


async def test_in_the_form_that_was_asked_for(owner: Hospital) -> None:
    [patient] = await owner.search("Patient?_count=1")
    reply = await begun(owner, f"Patient/{patient['id']}", headers={"Accept": "application/fhir+xml"})
    assert (await polled(owner, reply)).body[:60].partition(b"?>")[2].startswith(b"<Bundle")
    assert (await begun(owner, f"Patient/{patient['id']}?_format=turtle")).status == 406
    entry = await answered(owner, f"Patient/{patient['id']}", "HEAD")
    assert "resource" not in entry
    assert entry["response"]["etag"]
    assert (await answered(owner, f"Provenance?target=Patient/{patient['id']}"))["resource"]["type"] == "searchset"


async def test_a_bundle_begins_no_job_of_its_own(owner: Hospital, database: asyncpg.Pool) -> None:
    """An entry has no place to ask at: an export is refused, a preference passed over."""
    entries = [{"request": {"method": "GET", "url": url}} for url in ("$export?_type=Patient", "Patient?_count=1")]
    batch = {"resourceType": "Bundle", "type": "batch", "entry": entries}
    before = await database.fetchval("SELECT count(*) FROM job")
    entry = await answered(owner, "", "POST", json=batch, headers={"Prefer": 'respond-async="1"'})
    export, search = entry["resource"]["entry"]
    assert export["response"]["status"].startswith("400")
    assert search["resource"]["type"] == "searchset"
    assert await database.fetchval("SELECT count(*) FROM job") == before + 1
    batch["type"] = "transaction"
    refused = await owner.request("POST", "/fhir/R4", json=batch, headers=await owner.bearer())
    assert refused.status == 400


async def test_what_was_purged_is_in_no_answer_that_waits(owner: Hospital, pool: asyncpg.Pool) -> None:
    """Misfiled data is fetched by nobody from then on: what may hold it is gone, what is of others stays."""
    person, other = Person(nhs(), unique("L")), Person(nhs(), unique("L"))
    for each in (person, other):
        await end(owner, each.message("A28", rest="AL1|1|DA|P^Penicillin"))
    found = {each.number: await owner.patient(each.number) for each in (person, other)}
    one, another = f"Patient/{found[person.number]['id']}", f"Patient/{found[other.number]['id']}"
    reader = {"Authorization": f"Bearer {await _second(owner)}"}
    began = [
        (await begun(owner, "$export?_type=AllergyIntolerance"), await owner.bearer()),
        (await begun(owner, f"{one}/$everything"), await owner.bearer()),
        (await begun(owner, f"AllergyIntolerance?patient={one}"), await owner.bearer()),
        (await begun(owner, f"{another}/$everything", headers=reader), reader),
    ]
    places = [(urlsplit(reply.headers["Content-Location"]).path, bearer) for reply, bearer in began]
    for place, bearer in places:
        assert (await _told(owner, place, bearer)).status == 200
    row = await pool.fetchrow(
        "SELECT patient_id, message_id FROM resource WHERE type = 'AllergyIntolerance' AND patient_id = $1",
        found[person.number]["id"],
    )
    await purging.purge(pool, "operator", row["patient_id"], "It was another person's.", messages=[row["message_id"]])
    statuses = [(await owner.request("GET", place, headers=bearer)).status for place, bearer in places]
    assert statuses == [404, 404, 404, 200]


async def _second(owner: Hospital) -> str:
    """The token of another client of the organisation."""
    made = await registry.add_client(owner.database, "other", owner.ods_code, "system/*.rs")
    return await replace(owner, client=asdict(made), token="", asked_at=0).authorize()


def _number(reply: Reply) -> str:
    return urlsplit(reply.headers["Content-Location"]).path.rpartition("/")[2]


async def test_a_search_in_a_compartment_is_bulk_data(owner: Hospital) -> None:
    first, _ = await owner.search("Patient?_count=2")
    told = await polled(owner, await begun(owner, f"Patient/{first['id']}/AllergyIntolerance"))
    assert [(each["type"], each["count"]) for each in told.json["output"]] == [("AllergyIntolerance", 1)]
