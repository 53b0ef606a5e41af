"""Nobody's data lands in somebody else's record: the rules of docs/matching.md, as scenarios."""

from __future__ import annotations

import asyncio

import pytest
from tests.conftest import Hospital, NewHospital, nhs, unique
from tests.record.people import Person, end

from carefolio.local import load


async def test_only_a_registration_makes_a_record(hospital: Hospital) -> None:
    person = Person(nhs())
    assert await end(hospital, person.message("A01")) == ("held", "the patient is not known here")
    assert await hospital.search(f"Patient?identifier={person.number}") == []


async def test_what_waited_for_a_patient_is_applied_when_the_patient_becomes_known(hospital: Hospital) -> None:
    person = Person(nhs())
    first, second = person.message("A01"), person.message("A08")
    for waiting in (first, second):
        assert (await end(hospital, waiting))[0] == "held"
    assert (await end(hospital, person.message("A28")))[0] == "applied"
    for waiting in (first, second):
        control_id = waiting.split("|")[9]
        for _ in range(100):
            if (await hospital.settled(control_id))["status"] == "applied":
                break
            await asyncio.sleep(0.05)
        else:
            raise AssertionError("it still waits")


async def test_a_sender_may_be_allowed_to_create(new_hospital: NewHospital) -> None:
    hospital = await new_hospital("--allow", "127.0.0.1", "--set", "auto_create=true")
    assert (await end(hospital, Person(nhs()).message("A01")))[0] == "applied"


@pytest.mark.parametrize("person", [Person(family=""), Person(given="")])
async def test_a_record_needs_a_name(hospital: Hospital, person: Person) -> None:
    person.number = nhs()
    status, reason = await end(hospital, person.message())
    assert status == "held"
    assert "PID-5" in (reason or "")


async def test_a_local_number_finds_the_record(hospital: Hospital) -> None:
    person = Person(nhs(), unique("L"))
    await end(hospital, person.message())
    assert (await end(hospital, Person(local=person.local).message("A08")))[0] == "applied"


async def test_a_local_number_of_another_organisation_is_another_number(
    hospital: Hospital, new_hospital: NewHospital
) -> None:
    local = unique("L")
    one, two = Person(nhs(), local), Person(nhs(), local, family="Other", born="19800202")
    other = await new_hospital()
    assert (await end(hospital, one.message()))[0] == "applied"
    assert (await end(other, two.message()))[0] == "applied"
    assert (await hospital.patient(one.number))["name"][0]["family"] == "Fictional"
    assert (await other.patient(two.number))["name"][0]["family"] == "Other"


async def test_identifiers_that_point_at_two_records_are_held(hospital: Hospital) -> None:
    one, two = Person(nhs(), unique("L")), Person(nhs(), unique("L"))
    await end(hospital, one.message())
    await end(hospital, two.message())
    mixed = Person(one.number, two.local)
    assert await end(hospital, mixed.message()) == ("held", "the identifiers point at two records")
    assert len((await hospital.patient(one.number))["identifier"]) == 2


async def test_two_nhs_numbers_in_one_message_are_held(hospital: Hospital) -> None:
    one, two = nhs(), nhs()
    message = Person(one).message().replace("^NHS^NH|", f"^NHS^NH~{two}^^^NHS^NH|")
    assert await end(hospital, message) == ("held", "two different national numbers in one message")


async def test_another_date_of_birth_is_held(hospital: Hospital) -> None:
    person = Person(nhs())
    await end(hospital, person.message())
    stranger = Person(person.number, born="19700102")
    assert await end(hospital, stranger.message("A08")) == (
        "held",
        "the date of birth differs from the record's (PID-7)",
    )
    assert (await hospital.patient(person.number))["birthDate"] == "1970-01-01"


async def test_a_registration_may_correct_the_date_of_birth_of_the_same_family_name(hospital: Hospital) -> None:
    person = Person(nhs())
    await end(hospital, person.message())
    assert (await end(hospital, Person(person.number, born="19700201").message("A31", "20261102")))[0] == "applied"
    assert (await hospital.patient(person.number))["birthDate"] == "1970-02-01"
    other = Person(person.number, family="Somebodyelse", born="19800101")
    assert (await end(hospital, other.message("A31", "20261103")))[0] == "held"


async def test_another_organisation_must_agree_on_the_date_of_birth(
    hospital: Hospital, new_hospital: NewHospital
) -> None:
    person = Person(nhs())
    await end(hospital, person.message())
    other = await new_hospital()
    assert (await end(other, Person(person.number, born="19990909").message("A31")))[0] == "held"
    assert await other.search(f"Patient?identifier={person.number}") == []


async def test_an_incomplete_date_of_birth_that_agrees_is_no_conflict(hospital: Hospital) -> None:
    person = Person(nhs())
    await end(hospital, person.message())
    assert (await end(hospital, Person(person.number, born="1970").message("A08")))[0] == "applied"


@pytest.mark.parametrize("status", ["02", "03"])
async def test_an_unverified_nhs_number_makes_no_record_and_finds_none(hospital: Hospital, status: str) -> None:
    person = Person(nhs())
    assert (await end(hospital, Person(person.number, unique("L"), status=status).message()))[0] == "held"
    await end(hospital, person.message())
    assert (await end(hospital, Person(person.number, status=status).message("A08")))[0] == "held"


async def test_an_nhs_number_that_fails_its_check_is_kept_as_text_and_finds_nobody(hospital: Hospital) -> None:
    number = nhs()
    wrong = number[:-1] + str((int(number[-1]) + 1) % 10)
    person = Person(wrong, unique("L"))
    row = await hospital.accepted(person.message())
    assert row["status"] == "applied"
    assert "Modulus 11" in row["notes"][0]
    assert await hospital.search(f"Patient?identifier=https://fhir.nhs.uk/Id/nhs-number|{wrong}") == []


async def test_a_hundred_first_messages_at_once_make_one_record(hospital: Hospital) -> None:
    person = Person(nhs(), unique("L"))
    messages = [person.message() for _ in range(20)]
    assert {status for status, _ in await asyncio.gather(*(end(hospital, message) for message in messages))} == {
        "applied"
    }
    records = await hospital.database.fetchval(
        "SELECT count(DISTINCT patient_id) FROM patient_identifier WHERE value = ANY($1)",
        [person.number, person.local],
    )
    assert records == 1


async def test_a_message_about_two_people_at_once_never_mixes_them(hospital: Hospital) -> None:
    """Many patients, each with many messages, all at once: every result is in its own record."""
    numbers = [nhs() for _ in range(5)]
    await asyncio.gather(*(end(hospital, Person(number).message()) for number in numbers))
    orders = [(number, unique("R")) for number in numbers for _ in range(8)]
    await asyncio.gather(*(hospital.accepted(load.report(number, order)) for number, order in orders))
    for number in numbers:
        patient = (await hospital.patient(number))["id"]
        reports = await hospital.search(f"DiagnosticReport?patient={patient}&_count=100")
        fillers = {identifier["value"] for report in reports for identifier in report["identifier"]}
        expected = {f"{letter}{order}" for owner, order in orders if owner == number for letter in "FP"}
        assert fillers == expected


async def test_two_patients_in_one_message_are_refused(hospital: Hospital) -> None:
    one, two = await hospital.registered(), await hospital.registered()
    raw = load.report(one, unique("R")).decode() + load.report(two, unique("R")).decode().split("\r", 1)[1]
    reply = await hospital.post(raw.encode())
    assert reply.code == "AR"
    assert b"PID[2]" in reply.body


@pytest.mark.parametrize("authority", ["CHI", "HCN"])
async def test_a_number_that_only_claims_to_be_national_is_local(
    hospital: Hospital, new_hospital: NewHospital, authority: str
) -> None:
    claimed = unique("X")
    one, two = Person(nhs()), Person(nhs(), born="19900909", family="Other")

    def with_claim(person: Person) -> str:
        return person.message().replace("^NHS^NH|", f"^NHS^NH~{claimed}^^^{authority}^MR|")

    other = await new_hospital()
    assert (await end(hospital, with_claim(one)))[0] == "applied"
    assert (await end(other, with_claim(two)))[0] == "applied"
    assert await other.search(f"Patient?identifier=https://fhir.nhs.uk/Id/nhs-number|{one.number}") == []


@pytest.mark.parametrize(
    "stranger", [Person(born=""), Person(born="1970"), Person(family="Other"), Person(born="19700102")]
)
async def test_a_first_contact_must_know_more_than_the_number(
    hospital: Hospital, new_hospital: NewHospital, stranger: Person
) -> None:
    number = nhs()
    assert (await end(hospital, Person(number).message()))[0] == "applied"
    stranger.number = number
    other = await new_hospital()
    for event in ("A31", "A08"):
        assert (await end(other, stranger.message(event)))[0] == "held"
    assert await other.search(f"Patient?identifier={number}") == []


async def test_the_date_of_birth_cannot_be_worn_away(hospital: Hospital) -> None:
    person = Person(nhs())
    await end(hospital, person.message())
    assert (await end(hospital, Person(person.number, born="1970").message("A08", "20261102")))[0] == "applied"
    assert (await end(hospital, Person(person.number, born='""').message("A08", "20261103")))[0] == "applied"
    assert (await hospital.patient(person.number))["birthDate"] == "1970-01-01"
    assert (await end(hospital, Person(person.number, born="19701225").message("A08", "20261104")))[0] == "held"


async def test_an_unverified_number_of_somebody_else_does_not_make_a_patient_findable(hospital: Hospital) -> None:
    fox, fay = Person(nhs()), Person(nhs(), unique("L"))
    await end(hospital, fox.message())
    await end(hospital, fay.message())
    wrong = Person(fox.number, fay.local, status="02")
    assert (await end(hospital, wrong.message("A31", "20261102")))[0] == "applied"
    found = await hospital.search(f"Patient?identifier=https://fhir.nhs.uk/Id/nhs-number|{fox.number}")
    assert [patient["id"] for patient in found] == [(await hospital.patient(fox.number))["id"]]


async def test_another_nhs_number_makes_the_old_one_old(hospital: Hospital) -> None:
    person = Person(nhs(), unique("L"))
    await end(hospital, person.message())
    changed = Person(nhs(), person.local)
    assert (await end(hospital, changed.message("A31", "20261102")))[0] == "applied"
    patient = await hospital.patient(changed.number)
    uses = {identifier["value"]: identifier.get("use") for identifier in patient["identifier"]}
    assert (uses[person.number], uses[changed.number]) == ("old", "official")


async def test_authorities_that_look_alike_are_not_the_same(hospital: Hospital) -> None:
    local = unique("L")
    one, two = Person(nhs(), local), Person(nhs(), local, born="19800202", family="Other")
    assert (await end(hospital, one.message().replace("^^^T^MR", "^^^ST MARYS^MR")))[0] == "applied"
    assert (await end(hospital, two.message().replace("^^^T^MR", "^^^ST/MARYS^MR")))[0] == "applied"
    assert (await hospital.patient(one.number))["id"] != (await hospital.patient(two.number))["id"]


@pytest.mark.parametrize(
    ("kind", "segments", "resource"),
    [
        ("ADT^A01", "PV1|1|I|W||||||||||||||||{key}", "Encounter"),
        ("SIU^S12", "SCH|{key}||||||^Review||30|min|^^^20261201090000", "Appointment"),
        ("MDM^T02", "TXA|1|CN|TX|||||||||{key}|||||AU\nOBX|1|TX|||A letter", "DocumentReference"),
        ("ORM^O01", "ORC|NW|{key}\nOBR|1|{key}||T1^Test", "ServiceRequest"),
    ],
)
async def test_a_key_that_a_hospital_gives_to_two_patients_is_two_things(
    hospital: Hospital, kind: str, segments: str, resource: str
) -> None:
    """A visit, appointment, document or order number belongs to its patient: a slip in one never reaches another."""
    key = unique("K")
    people = [Person(nhs()), Person(nhs(), born="19800202", family="Other")]
    for person in people:
        await end(hospital, person.message())
        pid = person.message().split("\n")[2]
        message = f"MSH|^~\\&|S|T|||20261105||{kind}|{unique()}|P|2.5\n{pid}\n" + segments.replace("{key}", key)
        assert (await end(hospital, message))[0] == "applied"
    found = [
        await hospital.search(f"{resource}?patient={(await hospital.patient(person.number))['id']}")
        for person in people
    ]
    with_key = [[each["id"] for each in resources if key in str(each)] for resources in found]
    assert [len(each) for each in with_key] == [1, 1]
    assert with_key[0] != with_key[1]
