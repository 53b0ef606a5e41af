"""A practice and a hospital write into one record: whose word counts, who reads what, where it came from."""

from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path

import asyncpg
import pytest

from carefolio.record import provenance, rebuild, search
from carefolio.record.access import Reader
from tests.conftest import Hospital, NewHospital, Running, nhs, unique
from tests.extracts.kit import Practice

ADT = """MSH|^~\\&|PAS|HOSP|||{at}||ADT^A31|{control}|P|2.4
PID|1||{nhs}^^^NHS^NH{{status:01}}~L{local}^^^HOSP^MR||Ashdown^Rowan||19700203|F|||1 Hospital Road^^Whitcombe||07700900
PV1|1|N"""
ORU = """MSH|^~\\&|LAB|HOSP|||20260302120000||ORU^R01|{control}|P|2.4
PID|1||{nhs}^^^NHS^NH{{status:01}}||Ashdown^Rowan||19700203|F
OBR|1|A{control}|F{control}|FBC^Full blood count^L|||20260302100000|||||||||||||||20260302110000||HM|F
OBX|1|NM|HB^Haemoglobin^L||140|g/L|120-160||||F"""


@pytest.fixture
async def hospital(new_hospital: NewHospital) -> Hospital:
    return await new_hospital()


@pytest.fixture
def practice(pool: asyncpg.Pool, tmp_path: Path) -> Practice:
    made = Practice(pool, tmp_path)
    made.base()
    return made


async def adt(hospital: Hospital, number: str, at: str = "20260301120000") -> asyncpg.Record:
    return await hospital.accepted(ADT.format(control=unique(), nhs=number, local=number[-6:], at=at))


async def test_hospital_and_practice_are_in_one_record(practice: Practice, hospital: Hospital) -> None:
    number = nhs()
    row = await adt(hospital, number)
    assert row["status"] == "applied", row["reason"]
    await hospital.accepted(ORU.format(control=unique(), nhs=number))
    patient = practice.patient(NhsNumber=number, HomePhone="01632 960700", NumberAndStreet="2 Practice Lane")
    practice.observation(patient, "a", "16")
    await practice.load("bulk")
    record = await practice.record(patient)
    assert record == row["patient_id"]
    # The person himself sees both, each organisation what is its own.
    own = Reader("account/test", record, own=record)
    for reader, expected in ((own, 2), (Reader("client/x", row["organisation_id"]), 1)):
        found = await search.search(practice.pool, reader, ["Observation"], [("patient", str(record))])
        assert len(found.found) == expected
    # The nearer to the person stands: what the practice says, and all numbers of both.
    person = await hospital.patient(number)
    assert person["telecom"] == [{"system": "phone", "value": "01632 960700", "use": "home"}]
    assert person["address"][0]["line"] == ["2 Practice Lane"]
    assert len(person["identifier"]) == 4
    await adt(hospital, number)
    assert (await hospital.patient(number))["address"][0]["line"] == ["2 Practice Lane"]
    # What was made by the extract is no part of what messages make.
    assert record is not None
    async with practice.pool.acquire() as connection, connection.transaction():
        assert (await rebuild.rebuild(connection, record)).changed() == []
    # When the practice says no more, the hospital's word counts again.
    practice.delete("Admin_Patient", PatientGuid=patient)
    await practice.load()
    await adt(hospital, number, at="20260401120000")
    assert (await hospital.patient(number))["address"][0]["line"] == ["1 Hospital Road"]
    assert len(await practice.resources(patient, "Observation")) == 2


async def test_how_to_reach_somebody_hidden_is_shown_by_nobody(practice: Practice, hospital: Hospital) -> None:
    number = nhs()
    await adt(hospital, number)
    patient = practice.patient(NhsNumber=number, SpineSensitive="true")
    await practice.load("bulk")
    await adt(hospital, number)
    person = await hospital.patient(number)
    assert not {"address", "telecom", "contact"} & set(person)
    assert patient


async def test_a_message_that_waited_is_applied_when_the_practice_knows_him(
    practice: Practice, hospital: Hospital
) -> None:
    number = nhs()
    control = unique()
    held = await hospital.accepted(ORU.format(control=control, nhs=number))
    assert held["status"] == "held"
    patient = practice.patient(NhsNumber=number)
    await practice.load("bulk")
    for _ in range(100):
        row = await hospital.settled(control)
        if row["status"] != "held":
            break
        await asyncio.sleep(0.05)
    assert row["status"] == "applied", row["reason"]
    assert row["patient_id"] == await practice.record(patient)


async def test_where_a_row_came_from(practice: Practice) -> None:
    patient = practice.patient()
    practice.observation(patient, "x", "16")
    practice.observation(patient, "a", "1", Value="140")
    await practice.load("bulk")
    record = await practice.record(patient)
    made = next(each for each in await practice.resources(patient, "Observation") if "valueQuantity" in each)
    organisation = await practice.pool.fetchval("SELECT id FROM organisation WHERE ods_code = $1", practice.ods)
    [found] = await provenance.search(
        practice.pool, Reader("client/x", organisation), [("target", f"Observation/{made['id']}")]
    )
    told = json.loads(found.content)
    assert told["agent"][0]["who"]["identifier"]["value"] == practice.ods
    shown = told["entity"][0]["what"]["display"]
    assert shown.startswith("CareRecord_Observation row 3, bulk_1_CareRecord_Observation_")
    # Every write of a record leaves its line, which names the batch.
    line = await practice.pool.fetchrow("SELECT * FROM audit WHERE patient_id = $1 AND action = 'write'", record)
    assert line["actor"] == f"agreement/{practice.name}"
    assert line["query"].startswith("extract 20240101020000: ")


async def test_nothing_of_a_patient_is_in_logs_or_reasons(practice: Practice, installation: Running) -> None:
    secret = "Zqxjk"
    patient = practice.patient(Surname=f"{secret}ton", DateOfBirth=f"19{secret}")
    other = practice.patient("other", Surname=f"{secret}by")
    practice.observation(other, "a", "1", Value=f"{secret}1", AssociatedText=secret)
    practice.observation(other, "b", "16", EffectiveDate=f"2024-{secret}")
    await practice.load("bulk")
    told = json.dumps(await practice.parked(), default=str)
    assert len(await practice.parked()) == 3
    assert secret not in told + installation.logs()
    assert patient


async def test_rest_for_the_operator(practice: Practice, new_hospital: NewHospital) -> None:
    operator = await new_hospital("--allow", "127.0.0.0/8", scope="system/Extract.cruds")
    name = practice.name

    async def ask(method: str, path: str, **options: object) -> tuple[int, dict]:
        headers = await operator.bearer()
        reply = await operator.request(method, f"/api/v1/agreements{path}", headers=headers, **options)
        return reply.status, reply.json if reply.body else {}

    code, made = await ask("PUT", f"/{name}", json={"guid": str(practice.guid), "practices": [practice.ods]})
    assert (code, made["practices"], "password" in made) == (200, [practice.ods], False)
    assert (await ask("PUT", f"/{name}", json={"guid": str(practice.guid), "port": "x"}))[0] == 422
    assert (await ask("PUT", "/BAD NAME", json={"guid": str(uuid.uuid4())}))[0] == 422
    assert (await ask("PUT", f"/{name}", data=b"{"))[0] == 422
    assert name in [each["name"] for each in (await ask("GET", ""))[1]["agreements"]]
    assert (await ask("GET", "/nobody"))[0] == 404
    assert (await ask("POST", f"/{name}/fetch"))[0] == 409
    patient = practice.patient()
    practice.observation(patient, "bad", "1", Value="twelve")
    await practice.load("bulk")
    code, shown = await ask("GET", f"/{name}")
    assert (code, shown["parked"], shown["batches"][0]["status"]) == (200, 1, "loaded")
    assert {file["status"] for file in shown["batches"][0]["files"]} == {"loaded"}
    [parked] = (await ask("GET", f"/{name}/parked"))[1]["parked"]
    assert (await ask("POST", f"/{name}/parked/retry"))[1] == {"patients": 1}
    assert (await ask("POST", f"/{name}/parked/{parked['id']}/approve"))[0] == 409
    assert (await ask("POST", f"/{name}/parked/{parked['id']}/dismiss", json={}))[0] == 409
    assert (await ask("POST", f"/{name}/parked/{parked['id']}/dismiss", json={"reason": "known"}))[0] == 204
    assert (await ask("GET", f"/{name}/parked"))[1] == {"parked": []}
    assert (await ask("POST", f"/{name}/batches/20240101020000/retry"))[0] == 409
    assert (await ask("DELETE", f"/{name}"))[0] == 204
    # It is for nobody else.
    other = await new_hospital()
    reply = await other.request("GET", "/api/v1/agreements", headers=await other.bearer())
    assert reply.status == 403
    assert (await other.request("GET", "/api/v1/agreements")).status == 401
