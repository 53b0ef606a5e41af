"""What replaces, what deletes, what waits, and what is private (domain rules A4, A5, A6, A8)."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.conftest import Hospital, NewHospital, nhs, unique
from tests.record.people import Person, end

ALLERGIES = "AL1|1|DA|P^Penicillin\nAL1|2|DA|N^Nuts"


async def listed(hospital: Hospital, person: Person, kind: str) -> set[str]:
    """The texts of what a person's record holds of a type."""
    number = (await hospital.patient(person.number))["id"]
    element = "medicationCodeableConcept" if kind == "MedicationStatement" else "code"
    return {found[element]["text"] for found in await hospital.search(f"{kind}?patient={number}")}


@pytest.mark.parametrize(
    ("kind", "first", "second", "left", "emptied"),
    [
        ("AllergyIntolerance", ALLERGIES, "AL1|1|DA|N^Nuts", {"Nuts"}, 'AL1|1||""'),
        ("Condition", "DG1|1||A^Asthma\nDG1|2||B^Eczema", "DG1|1||B^Eczema", {"Eczema"}, 'DG1|1||""'),
        (
            "MedicationStatement",
            "ZRX|^twice a day^^20260101|M1^Aspirin\nZRX||M2^Statin",
            "ZRX||M2^Statin",
            {"Statin"},
            'ZRX||""',
        ),
    ],
)
async def test_a_set_replaces_what_the_organisation_sent_before(
    hospital: Hospital, new_hospital: NewHospital, kind: str, first: str, second: str, left: set[str], emptied: str
) -> None:
    person = Person(nhs())
    assert (await end(hospital, person.message("A28", rest=first)))[0] == "applied"
    assert len(await listed(hospital, person, kind)) == 2
    other = await new_hospital()
    assert (await end(other, person.message("A31", rest=first)))[0] == "applied"
    assert (await end(hospital, person.message("A31", rest=second)))[0] == "applied"
    assert await listed(hospital, person, kind) == left
    assert len(await listed(other, person, kind)) == 2
    # A message without such segments says nothing of the set; the null empties it.
    assert (await end(hospital, person.message("A31")))[0] == "applied"
    assert await listed(hospital, person, kind) == left
    assert (await end(hospital, person.message("A31", rest=emptied)))[0] == "applied"
    assert await listed(hospital, person, kind) == set()
    assert (await end(hospital, person.message("A31", rest=first)))[0] == "applied"
    assert len(await listed(hospital, person, kind)) == 2


async def test_what_comes_back_after_its_deletion_goes_on_counting_versions(hospital: Hospital) -> None:
    person = Person(nhs())
    for rest in (ALLERGIES, 'AL1|1||""', ALLERGIES):
        assert (await end(hospital, person.message("A31", rest=rest)))[0] == "applied"
    number = (await hospital.patient(person.number))["id"]
    assert {a["meta"]["versionId"] for a in await hospital.search(f"AllergyIntolerance?patient={number}")} == {"3"}


async def test_a_sender_may_choose_to_update_item_by_item(new_hospital: NewHospital) -> None:
    hospital = await new_hospital("--allow", "127.0.0.0/8", "--set", "replace_sets=false")
    person = Person(nhs())
    assert (await end(hospital, person.message("A28", rest=ALLERGIES)))[0] == "applied"
    assert (await end(hospital, person.message("A31", rest="AL1|1|DA|N^Nuts")))[0] == "applied"
    assert await listed(hospital, person, "AllergyIntolerance") == {"Penicillin", "Nuts"}


async def test_a_deleted_report_takes_its_results_along(hospital: Hospital, new_hospital: NewHospital) -> None:
    person, filler = Person(nhs()), unique("F")
    assert (await end(hospital, person.message("A28")))[0] == "applied"
    more = "\nOBX|2|NM|WBC^White cells^LOCAL||6|10*9/L|||||F"
    assert (await end(hospital, person.result(filler, "120") + more))[0] == "applied"
    assert (await end(hospital, person.result(filler, "120", "R")))[0] == "applied"
    number = (await hospital.patient(person.number))["id"]
    for kind in ("DiagnosticReport", "Observation"):
        found = await hospital.search(f"{kind}?patient={number}")
        assert {each["status"] for each in found} == {"entered-in-error"}
    # Where that was agreed R means what table 0123 says: stored, not yet verified.
    other = await new_hospital("--allow", "127.0.0.0/8", "--set", "r_deletes=false")
    person = Person(nhs())
    assert (await end(other, person.message("A28")))[0] == "applied"
    assert (await end(other, person.result(filler, "120", "R")))[0] == "applied"
    number = (await other.patient(person.number))["id"]
    assert [r["status"] for r in await other.search(f"DiagnosticReport?patient={number}")] == ["preliminary"]


async def test_a_delayed_result_says_from_when_the_patient_may_see_it(hospital: Hospital) -> None:
    person = Person(nhs())
    assert (await end(hospital, person.message("A28")))[0] == "applied"
    assert (await end(hospital, person.result(unique("F"), "120") + "||14"))[0] == "applied"
    rows = await hospital.database.fetch(
        "SELECT available_from FROM resource WHERE patient_id::text = $1 AND type ~ 'Observation|Report'",
        (await hospital.patient(person.number))["id"],
    )
    # OBR-7 is 1 November 2026, 08:00 in London.
    assert {row["available_from"] for row in rows} == {datetime(2026, 11, 15, 8, tzinfo=UTC)}
    number = (await hospital.patient(person.number))["id"]
    (observation,) = await hospital.search(f"Observation?patient={number}")
    assert observation["extension"][0]["valueDateTime"] == "2026-11-15T08:00:00Z"


@pytest.mark.parametrize(("specialty", "label"), [("710", "mental-health"), ("360", "sexual-health"), ("100", None)])
async def test_the_specialty_labels_what_it_sends(hospital: Hospital, specialty: str, label: str | None) -> None:
    person, filler = Person(nhs()), unique("F")
    assert (await end(hospital, person.message("A28")))[0] == "applied"
    visit = f"PV1|1|O||||||||{specialty}"
    labelled = person.result(filler, "120").replace(person.pid, f"{person.pid}\n{visit}")
    assert (await end(hospital, labelled))[0] == "applied"
    # A correction that names no specialty takes no protection away.
    assert (await end(hospital, person.result(filler, "121", "C")))[0] == "applied"
    number = (await hospital.patient(person.number))["id"]
    (observation,) = await hospital.search(f"Observation?patient={number}")
    assert observation["status"] == "corrected"
    security = observation["meta"].get("security", [{}])
    assert security[0].get("code") == label


async def test_an_e_mail_address_is_on_one_record_only(hospital: Hospital) -> None:
    address = f"{unique('p')}@example.org"
    one, other = Person(nhs()), Person(nhs(), family="Other")

    def with_mail(person: Person, mail: str) -> str:
        return person.message("A31").replace(person.pid, f"{person.pid}||^NET^^{mail}")

    assert (await end(hospital, with_mail(one, address)))[0] == "applied"
    assert (await end(hospital, with_mail(other, address.upper()))) == (
        "held",
        "the e-mail address is on another record (PID-13, PID-14)",
    )
    # Given up by the first, it is free.
    assert (await end(hospital, with_mail(one, f"new-{address}")))[0] == "applied"
    assert (await end(hospital, with_mail(other, address)))[0] == "applied"


def codes(hospital: Hospital, *options: str) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = json.loads(
        hospital.installation.cli("code", "list", "--organisation", hospital.ods_code, *options, "--json").stdout
    )
    return made


async def test_a_code_of_the_senders_own_is_work_and_once_solved_maps_what_came_before(
    new_hospital: NewHospital,
) -> None:
    hospital = await new_hospital()
    person = Person(nhs())
    assert (await end(hospital, person.message("A28")))[0] == "applied"
    assert (await end(hospital, person.result(unique("F"), "120")))[0] == "applied"
    waiting = {row["code"]: row for row in codes(hospital)}
    assert set(waiting) == {"B", "HB"}
    own = f"{waiting['HB']['system']}|HB"
    solved = ("http://snomed.info/sct|1022431000000105", "--display", "Haemoglobin estimation")
    where = ("--organisation", hospital.ods_code)
    done = json.loads(hospital.installation.cli("code", "solve", own, *solved, *where, "--json").stdout)
    assert done == {"records": 1, "resources": 1}
    number = (await hospital.patient(person.number))["id"]
    before = {"system": "http://snomed.info/sct", "code": "1022431000000105", "display": "Haemoglobin estimation"}
    (observation,) = await hospital.search(f"Observation?patient={number}")
    assert observation["code"]["coding"][0] == before
    assert (await end(hospital, person.result(unique("F"), "121")))[0] == "applied"
    found = await hospital.search(f"Observation?patient={number}&code=http://snomed.info/sct|1022431000000105")
    assert len(found) == 2
    assert [row["code"] for row in codes(hospital)] == ["B"]
    assert [row["solved_by"].split("/")[0] for row in codes(hospital, "--solved")] == ["administrator"]
    refused = hospital.installation.cli("code", "solve", "x|NO", "http://loinc.org|1", *where, check=False)
    assert "has sent no such code" in refused.stderr


async def test_what_was_agreed_with_a_sender_shapes_its_messages(new_hospital: NewHospital) -> None:
    hospital = await new_hospital()
    name = f"feed {hospital.ods_code}"
    cli = hospital.installation.cli
    changed = json.loads(
        cli(
            "sender", "set", name, "authorities.T=https://fhir.example.nhs.uk/Id/hospital-number",
            "zone=America/New_York", "character_set=8859/1", "z_fields.ZPI-2=ward-code", "--json",
        ).stdout
    )  # fmt: skip
    assert changed["version"] == 1
    person = Person(nhs(), unique("L"), family="Müller")
    message = person.message("A28", rest="ZPI|1|W12").encode("iso8859-1")
    # Credentials, with what belongs to them, are remembered for a minute at the door; ingest reads them afresh.
    assert (await end(hospital, message))[0] == "applied"  # type: ignore[arg-type]
    patient = await hospital.patient(person.number)
    assert patient["name"][0]["family"] == "Müller"
    assert ("https://fhir.example.nhs.uk/Id/hospital-number", person.local) in {
        (i.get("system"), i["value"]) for i in patient["identifier"]
    }
    named = f"https://fhir.carefolio.uk/{hospital.ods_code}/ward-code"
    assert {"url": named, "valueString": "W12"} in patient["extension"]
    assert (await end(hospital, person.result(unique("F"), "120")))[0] == "applied"
    (observation,) = await hospital.search(f"Observation?patient={patient['id']}")
    assert observation["effectiveDateTime"] == "2026-11-01T08:00:00-05:00"
    cli("sender", "set", name, "authorities.T=", "accept_merges=true")
    shown = json.loads(cli("sender", "show", name, "--json").stdout)
    assert (shown["version"], shown["settings"]["authorities"]) == (2, {})
    assert [version["version"] for version in shown["history"]] == [2, 1]
    assert await hospital.database.fetchval(
        "SELECT count(*) FROM audit WHERE action = 'change-sender' AND query LIKE $1", f"{name}%"
    ) == 2  # fmt: skip


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("nonsense=1", "not name=value"),
        ("zone=Mars/Olympus", "not a time zone"),
        ("accept_merges=yes", "true or false"),
        ("authorities.T=hospital", "must be an absolute URI"),
        ("z_fields.PID-2=x", "an entry that cannot be"),
        ("character_set=EBCDIC", "character_set"),
        ("authorities.T=https://fhir.nhs.uk/Id/nhs-number", "a national system"),
        ("authorities.T=https://fhir.carefolio.uk/Id/RX2/authority/T", "a national system"),
        ("zone=localtime", "not a time zone"),
        ("authorities=x", "give authorities.KEY=VALUE"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(hospital: Hospital, assignment: str, says: str) -> None:
    refused = hospital.installation.cli("sender", "set", f"feed {hospital.ods_code}", assignment, check=False)
    assert refused.returncode == 1
    assert says in refused.stderr
