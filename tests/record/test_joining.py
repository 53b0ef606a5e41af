"""Joins, links, renames and moves: nothing moves that should not, all that should is found, and it can be undone."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.conftest import Hospital, NewHospital, nhs, unique
from tests.record.people import Person, becomes, end, header


@pytest.fixture(scope="module")
async def merging(new_hospital: NewHospital) -> Hospital:
    return await new_hospital("--allow", "127.0.0.0/8", "--set", "accept_merges=true")


async def patient(hospital: Hospital, local: str) -> dict[str, Any]:
    found = await hospital.search(f"Patient?identifier={local}")
    assert len(found) == 1, found
    return found[0]


async def two_records(hospital: Hospital, **differs: str) -> tuple[Person, Person]:
    """One person, registered twice: with an NHS number, and without one."""
    one, other = Person(nhs(), unique("L")), Person("", unique("L"), **differs)
    for person, value in ((one, "140"), (other, "95")):
        assert (await end(hospital, person.message("A28")))[0] == "applied"
        assert (await end(hospital, person.result(unique("F"), value)))[0] == "applied"
    return one, other


def merge(event: str, survivor: Person, prior: Person, rest: str = "") -> str:
    return f"{header(f'ADT^{event}')}EVN|{event}|20261101\n{survivor.pid}\nMRG|{prior.local}^^^T^MR{rest}"


async def values(hospital: Hospital, number: str) -> set[str]:
    found = await hospital.search(f"Observation?patient={number}")
    return {str(observation["valueQuantity"]["value"]) for observation in found}


@pytest.mark.parametrize("event", ["A18", "A30", "A34", "A36", "A39", "A40"])
async def test_a_join_moves_nothing_and_both_numbers_find_all_of_the_person(merging: Hospital, event: str) -> None:
    one, other = await two_records(merging)
    first, second = await patient(merging, one.local), await patient(merging, other.local)
    assert await end(merging, merge(event, one, other)) == ("applied", None)
    surviving, replaced = await patient(merging, one.local), await patient(merging, other.local)
    assert (surviving["id"], replaced["id"]) == (first["id"], second["id"])
    assert surviving["link"] == [{"other": {"reference": f"Patient/{second['id']}"}, "type": "replaces"}]
    assert replaced["link"] == [{"other": {"reference": f"Patient/{first['id']}"}, "type": "replaced-by"}]
    assert (surviving["active"], replaced["active"]) == (True, False)
    for number in (first["id"], second["id"]):
        assert await values(merging, number) == {"140", "95"}
        everything = (await merging.get(f"Patient/{number}/$everything")).json
        kinds = [entry["resource"]["resourceType"] for entry in everything["entry"]]
        assert (kinds.count("Patient"), kinds.count("Observation")) == (2, 2)
    # What still comes with the old number goes where it always went, and does not wake the replaced record.
    assert (await end(merging, other.message("A31", "20261102090000")))[0] == "applied"
    assert (await patient(merging, other.local))["active"] is False


async def test_a_correction_with_the_new_number_corrects_the_result_of_the_old_one(merging: Hospital) -> None:
    one, other = await two_records(merging)
    filler = unique("F")
    assert (await end(merging, other.result(filler, "70")))[0] == "applied"
    assert (await end(merging, merge("A40", one, other)))[0] == "applied"
    assert (await end(merging, one.result(filler, "170", "C")))[0] == "applied"
    number = (await patient(merging, one.local))["id"]
    assert await values(merging, number) == {"140", "95", "170"}
    corrected = [o for o in await merging.search(f"Observation?patient={number}") if o["status"] == "corrected"]
    assert [o["subject"]["reference"] for o in corrected] == [f"Patient/{(await patient(merging, other.local))['id']}"]


async def test_a_message_with_both_numbers_is_the_surviving_records(merging: Hospital) -> None:
    one, other = await two_records(merging)
    assert (await end(merging, merge("A40", one, other)))[0] == "applied"
    both = Person(one.number, other.local)
    row = await merging.accepted(both.result(unique("F"), "150"))
    assert row["status"] == "applied"
    assert str(row["patient_id"]) == (await patient(merging, one.local))["id"]


async def test_a_join_is_undone_exactly(merging: Hospital) -> None:
    one, other = await two_records(merging)
    before = [await patient(merging, person.local) for person in (one, other)]
    assert (await end(merging, merge("A40", one, other)))[0] == "applied"
    joins = json.loads(merging.installation.cli("record", "joins", before[0]["id"], "--json").stdout)
    assert [join["undone_at"] for join in joins] == [None]
    merging.installation.cli("record", "undo", joins[0]["id"])
    after = [await patient(merging, person.local) for person in (one, other)]
    for was, now in zip(before, after, strict=True):
        # What the message says beside the join (its EVN) stays.
        for patient_then_and_now in (was, now):
            patient_then_and_now.pop("meta")
            patient_then_and_now.pop("extension", None)
        assert was == now
    assert await values(merging, before[0]["id"]) == {"140"}
    assert await values(merging, before[1]["id"]) == {"95"}
    again = merging.installation.cli("record", "undo", joins[0]["id"], check=False)
    assert "undone already" in again.stderr


async def test_undoing_the_middle_of_a_chain_parts_what_it_joined(merging: Hospital) -> None:
    people = [Person(nhs(), unique("L")), Person("", unique("L")), Person("", unique("L"))]
    for person in people:
        assert (await end(merging, person.message("A28")))[0] == "applied"
        assert (await end(merging, person.result(unique("F"), person.local[1:])))[0] == "applied"
    assert (await end(merging, merge("A40", people[1], people[2])))[0] == "applied"
    assert (await end(merging, merge("A40", people[0], people[1])))[0] == "applied"
    first = (await patient(merging, people[0].local))["id"]
    assert len(await values(merging, first)) == 3
    joins = json.loads(merging.installation.cli("record", "joins", first, "--json").stdout)
    merging.installation.cli("record", "undo", joins[0]["id"])
    assert len(await values(merging, first)) == 1
    assert len(await values(merging, (await patient(merging, people[2].local))["id"])) == 2


@pytest.mark.parametrize(
    ("differs", "reason"),
    [
        ({"born": "19800202"}, "same full date of birth"),
        ({"born": ""}, "same full date of birth"),
        ({"family": "Other"}, "family name in common"),
    ],
)
async def test_what_speaks_against_a_join_is_held_for_a_person(
    merging: Hospital, differs: dict[str, str], reason: str
) -> None:
    one, other = await two_records(merging, **differs)
    row = await merging.accepted(merge("A40", one, other))
    assert row["status"] == "held"
    assert reason in row["reason"]
    assert await values(merging, (await patient(merging, one.local))["id"]) == {"140"}
    assert "link" not in await patient(merging, one.local)
    merging.installation.cli("message", "approve", str(row["id"]))
    await becomes(merging, row["id"], "applied")
    assert await values(merging, (await patient(merging, one.local))["id"]) == {"140", "95"}


async def test_two_nhs_numbers_are_two_people(merging: Hospital) -> None:
    one, other = Person(nhs(), unique("L")), Person(nhs(), unique("L"))
    for person in (one, other):
        assert (await end(merging, person.message("A28")))[0] == "applied"
    row = await merging.accepted(merge("A40", one, other))
    assert (row["status"], row["reason"]) == ("held", "the records to be joined have different national numbers")
    merging.installation.cli("message", "reject", str(row["id"]))
    # The same question is not asked again.
    assert (await end(merging, merge("A40", one, other)))[0] == "rejected"


async def test_an_organisation_joins_only_what_it_contributes_to(merging: Hospital, hospital: Hospital) -> None:
    one = Person(nhs(), unique("L"))
    assert (await end(merging, one.message("A28")))[0] == "applied"
    stranger = Person(nhs(), unique("L"))
    assert (await end(hospital, stranger.message("A28")))[0] == "applied"
    row = await merging.accepted(f"{header('ADT^A40')}EVN|A40|20261101\n{one.pid}\nMRG|{stranger.number}^^^NHS^NH")
    assert (row["status"], row["reason"]) == (
        "held",
        "the organisation has not contributed to both of the records to be joined",
    )


async def test_without_the_switch_every_join_waits_for_a_person(hospital: Hospital) -> None:
    one, other = await two_records(hospital)
    row = await hospital.accepted(merge("A40", one, other))
    assert row["status"] == "held"
    assert "accept_merges is off" in row["reason"]
    hospital.installation.cli("message", "approve", str(row["id"]))
    await becomes(hospital, row["id"], "applied")
    assert await values(hospital, (await patient(hospital, one.local))["id"]) == {"140", "95"}


async def test_an_unknown_old_number_leads_to_the_surviving_record(merging: Hospital) -> None:
    one, old = Person(nhs(), unique("L")), Person("", unique("L"))
    assert (await end(merging, one.message("A28")))[0] == "applied"
    assert (await end(merging, merge("A40", one, old)))[0] == "applied"
    found = await patient(merging, old.local)
    assert found["id"] == (await patient(merging, one.local))["id"]
    assert {i["value"]: i.get("use") for i in found["identifier"]}[old.local] == "old"
    assert (await end(merging, old.result(unique("F"), "120")))[0] == "applied"


@pytest.mark.parametrize("event", ["A46", "A47", "A48"])
async def test_a_changed_identifier_is_the_same_record(merging: Hospital, event: str) -> None:
    old, new = Person("", unique("L")), Person("", unique("L"))
    assert (await end(merging, old.message("A28")))[0] == "applied"
    before = await patient(merging, old.local)
    assert (await end(merging, merge(event, new, old)))[0] == "applied"
    after = await patient(merging, new.local)
    assert after["id"] == before["id"]
    assert {i["value"]: i.get("use") for i in after["identifier"]}[old.local] == "old"
    assert (await end(merging, merge(event, Person(nhs()), new)))[0] == "applied"


async def test_an_identifier_that_is_another_records_is_not_taken(merging: Hospital) -> None:
    one, other = await two_records(merging)
    assert await end(merging, merge("A47", one, other)) == (
        "held",
        "the new identifier is another record's already (PID-3)",
    )


async def test_a_link_and_its_end(merging: Hospital) -> None:
    one, other = await two_records(merging)
    pair = f"EVN||20261101\n{one.pid}\n{other.pid}"
    assert await end(merging, header("ADT^A24") + pair) == ("applied", None)
    first, second = await patient(merging, one.local), await patient(merging, other.local)
    assert [p["link"][0]["type"] for p in (first, second)] == ["seealso", "seealso"]
    assert (first["active"], second["active"]) == (True, True)
    assert await values(merging, second["id"]) == {"140", "95"}
    assert await end(merging, header("ADT^A37") + pair) == ("applied", None)
    assert "link" not in await patient(merging, one.local)
    assert await values(merging, second["id"]) == {"95"}
    # It takes back links, not merges.
    assert (await end(merging, merge("A40", one, other)))[0] == "applied"
    assert (await end(merging, header("ADT^A37") + pair))[0] == "held"


async def test_several_joins_in_one_message_are_all_or_nothing(merging: Hospital) -> None:
    one, other = await two_records(merging)
    third, fourth = await two_records(merging, born="19800202")
    both = (
        f"{header('ADT^A40')}EVN|A40|20261101\n"
        f"{one.pid}\nMRG|{other.local}^^^T^MR\n{third.pid}\nMRG|{fourth.local}^^^T^MR"
    )
    assert (await end(merging, both))[0] == "held"
    assert "link" not in await patient(merging, one.local)


async def test_a_bed_swap_moves_both_patients(hospital: Hospital) -> None:
    people = [Person(nhs()), Person(nhs())]
    visits = [unique("V"), unique("V")]
    beds = ["W^1^1", "W^1^2"]
    for person, visit, bed in zip(people, visits, beds, strict=True):
        assert (await end(hospital, person.message("A28")))[0] == "applied"
        stay = f"PV1|1|I|{bed}{'|' * 16}{visit}"
        assert (await end(hospital, person.message("A01", rest=stay)))[0] == "applied"
    swapped = header("ADT^A17", "20261102090000") + "EVN|A17|20261102090000"
    for person, visit, bed in zip(people, visits, reversed(beds), strict=True):
        swapped += f"\n{person.pid}\nPV1|1|I|{bed}{'|' * 16}{visit}"
    assert (await end(hospital, swapped))[0] == "applied"
    for person in people:
        (visit,) = await hospital.search(
            f"Encounter?patient={(await hospital.patient(person.number))['id']}&status=in-progress"
        )
        assert len({stay["location"]["reference"] for stay in visit["location"]}) == 2


def stay(visit: str) -> str:
    return f"PV1|1|I|W^1^1{'|' * 16}{visit}"


async def visits(hospital: Hospital, number: str) -> dict[str, str]:
    """Every number of every visit, and the visit's id."""
    found = await hospital.search(f"Encounter?patient={number}")
    return {i["value"]: e["id"] for e in found for i in e["identifier"] if e["status"] != "entered-in-error"}


async def test_a_visit_gets_another_number(merging: Hospital) -> None:
    person, old, new = Person(nhs()), unique("V"), unique("V")
    assert (await end(merging, person.message("A28", rest=stay(old))))[0] == "applied"
    assert (await end(merging, person.message("A01", rest=stay(old))))[0] == "applied"
    number = (await merging.patient(person.number))["id"]
    before = (await visits(merging, number))[old]
    renamed = f"{header('ADT^A50')}EVN|A50|20261101\n{person.pid}\nMRG|X||||{old}\n{stay(new)}"
    assert (await end(merging, renamed))[0] == "applied"
    assert (await end(merging, person.message("A03", rest=stay(new))))[0] == "applied"
    assert await visits(merging, number) == {old: before, new: before}
    (visit,) = await merging.search(f"Encounter?patient={number}")
    assert visit["status"] == "finished"


async def test_two_visits_become_one(merging: Hospital) -> None:
    person, old, new = Person(nhs()), unique("V"), unique("V")
    assert (await end(merging, person.message("A28", rest=stay(old))))[0] == "applied"
    for visit in (old, new):
        assert (await end(merging, person.message("A01", rest=stay(visit))))[0] == "applied"
    number = (await merging.patient(person.number))["id"]
    before = await visits(merging, number)
    joined = f"{header('ADT^A42')}EVN|A42|20261101\n{person.pid}\nMRG|X||||{old}\n{stay(new)}"
    assert (await end(merging, joined))[0] == "applied"
    assert (await end(merging, person.message("A08", rest=stay(old))))[0] == "applied"
    assert set((await visits(merging, number)).values()) == {before[new]}
    (retired,) = await merging.search(f"Encounter?patient={number}&status=entered-in-error")
    assert (retired["id"], retired["partOf"]["reference"]) == (before[old], f"Encounter/{before[new]}")


@pytest.mark.parametrize("event", ["A35", "A41", "A49"])
async def test_an_account_number_changes(hospital: Hospital, event: str) -> None:
    person, old, new = Person(nhs()), unique("A"), unique("A")
    pid = person.pid + "|" * 7
    assert (await end(hospital, person.message("A28").replace(person.pid, pid + old)))[0] == "applied"
    changed = f"{header(f'ADT^{event}')}EVN|{event}|20261101\n{pid}{new}\nMRG|X^^^T^MR||{old}"
    assert (await end(hospital, changed))[0] == "applied"
    uses = {i["value"]: i.get("use") for i in (await hospital.patient(person.number))["identifier"]}
    assert (uses[old], uses[new]) == ("old", None)


@pytest.mark.parametrize("event", ["A43", "A44", "A45"])
async def test_what_was_sent_for_the_wrong_patient_moves_to_the_right_one(merging: Hospital, event: str) -> None:
    right = Person(nhs(), unique("L"))
    wrong = Person(nhs(), unique("L"), family="Other", born="19800202")
    extra, visit, account = unique("L"), unique("V"), unique("A")
    for person in (right, wrong):
        assert (await end(merging, person.message("A28")))[0] == "applied"
    mistaken = Person("", extra if event == "A43" else wrong.local, wrong.family, born=wrong.born)
    if event == "A43":
        both = Person(wrong.number, extra, wrong.family, born=wrong.born)
        assert (await end(merging, both.message("A31")))[0] == "applied"
    pid = mistaken.pid + "|" * 7 + account
    sent = mistaken.message("A01", rest=stay(visit)).replace(mistaken.pid, pid)
    assert (await end(merging, sent))[0] == "applied"
    result = mistaken.result(unique("F"), "66").replace(mistaken.pid, pid + "\n" + stay(visit))
    assert (await end(merging, result))[0] == "applied"
    kept = unique("F")
    assert (await end(merging, wrong.result(kept, "99")))[0] == "applied"
    moved = (
        f"{header(f'ADT^{event}')}EVN|{event}|20261101\n{right.pid}\n"
        + {
            "A43": f"MRG|{extra}^^^T^MR",
            "A44": f"MRG|{wrong.local}^^^T^MR||{account}",
            "A45": f"MRG|{wrong.local}^^^T^MR||||{visit}\n{stay(visit)}",
        }[event]
    )
    first, second = await merging.patient(right.number), await merging.patient(wrong.number)
    assert await end(merging, moved) == ("applied", None)
    assert "66" in await values(merging, first["id"])
    assert await values(merging, second["id"]) == {"99"}
    assert visit in await visits(merging, first["id"])
    assert visit not in await visits(merging, second["id"])
    # Who they are is not mixed up by what was sent for the wrong one.
    now = await merging.patient(right.number)
    assert (now["name"], now["birthDate"]) == (first["name"], first["birthDate"])
    assert (await merging.patient(wrong.number))["name"] == second["name"]
    # A rebuild of either changes nothing more.
    for number in (first["id"], second["id"]):
        made = json.loads(merging.installation.cli("message", "replay", "--patient", number, "--json").stdout)
        assert made["records"][0]["changed"] == []


async def test_a_person_gives_messages_to_the_record_that_they_belong_to(hospital: Hospital) -> None:
    right, wrong = Person(nhs()), Person(nhs(), family="Other")
    for person in (right, wrong):
        assert (await end(hospital, person.message("A28")))[0] == "applied"
    row = await hospital.accepted(wrong.result(unique("F"), "66"))
    first, second = await hospital.patient(right.number), await hospital.patient(wrong.number)
    hospital.installation.cli("message", "move", str(row["id"]), "--to", first["id"])
    assert (await values(hospital, first["id"]), await values(hospital, second["id"])) == ({"66"}, set())
    hospital.installation.cli("message", "move", str(row["id"]), "--to", second["id"])
    assert (await values(hospital, first["id"]), await values(hospital, second["id"])) == (set(), {"66"})
    refused = hospital.installation.cli("message", "move", str(row["id"]), "--to", second["id"], check=False)
    assert "already" in refused.stderr


async def test_a_move_that_is_held_has_moved_nothing(merging: Hospital) -> None:
    right, wrong = Person("", unique("L")), Person("", unique("L"), family="Other")
    visit = unique("V")
    for person in (right, wrong):
        assert (await end(merging, person.message("A28")))[0] == "applied"
    assert (await end(merging, wrong.message("A01", rest=stay(visit))))[0] == "applied"
    doubtful = Person("", right.local, right.family, born="19330303")
    rest = f"MRG|{wrong.local}^^^T^MR||||{visit}\n{stay(visit)}"
    row = await merging.accepted(f"{header('ADT^A45')}EVN|A45|20261101\n{doubtful.pid}\n{rest}")
    assert (row["status"], row["reason"]) == ("held", "the date of birth differs from the record's (PID-7)")
    assert visit in await visits(merging, (await patient(merging, wrong.local))["id"])
    assert visit not in await visits(merging, (await patient(merging, right.local))["id"])


async def test_yes_to_one_question_is_no_answer_to_another(hospital: Hospital) -> None:
    """The switch is off, and the records have two NHS numbers: a person must say yes to both."""
    one, other = Person(nhs(), unique("L")), Person(nhs(), unique("L"))
    for person in (one, other):
        assert (await end(hospital, person.message("A28")))[0] == "applied"
    row = await hospital.accepted(merge("A40", one, other))
    hospital.installation.cli("message", "approve", str(row["id"]))
    for _ in range(100):
        row = await hospital.database.fetchrow("SELECT * FROM message WHERE id = $1", row["id"])
        if row["status"] == "held":
            break
    assert row["reason"] == "the records to be joined have different national numbers"


async def test_a_join_mixes_no_allergies_and_its_end_leaves_both_lists_whole(merging: Hospital) -> None:
    one, other = Person(nhs(), unique("L")), Person("", unique("L"))
    for person, allergies in ((one, ""), (other, "AL1|1|DA|PEN^Penicillin||rash\nAL1|2|DA|ASP^Aspirin")):
        assert (await end(merging, person.message("A28", rest=allergies)))[0] == "applied"
    assert (await end(merging, merge("A40", one, other)))[0] == "applied"
    severe = one.message("A31", "20261105090000", rest="AL1|1|DA|PEN^Penicillin||anaphylaxis")
    assert (await end(merging, severe))[0] == "applied"
    (join,) = json.loads(
        merging.installation.cli("record", "joins", (await patient(merging, one.local))["id"], "--json").stdout
    )
    merging.installation.cli("record", "undo", join["id"])
    for person, wanted in ((one, {"anaphylaxis"}), (other, {"rash", ""})):
        found = await merging.search(f"AllergyIntolerance?patient={(await patient(merging, person.local))['id']}")
        assert {
            a.get("reaction", [{"manifestation": [{"text": ""}]}])[0]["manifestation"][0]["text"] for a in found
        } == wanted


async def test_what_a_person_has_parted_is_not_joined_again_unasked(merging: Hospital) -> None:
    one, other = await two_records(merging)
    assert (await end(merging, merge("A40", one, other)))[0] == "applied"
    number = (await patient(merging, one.local))["id"]
    (join,) = json.loads(merging.installation.cli("record", "joins", number, "--json").stdout)
    merging.installation.cli("record", "undo", join["id"])
    assert await end(merging, merge("A40", one, other)) == ("held", "a person has parted these records before")


async def test_a_join_after_a_link_is_not_parted_by_the_links_end(merging: Hospital) -> None:
    one, other = await two_records(merging)
    pair = f"EVN||20261101\n{one.pid}\n{other.pid}"
    assert (await end(merging, header("ADT^A24") + pair))[0] == "applied"
    assert (await end(merging, merge("A40", one, other)))[0] == "applied"
    assert (await end(merging, header("ADT^A37") + pair))[0] == "held"
    assert (await patient(merging, other.local))["active"] is False


async def test_visits_of_two_joined_records_do_not_become_one(merging: Hospital) -> None:
    one, other = await two_records(merging)
    first, second = unique("V"), unique("V")
    for person, visit in ((one, first), (other, second)):
        assert (await end(merging, person.message("A01", rest=stay(visit))))[0] == "applied"
    assert (await end(merging, merge("A40", one, other)))[0] == "applied"
    joined = f"{header('ADT^A42')}EVN|A42|20261101\n{one.pid}\nMRG|{other.local}^^^T^MR||||{second}\n{stay(first)}"
    assert (await end(merging, joined))[0] == "held"


@pytest.mark.parametrize("event", ["A35", "A42", "A50"])
async def test_another_patients_number_is_not_shown_for_an_account_or_a_visit(merging: Hospital, event: str) -> None:
    one, other = await two_records(merging)
    rest = f"||A1||V1\n{stay(unique('V'))}"
    assert await end(merging, merge(event, one, other, rest)) == (
        "held",
        "the prior patient identifier is another patient's (MRG-1)",
    )


async def test_a_moved_registration_takes_no_allergies_along(merging: Hospital) -> None:
    right, wrong = Person(nhs()), Person(nhs(), unique("L"), family="Other")
    assert (await end(merging, right.message("A28")))[0] == "applied"
    assert (await end(merging, wrong.message("A28", rest="AL1|1|DA|P^Penicillin\nAL1|2|DA|N^Nuts")))[0] == "applied"
    row = await merging.accepted(wrong.message("A31", "20261105090000", rest="AL1|1|DA|P^Penicillin\nAL1|2|DA|E^Egg"))
    merging.installation.cli("message", "move", str(row["id"]), "--to", (await merging.patient(right.number))["id"])
    names = {}
    for person in (right, wrong):
        found = await merging.search(f"AllergyIntolerance?patient={(await merging.patient(person.number))['id']}")
        names[person.family] = {allergy["code"]["text"] for allergy in found}
    assert names == {"Fictional": {"Penicillin", "Egg"}, "Other": {"Penicillin", "Nuts"}}


async def test_a_join_cannot_be_moved(merging: Hospital) -> None:
    one, other = await two_records(merging)
    row = await merging.accepted(merge("A40", one, other))
    third = await merging.patient(await merging.registered())
    refused = merging.installation.cli("message", "move", str(row["id"]), "--to", third["id"], check=False)
    assert "cannot be moved" in refused.stderr


async def test_two_joined_numbers_at_once_make_one_result(merging: Hospital) -> None:
    one, other = await two_records(merging)
    assert (await end(merging, merge("A40", one, other)))[0] == "applied"
    number = (await patient(merging, one.local))["id"]
    for _ in range(4):
        filler = unique("F")
        messages = [person.result(filler, str(70 + at)) for at, person in enumerate((one, other, one, other))]
        await asyncio.gather(*(end(merging, message) for message in messages))
        found = await merging.search(f"DiagnosticReport?patient={number}&identifier={filler}")
        assert len(found) == 1


async def test_what_named_both_records_is_released_by_their_join(merging: Hospital) -> None:
    one, other = await two_records(merging)
    row = await merging.accepted(Person(one.number, other.local).result(unique("F"), "150"))
    assert (row["status"], row["reason"]) == ("held", "the identifiers point at two records")
    assert (await end(merging, merge("A40", one, other)))[0] == "applied"
    await becomes(merging, row["id"], "applied")
