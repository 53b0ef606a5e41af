"""What an integration engineer asks of the door: enhanced acknowledgements, queries, lives of messages, settings."""

from __future__ import annotations

import pytest
from tests.conftest import Hospital, NewHospital, basic, nhs, unique
from tests.record.people import Person, end, header

from carefolio.hl7 import Message, read


def msa(message: Message) -> str:
    segment = message.first("MSA")
    return segment.get(1) if segment else ""


@pytest.fixture(scope="module")
async def enhanced(new_hospital: NewHospital) -> Hospital:
    return await new_hospital("--allow", "127.0.0.0/8", "--set", "enhanced_acks=true")


@pytest.mark.parametrize(
    ("accept", "application", "good", "bad"),
    [
        ("", "", "AA", "AR"),
        ("AL", "NE", "CA", "CR"),
        ("AL", "AL", "CA", "CR"),
        ("NE", "AL", "AA", "AR"),
        ("ER", "NE", "CA", "CR"),
        ("SU", "ER", "CA", "AR"),
        ("NE", "NE", "CA", "CR"),
    ],
)
async def test_the_acknowledgement_that_the_sender_asks_for(
    enhanced: Hospital, accept: str, application: str, good: str, bad: str
) -> None:
    for pid, wanted in ((Person(nhs()).pid, good), ("PID|1", bad)):
        message = f"MSH|^~\\&|PAS|T|||20261101||ADT^A31|{unique()}|P|2.4|||{accept}|{application}\nEVN||20261101\n{pid}"
        reply = await enhanced.post(message)
        assert (reply.status, reply.code) == (200, wanted)


async def test_the_original_mode_is_kept_where_nothing_else_was_agreed(hospital: Hospital) -> None:
    reply = await hospital.post(
        f"MSH|^~\\&|PAS|T|||20261101||ADT^A31|{unique()}|P|2.4|||AL|NE\nEVN||20261101\n{Person(nhs()).pid}"
    )
    assert reply.code == "AA"


async def ask(hospital: Hospital, message: str) -> Message:
    reply = await hospital.post(message)
    assert reply.status == 200
    return read(reply.body)


def names(answer: Message) -> list[str]:
    return [segment.name for segment in answer.segments]


async def test_a_patient_is_told_to_who_contributes_to_his_record(
    hospital: Hospital, new_hospital: NewHospital
) -> None:
    person = Person(nhs(), unique("L"), family="O'Brien&Sons")
    escaped = person.message("A28").replace("O'Brien&Sons", "O'Brien\\T\\Sons")
    assert (await end(hospital, escaped))[0] == "applied"
    query = f"{header('QRY^A19')}QRD|20261101|R|I|Q1||||{person.number}|DEM\nQRF|x"
    answer = await ask(hospital, query)
    assert (answer.type, names(answer)) == ("ADR^A19", ["MSH", "MSA", "QRD", "QRF", "PID"])
    (pid,) = answer.all("PID")
    assert [r.get(1) for r in pid.repetitions(3)] == [person.number, person.local]
    assert (pid.get(5), pid.get(5, 2), pid.get(7)) == ("O'Brien&Sons", "Robin", "19700101")
    local = f"{header('QRY^A19')}QRD|20261101|R|I|Q1||||{person.local}{'^' * 12}MR|DEM"
    assert msa(await ask(hospital, local)) == "AA"
    assert msa(await ask(await new_hospital(), query)) == "AR"
    assert await hospital.database.fetchval(
        "SELECT count(*) FROM audit WHERE action = 'query' AND query = 'A19' AND patient_id::text = $1",
        (await hospital.patient(person.number))["id"],
    ) == 2  # fmt: skip


async def test_appointments_in_a_window(hospital: Hospital) -> None:
    person = Person(nhs())
    assert (await end(hospital, person.message("A28")))[0] == "applied"
    for day in ("20261201", "20261215"):
        booking = f"SCH|{unique('S')}||||||^Review||30|min|^^^{day}0930\n{person.pid}\nRGS|1\nAIL|1||CLINIC"
        assert (await end(hospital, header("SIU^S12") + booking))[0] == "applied"
    query = f"{header('QRY^A19')}QRD|20261101|R|I|Q1||||{person.number}|APN\nQRF||20261210|20261220"
    answer = await ask(hospital, query)
    assert [segment.get(11, 4) for segment in answer.all("SCH")] == ["20261215093000+0000"]


async def test_find_candidates_demographics_and_corresponding_identifiers(hospital: Hospital) -> None:
    person = Person(nhs(), unique("L"), family=unique("Family"))
    assert (await end(hospital, person.message("A28")))[0] == "applied"

    def query(event: str, asked: str, rest: str = "") -> str:
        return f"{header(f'QBP^{event}^QBP_Q21')}QPD|{event}^Question^HL7|TAG1|{asked}{rest}\nRCP|I|10^RD"

    found = await ask(hospital, query("Q22", f"@PID.5.1^{person.family[:4]}*~@PID.7^19700101~@PID.8^F"))
    assert found.type == "RSP^K22"
    assert person.number in [pid.get(3) for pid in found.all("PID")]
    told = await ask(hospital, query("Q21", f"{person.local}^^^T^MR"))
    assert (told.type, names(told)) == ("RSP^K21", ["MSH", "MSA", "QAK", "QPD", "PID"])
    (ack,) = told.all("QAK")
    assert (ack.get(1), ack.get(2), ack.get(4)) == ("TAG1", "OK", "1")
    also = await ask(hospital, query("Q23", f"{person.local}^^^T^MR"))
    (pid,) = also.all("PID")
    assert ([r.get(1) for r in pid.repetitions(3)], pid.get(7)) == ([person.number, person.local], "")
    nobody = await ask(hospital, query("Q21", "NOBODY^^^T^MR"))
    assert ([a.get(2) for a in nobody.all("QAK")], list(nobody.all("PID"))) == (["NF"], [])
    refused = await ask(hospital, query("Q22", "@PID.5.1^Smith"))
    assert msa(refused) == "AR"


async def test_a_history_of_immunisations(hospital: Hospital) -> None:
    person = Person(nhs(), unique("L"))
    assert (await end(hospital, person.message("A28")))[0] == "applied"
    given = f"ORC|RE||{unique('V')}\nRXA|0|1|20261001||207^COVID^CVX|0.5|mL||||||||LOT1||||CP|A"
    assert (await end(hospital, f"{header('VXU^V04')}{person.pid}\n{given}"))[0] == "applied"

    def query(asked: str) -> str:
        return f"{header('QBP^Q11^QBP_Q11')}QPD|Z34^Request Immunization History^CDCPHINVS|T1|{asked}\nRCP|I|5^RD"

    answer = await ask(hospital, query(f"{person.local}^^^T^MR"))
    assert (answer.type, answer.header.get(21)) == ("RSP^K11", "Z32")
    assert names(answer) == ["MSH", "MSA", "QAK", "QPD", "PID", "ORC", "RXA"]
    (shot,) = answer.all("RXA")
    assert (shot.get(3), shot.get(5), shot.get(5, 3), shot.get(6), shot.get(15)) == (
        "20261001", "207", "CVX", "0.5", "LOT1",
    )  # fmt: skip
    assert (await ask(hospital, query("NOBODY^^^T^MR"))).header.get(21) == "Z33"


async def test_a_sender_sees_the_life_of_its_messages_and_of_no_others(
    hospital: Hospital, new_hospital: NewHospital
) -> None:
    person = Person(nhs())
    row = await hospital.accepted(person.message("A28"))

    def mine(of: Hospital) -> dict[str, str]:
        return {"Authorization": basic(of.sender["username"], of.sender["password"])}

    listed = await hospital.request("GET", f"/hl7/messages?control_id={row['control_id']}", headers=mine(hospital))
    assert [message["id"] for message in listed.json["messages"]] == [str(row["id"])]
    shown = (await hospital.request("GET", f"/hl7/messages/{row['id']}", headers=mine(hospital))).json
    assert [event["status"] for event in shown["life"]] == ["received", "applied"]
    assert {resource["type"] for resource in shown["resources"]} == {"Patient", "Encounter", "Location"} & {
        resource["type"] for resource in shown["resources"]
    } | {"Patient"}
    assert "raw" not in shown
    other = await new_hospital()
    assert (await other.request("GET", f"/hl7/messages/{row['id']}", headers=mine(other))).status == 404
    assert (await hospital.request("GET", f"/hl7/messages/{row['id']}")).status == 401
    for query in ("status=lost", "_count=0", "colour=blue"):
        assert (await hospital.request("GET", f"/hl7/messages?{query}", headers=mine(hospital))).status == 400


async def test_settings_and_codes_over_rest(new_hospital: NewHospital) -> None:
    hospital = await new_hospital(scope="system/*.rs system/Sender.ru")
    path = f"/hl7/senders/feed {hospital.ods_code}"
    token = {"Authorization": f"Bearer {await hospital.authorize()}"}
    read_back = await hospital.request("GET", path, headers=token)
    assert (read_back.status, read_back.headers["ETag"]) == (200, 'W/"0"')
    document = read_back.json | {"accept_merges": True}
    assert (await hospital.request("PUT", path, headers=token, json=document)).status == 428
    changed = await hospital.request("PUT", path, headers=token | {"If-Match": 'W/"0"'}, json=document)
    assert (changed.status, changed.headers["ETag"], changed.json["accept_merges"]) == (200, 'W/"1"', True)
    assert (await hospital.request("PUT", path, headers=token | {"If-Match": 'W/"0"'}, json=document)).status == 412
    wrong = await hospital.request("PUT", path, headers=token | {"If-Match": 'W/"1"'}, json={"zone": 7})
    assert (wrong.status, wrong.body) == (422, b"zone: must be a string\n")
    assert (await hospital.request("PUT", path, headers=token | {"If-Match": 'W/"1"'}, data=b"[]")).status == 400
    person = Person(nhs())
    assert (await end(hospital, person.message("A28")))[0] == "applied"
    assert (await end(hospital, person.result(unique("F"), "120")))[0] == "applied"
    waiting = (await hospital.request("GET", "/hl7/codes", headers=token)).json["codes"]
    (own,) = [code for code in waiting if code["code"] == "HB"]
    meaning = {"target_system": "http://snomed.info/sct", "target_code": "1022431000000105"}
    solved = await hospital.request(
        "PUT", "/hl7/codes", headers=token, json={"system": own["system"], "code": "HB", **meaning}
    )
    assert (solved.status, solved.json) == (200, {"records": 1, "resources": 1})
    assert (await hospital.request("PUT", "/hl7/codes", headers=token, json={"system": "x"})).status == 422


async def test_a_scope_for_all_of_fhir_does_not_reach_the_settings(
    hospital: Hospital, new_hospital: NewHospital
) -> None:
    path = f"/hl7/senders/feed {hospital.ods_code}"
    token = {"Authorization": f"Bearer {await hospital.authorize()}"}
    assert (await hospital.request("GET", path, headers=token)).status == 403
    other = await new_hospital(scope="system/Sender.ru")
    stranger = {"Authorization": f"Bearer {await other.authorize()}"}
    assert (await other.request("GET", path, headers=stranger)).status == 404


async def test_a_partner_is_told_what_the_organisation_that_it_asks_for_may_know(new_hospital: NewHospital) -> None:
    """MSH-4 says for whom: its local numbers are told and found, the partner's own are not."""
    hospital = await new_hospital()
    partner = await new_hospital("--allow", "127.0.0.0/8", "--partner", "--permit", f"FOR={hospital.ods_code}")
    person = Person(nhs(), unique("L"))
    assert (await end(hospital, person.message("A28")))[0] == "applied"
    head = header("QBP^Q23^QBP_Q21").replace("|PAS|T|", "|PAS|FOR|")
    for asked in (f"{person.local}^^^T^MR", f"{person.number}^^^NHS^NH"):
        answer = await ask(partner, f"{head}QPD|Q23^Question^HL7|TAG1|{asked}\nRCP|I|10^RD")
        (pid,) = answer.all("PID")
        assert [r.get(1) for r in pid.repetitions(3)] == [person.number, person.local]


async def test_a_history_needs_the_right_date_of_birth(hospital: Hospital) -> None:
    person = Person(nhs())
    assert (await end(hospital, person.message("A28")))[0] == "applied"
    asked = f"{person.number}^^^NHS^NH|||19991231"
    query = f"{header('QBP^Q11^QBP_Q11')}QPD|Z34^Request Immunization History^CDCPHINVS|T1|{asked}\nRCP|I|5^RD"
    assert (await ask(hospital, query)).header.get(21) == "Z33"
