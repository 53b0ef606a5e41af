"""A message is applied once, in its place in time, and leaves what it replaced."""

from __future__ import annotations

import asyncio
import base64
import uuid
from datetime import UTC, datetime

import asyncpg
import pytest
from tests.conftest import Hospital, nhs, unique
from tests.record.test_matching import Person

from carefolio.local import load
from carefolio.record import apply
from carefolio.record.ids import uuid7


async def stored(hospital: Hospital, pool: asyncpg.Pool, raw: bytes) -> uuid.UUID:
    """A message as the door stores it, but not yet queued."""
    number = uuid7()
    await pool.execute(
        """
        INSERT INTO message (id, sender_id, organisation_id, control_id, digest, message_type, received_at, raw,
                             ack_code, ack, status)
        SELECT $1, sender.id, organisation_id, $2, $3, 'ORU^R01', $4, $5, 'AA', '', 'received'
        FROM sender JOIN organisation ON organisation.id = organisation_id WHERE ods_code = $6
        """,
        number,
        unique(),
        number.bytes,
        datetime.now(UTC),
        raw,
        hospital.ods_code,
    )
    return number


async def test_deliveries_at_the_same_moment_apply_once(hospital: Hospital, pool: asyncpg.Pool) -> None:
    number = await hospital.registered()
    message = await stored(hospital, pool, load.report(number, unique()))
    outcomes = await asyncio.gather(*(apply.apply_message(pool, message) for _ in range(8)))
    assert sorted(outcome.before for outcome in outcomes) == [False] + [True] * 7
    written = await pool.fetch("SELECT version, count(*) FROM resource WHERE message_id = $1 GROUP BY 1", message)
    assert [(row["version"], row["count"]) for row in written if row["version"] > 1] == []
    lines = await pool.fetch("SELECT written FROM audit WHERE message_id = $1 AND action = 'write'", message)
    assert len(lines) == 1
    assert len(lines[0]["written"]) == await pool.fetchval(
        "SELECT count(*) FROM resource WHERE message_id = $1", message
    )


async def test_a_result_that_changes_is_a_new_version_and_the_old_one_stays(hospital: Hospital) -> None:
    number = await hospital.registered()
    order = unique("R")
    first = load.report(number, order, results=1).decode()
    await hospital.accepted(first.encode())
    corrected = first.replace(f"|{order}|P|", f"|{unique()}|P|").replace("|N|||F|", "|H|||C|")
    await hospital.accepted(corrected.encode())
    patient = (await hospital.patient(number))["id"]
    (observation,) = await hospital.search(f"Observation?patient={patient}")
    assert observation["status"] == "corrected"
    assert observation["meta"]["versionId"] == "2"
    old = await hospital.database.fetchrow(
        "SELECT content, valid_from, valid_to FROM resource_history WHERE id::text = $1", observation["id"]
    )
    assert '"status":"final"' in old["content"]
    assert old["valid_from"] < old["valid_to"]


async def test_what_changes_nothing_makes_no_version(hospital: Hospital) -> None:
    number = await hospital.registered()
    order = unique("R")
    first = load.report(number, order).decode()
    await hospital.accepted(first.encode())
    await hospital.accepted(first.replace(f"|{order}|P|", f"|{unique()}|P|").encode())
    patient = (await hospital.patient(number))["id"]
    for observation in await hospital.search(f"Observation?patient={patient}"):
        assert observation["meta"]["versionId"] == "1"


async def test_a_result_that_arrives_late_does_not_replace_a_newer_one(hospital: Hospital, pool: asyncpg.Pool) -> None:
    """Order of receipt decides, not order of delivery by the queue."""
    number = await hospital.registered()
    order = unique("R")
    text = load.report(number, order, results=1).decode()
    older = await stored(hospital, pool, text.encode())
    newer = await stored(hospital, pool, text.replace("|N|||F|", "|H|||C|").encode())
    for message in (newer, older):
        assert (await apply.apply_message(pool, message)).status == "applied"
    patient = (await hospital.patient(number))["id"]
    (observation,) = await hospital.search(f"Observation?patient={patient}")
    assert observation["status"] == "corrected"


async def test_older_demographics_do_not_overwrite(hospital: Hospital) -> None:
    number = nhs()
    newer = Person(number, given="Newer").message("A31", "20261105090000")
    older = Person(number, unique("L"), given="Older").message("A31", "20261104090000")
    for message in (newer, older):
        assert (await hospital.accepted(message))["status"] == "applied"
    patient = await hospital.patient(number)
    assert patient["name"][0]["given"] == ["Newer"]
    assert len(patient["identifier"]) == 2, "an older message still adds its identifiers"


async def test_empty_leaves_and_null_erases(hospital: Hospital) -> None:
    number = nhs()
    full = Person(number).message("A28", "20261101")
    await hospital.accepted(full)
    await hospital.accepted(Person(number).message("A31", "20261102").replace("|||1 Road^^Town^^AB1 2CD", ""))
    assert "address" in await hospital.patient(number)
    await hospital.accepted(Person(number).message("A31", "20261103").replace("1 Road^^Town^^AB1 2CD", '""'))
    assert "address" not in await hospital.patient(number)


async def test_an_admission_goes_its_way_through_the_hospital(hospital: Hospital) -> None:
    number, visit = nhs(), unique("V")

    def event(code: str, ward: str, time: str) -> str:
        return (
            f"MSH|^~\\&|PAS|T|||{time}||ADT^{code}|{unique()}|P|2.4\nEVN|{code}|{time}\n"
            f"PID|1||{number}^^^NHS^NH||Fictional^Robin||19700101|F\nPV1|1|I|{ward}^1^1||||||||||||||||{visit}"
        )

    await hospital.accepted(load.registration(number, unique()))
    seen = []
    for code, ward, time in (
        ("A01", "MAPLE", "20261103101000"),
        ("A02", "CEDAR", "20261104101000"),
        ("A03", "CEDAR", "20261105101000"),
        ("A13", "CEDAR", "20261105111000"),
        ("A03", "CEDAR", "20261106101000"),
    ):
        assert (await hospital.accepted(event(code, ward, time)))["status"] == "applied"
        patient = (await hospital.patient(number))["id"]
        (encounter,) = await hospital.search(f"Encounter?patient={patient}")
        seen.append((encounter["status"], len(encounter["location"]), "end" in encounter["period"]))
    assert seen == [
        ("in-progress", 1, False),
        ("in-progress", 2, False),
        ("finished", 2, True),
        ("in-progress", 2, False),
        ("finished", 2, True),
    ]
    assert encounter["period"] == {"start": "2026-11-03T10:10:00+00:00", "end": "2026-11-06T10:10:00+00:00"}


async def test_an_unsupported_type_is_kept_and_says_so(hospital: Hospital) -> None:
    row = await hospital.accepted(f"MSH|^~\\&|LAB|T|||20261101||ZZZ^Z99|{unique()}|P|2.4")
    assert (row["status"], row["reason"]) == ("unsupported", "no patient in the message")


async def test_an_unexpected_error_is_tried_again_and_ends_in_review(hospital: Hospital, pool: asyncpg.Pool) -> None:
    message = await stored(hospital, pool, load.report(await hospital.registered(), unique()))
    ends = [
        await apply.note_failure(
            pool,
            message,
            ZeroDivisionError("secret"),
        )
        for _ in range(6)
    ]
    assert ends == [False] * 5 + [True]
    row = await pool.fetchrow("SELECT status, reason, attempts FROM message WHERE id = $1", message)
    assert row["status"] == "failed"
    assert row["reason"].startswith("ZeroDivisionError")
    assert "secret" not in row["reason"]


async def test_a_newer_message_that_says_the_same_still_moves_the_clock(hospital: Hospital) -> None:
    number = nhs()
    for name, time in (("Ten", "20261103100000"), ("Ten", "20261103120000"), ("Eleven", "20261103110000")):
        await hospital.accepted(Person(number, given=name).message("A31", time))
    patient = await hospital.patient(number)
    assert patient["name"][0]["given"] == ["Ten"]
    assert patient["meta"]["versionId"] == "1"


async def test_each_field_keeps_and_erases_its_own(hospital: Hospital) -> None:
    number = nhs()

    def message(name: str, home: str, work: str, time: str) -> str:
        return (
            f"MSH|^~\\&|PAS|T|||{time}||ADT^A31|{unique()}|P|2.4\nEVN|A31|{time}\n"
            f"PID|1||{number}^^^NHS^NH||{name}||19700101|F|||||{home}|{work}"
        )

    async def values(key: str) -> list[str]:
        return [contact["value"] for contact in (await hospital.patient(number)).get(key, [])]

    await hospital.accepted(message("Fictional^Robin^^^Mx", "01632960001", "01632960002", "20261101"))
    await hospital.accepted(message("Fictional", "01632960003", "", "20261102"))
    assert await values("telecom") == ["01632960003", "01632960002"]
    assert (await hospital.patient(number))["name"][0]["given"] == ["Robin"]
    await hospital.accepted(message("Fictional^Robin", "01632960003", '""', "20261103"))
    assert await values("telecom") == ["01632960003"]


@pytest.mark.parametrize("field", ["PV1-45", "OBX-14", "PID-7"])
async def test_an_open_end_is_no_failure(hospital: Hospital, field: str) -> None:
    number = nhs()
    if field == "OBX-14":
        await hospital.accepted(load.registration(number, unique()))
        text = load.report(number, unique("R")).decode().replace("|F|||20261102090000", "|F|||99991231")
    elif field == "PID-7":
        text = load.registration(number, unique()).decode().replace("|19700101|", "|99991231|")
    else:
        text = Person(number).message("A31") + "|" * 26 + "99991231"
    assert (await hospital.accepted(text))["status"] == "applied"


async def test_the_same_clinician_at_the_same_moment(hospital: Hospital, pool: asyncpg.Pool) -> None:
    """Twenty patients, one new clinician: nobody's message is lost to the race for the shared resource."""
    numbers = [await hospital.registered() for _ in range(6)]
    clinician = unique("C")
    messages = [
        await stored(hospital, pool, load.report(number, unique()).decode().replace("|C1^", f"|{clinician}^").encode())
        for number in numbers
    ]
    outcomes = await asyncio.gather(*(apply.apply_message(pool, message) for message in messages))
    assert {outcome.status for outcome in outcomes} == {"applied"}


async def test_a_huge_message_does_not_hold_up_the_others(hospital: Hospital) -> None:
    text = load.report(await hospital.registered(), unique("R")).decode()
    line = text.split("\r")[4]
    huge = text + "\r".join([line] * 8000) + "\r"
    one = asyncio.create_task(hospital.accepted(huge.encode()))
    await asyncio.sleep(0.2)
    assert (await hospital.accepted(load.registration(nhs(), unique())))["status"] == "applied"
    assert (await one)["status"] == "applied"


def head(kind: str) -> str:
    return f"MSH|^~\\&|SYS|T|||20261105090000||{kind}|{unique()}|P|2.5\n"


async def test_an_order_and_its_result_are_one_request(hospital: Hospital) -> None:
    number, placer = await hospital.registered(), unique("P")
    pid = f"PID|1||{number}^^^NHS^NH||Fictional{number[-4:]}^Robin||19700101\n"
    order = f"ORC|NW|{placer}\nOBR|1|{placer}||26604007^FBC^SNOMED CT||||||||||||C1^Farrow^Miriam"
    assert (await hospital.accepted(head("ORM^O01") + pid + order))["status"] == "applied"
    result = (
        f"ORC|RE|{placer}|F{placer}\nOBR|1|{placer}|F{placer}|26604007^FBC^SNOMED CT|||20261105|||||||||"
        "C1^Farrow^Miriam|||||||||F\nOBX|1|NM|1^Hb||118|g/L|||||F"
    )
    assert (await hospital.accepted(head("ORU^R01") + pid + result))["status"] == "applied"
    patient = (await hospital.patient(number))["id"]
    (request,) = await hospital.search(f"ServiceRequest?patient={patient}")
    (report,) = await hospital.search(f"DiagnosticReport?patient={patient}")
    assert report["basedOn"] == [{"reference": f"ServiceRequest/{request['id']}"}]
    clinicians = await hospital.search(f"Patient/{patient}/$everything")
    assert sum(resource["resourceType"] == "Practitioner" for resource in clinicians) == 1


async def test_an_appointment_is_booked_moved_and_cancelled(hospital: Hospital) -> None:
    number, key = await hospital.registered(), unique("A")
    pid = f"PID|1||{number}^^^NHS^NH||Fictional{number[-4:]}^Robin||19700101"
    seen = []
    for event, time in (("S12", "20261201093000"), ("S13", "20261202100000"), ("S15", "20261202100000")):
        schedule = f"SCH|{key}||||||^Review||30|min|^^^{time}\n"
        message = head(f"SIU^{event}") + schedule + pid + "\nRGS|1\nAIL|1||CLINIC^2"
        assert (await hospital.accepted(message))["status"] == "applied"
        patient = (await hospital.patient(number))["id"]
        (appointment,) = await hospital.search(f"Appointment?patient={patient}")
        seen.append((appointment["status"], appointment["start"]))
    assert seen == [
        ("booked", "2026-12-01T09:30:00+00:00"),
        ("booked", "2026-12-02T10:00:00+00:00"),
        ("cancelled", "2026-12-02T10:00:00+00:00"),
    ]


async def test_a_document_is_replaced_as_a_whole(hospital: Hospital) -> None:
    number, key = await hospital.registered(), unique("D")
    pid = f"PID|1||{number}^^^NHS^NH||Fictional{number[-4:]}^Robin||19700101"
    for text in ("First draft.", "Final letter."):
        message = (
            head("MDM^T02") + pid + f"\nTXA|1|CN|TX|20261101||||||||{key}||||letter.txt|AU\nOBX|1|TX|||{text}||||||F"
        )
        assert (await hospital.accepted(message))["status"] == "applied"
    patient = (await hospital.patient(number))["id"]
    (document,) = await hospital.search(f"DocumentReference?patient={patient}")
    assert document["meta"]["versionId"] == "2"
    assert base64.b64decode(document["content"][0]["attachment"]["data"]) == b"Final letter."
