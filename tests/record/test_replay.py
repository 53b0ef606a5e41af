"""A record is what its messages say: rebuilt from them it equals the live one, and today's map can be tried on it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import asyncpg
from tests.conftest import Hospital, NewHospital, nhs, unique
from tests.record.people import Person, end, header


def preview(hospital: Hospital, *arguments: str) -> dict[str, Any]:
    """``carefolio message replay … --json``."""
    made: dict[str, Any] = json.loads(hospital.installation.cli("message", "replay", *arguments, "--json").stdout)
    return made


async def test_a_rebuilt_record_equals_the_live_one(new_hospital: NewHospital) -> None:
    """A life in messages, some late, some twice, some held first, with a join and a correction by a person."""
    hospital = await new_hospital("--allow", "127.0.0.0/8", "--set", "accept_merges=true")
    one, other = Person(nhs(), unique("L")), Person("", unique("L"))
    fillers = [unique("F") for _ in range(3)]
    visit = f"PV1|1|I|W^1^1||||||||||||||||{unique('V')}"
    await end(hospital, one.result(fillers[0], "90"))
    for person in (one, other):
        await end(hospital, person.message("A28", rest="AL1|1|DA|P^Penicillin\nAL1|2|DA|N^Nuts\nDG1|1||D1^Asthma"))
    messages = [
        one.message("A01", rest=visit),
        one.message("A31", "20261103090000", rest="AL1|1|DA|P^Penicillin"),
        one.message("A31", "20261029090000", rest="AL1|1|DA|X^Late news"),
        other.message("A01", "20261103090000", rest=visit),
        *(one.result(filler, str(value)) for filler in fillers for value in (120, 121)),
        one.result(fillers[1], "122", "C"),
        one.result(fillers[2], "", "R"),
        other.result(fillers[1], "50"),
        other.result(unique("F"), "51", rest="||||||||||||").replace("|F\n", "|F\n"),
        one.message("A03", "20261104090000", rest=visit),
        one.message("A31", "20261105090000", rest='AL1|1||""\nDG1|1||D2^Eczema'),
    ]
    random.Random(7).shuffle(messages)
    for message in messages[:8]:
        await end(hospital, message)
    merge = f"{header('ADT^A40')}EVN|A40|20261101\n{one.pid}\nMRG|{other.local}^^^T^MR"
    assert (await end(hospital, merge))[0] == "applied"
    for message in messages[8:]:
        await end(hospital, message)
    number = (await hospital.patient(one.number))["id"]
    (record,) = preview(hospital, "--patient", number)["records"]
    assert record["changed"] == []
    assert record["refused"] == {}
    assert record["messages"] >= len(messages)
    (join,) = json.loads(hospital.installation.cli("record", "joins", number, "--json").stdout)
    hospital.installation.cli("record", "undo", join["id"])
    assert preview(hospital, "--patient", number)["records"][0]["changed"] == []


async def test_every_shared_message_rebuilds_to_what_it_made(
    new_hospital: NewHospital, shared_messages: list[Path]
) -> None:
    hospital = await new_hospital("--allow", "127.0.0.0/8", "--set", "auto_create=true", "--set", "accept_merges=true")
    applied = []
    for file in shared_messages[::9]:
        reply = await hospital.post(file.read_bytes())
        if reply.status == 200 and reply.body.startswith(b"MSH") and reply.code == "AA":
            accepted = reply.ack.first("MSA")
            assert accepted is not None
            row = await hospital.settled(accepted.get(2))
            if row["status"] == "applied":
                applied.append(str(row["id"]))
    assert len(applied) > 10
    made = preview(hospital, *applied)
    assert [(r["changed"], r["refused"]) for r in made["records"] if r["changed"] or r["refused"]] == []


async def test_what_the_map_would_do_otherwise_is_shown_and_then_done(
    hospital: Hospital, database: asyncpg.Pool
) -> None:
    """An older map, played by changing what it wrote: one result otherwise, one never made, one too many."""
    person = Person(nhs())
    assert (await end(hospital, person.message("A28")))[0] == "applied"
    for filler, value in (("F1", "120"), ("F2", "130")):
        assert (await end(hospital, person.result(unique(filler), value)))[0] == "applied"
    number = (await hospital.patient(person.number))["id"]
    first, second = sorted((await hospital.search(f"Observation?patient={number}")), key=str)
    await database.execute(
        "UPDATE resource SET content = replace(content, $2, '99'), digest = '' WHERE id = $1",
        first["id"],
        str(first["valueQuantity"]["value"]),
    )
    await database.execute("DELETE FROM resource WHERE id = $1", second["id"])
    await database.execute(
        """
        INSERT INTO resource (id, type, version, last_updated, patient_id, organisations, seq, source_time, digest,
                              content, keys)
        SELECT gen_random_uuid(), 'Basic', 1, now(), patient_id, organisations, 0, now(), '',
               '{"resourceType":"Basic"}', '{}' FROM resource WHERE id = $1
        """,
        first["id"],
    )
    made = preview(hospital, "--patient", number)["records"][0]["changed"]
    assert sorted(change["change"] for change in made) == ["changed", "gone", "new"]
    (changed,) = [change for change in made if change["change"] == "changed"]
    assert changed["elements"] == [["Observation.valueQuantity.value", 99, first["valueQuantity"]["value"]]]
    assert preview(hospital, "--patient", number)["records"][0]["changed"] == made
    printed = hospital.installation.cli("message", "replay", "--patient", number).stdout
    assert f"Observation/{first['id']} changed" in printed
    assert "nothing was changed" in printed
    done = preview(hospital, "--patient", number, "--apply")
    assert done["records"][0]["written"] == 3
    assert preview(hospital, "--patient", number)["records"][0]["changed"] == []
    assert len(await hospital.search(f"Observation?patient={number}")) == 2
    assert (await hospital.search(f"Observation?patient={number}&_id={first['id']}"))[0]["meta"]["versionId"] == "2"


async def test_a_message_that_is_held_is_tried_without_a_trace(hospital: Hospital, database: asyncpg.Pool) -> None:
    person = Person(nhs())
    row = await hospital.accepted(person.result(unique("F"), "120"))
    before = await database.fetchrow("SELECT * FROM message WHERE id = $1", row["id"])
    (tried,) = preview(hospital, str(row["id"]))["messages"]
    assert (tried["before"], tried["status"], tried["reason"]) == ("held", "held", "the patient is not known here")
    assert await database.fetchrow("SELECT * FROM message WHERE id = $1", row["id"]) == before


async def test_the_life_of_a_message(hospital: Hospital, database: asyncpg.Pool) -> None:
    person = Person(nhs())
    row = await hospital.accepted(person.result(unique("F"), "120"))
    assert (await end(hospital, person.message("A28")))[0] == "applied"
    assert await hospital.settled(row["control_id"])
    for _ in range(100):
        shown = json.loads(hospital.installation.cli("message", "show", str(row["id"]), "--json").stdout)
        if shown["status"] == "applied":
            break
    assert [event["status"] for event in shown["life"]] == ["received", "held", "released", "applied"]
    assert shown["life"][0]["acknowledged"] == "AA"
    assert all(event["at"] for event in shown["life"])
    assert {resource["type"] for resource in shown["resources"]} >= {"Observation", "DiagnosticReport"}


async def test_a_rebuild_does_not_ask_again_what_was_answered_then(new_hospital: NewHospital) -> None:
    """An e-mail address that is another's by now, an authority that has another name by now: nothing is lost."""
    hospital = await new_hospital()
    address = f"{unique('p')}@example.org"
    one, other = Person(nhs(), unique("L")), Person(nhs(), family="Other")

    def with_mail(person: Person, mail: str, time: str, rest: str = "") -> str:
        return person.message("A31", time, rest).replace(person.pid, f"{person.pid}||^NET^^{mail}")

    assert (await end(hospital, with_mail(one, address, "20261101", "AL1|1|DA|P^Penicillin")))[0] == "applied"
    assert (await end(hospital, with_mail(one, f"x{address}", "20261102")))[0] == "applied"
    assert (await end(hospital, with_mail(other, address, "20261101")))[0] == "applied"
    hospital.installation.cli("sender", "set", f"feed {hospital.ods_code}", "authorities.T=https://example.nhs.uk/Id/t")
    number = (await hospital.patient(one.number))["id"]
    (record,) = preview(hospital, "--patient", number)["records"]
    assert record["refused"] == {}
    assert {change["resource"] for change in record["changed"]} <= {f"Patient/{number}"}
    # The number finds its record as before.
    assert (await end(hospital, Person("", one.local).result(unique("F"), "120")))[0] == "applied"


async def test_what_is_given_to_another_record_stays_its_teams(new_hospital: NewHospital, pool: asyncpg.Pool) -> None:
    """A moved result is its team's contribution in the right record too, and the team sees whose it is."""
    hospital = await new_hospital()
    hospital.installation.cli("team", "add", "Renal", "--organisation", hospital.ods_code)
    team = await pool.fetchval("SELECT team.id FROM team JOIN organisation o ON o.id = organisation_id"
                               " WHERE ods_code = $1", hospital.ods_code)  # fmt: skip
    wrong, right = Person(number=nhs()), Person(number=nhs())
    await hospital.accepted(wrong.message("A28"))
    await hospital.accepted(right.message("A28"))
    row = await hospital.accepted(wrong.result(unique("F"), "141"))
    await pool.execute("UPDATE message SET team_id = $2 WHERE id = $1", row["id"], team)
    await pool.execute("UPDATE resource SET team_id = $2 WHERE message_id = $1", row["id"], team)
    to = (await hospital.patient(right.number))["id"]
    hospital.installation.cli("message", "move", str(row["id"]), "--to", to)
    [found] = await pool.fetch("SELECT team_id FROM resource WHERE patient_id = $1::uuid AND type = 'Observation'", to)
    assert found["team_id"] == team
    assert await pool.fetchval(
        "SELECT contributed FROM sharing WHERE record_id = $1::uuid AND grantee = $2 AND ended_at IS NULL", to, team
    )
