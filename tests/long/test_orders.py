"""Random lives in messages, joins, moves and decisions: after every step a rebuilt record equals the live one."""

from __future__ import annotations

import random

import asyncpg
import pytest
from tests.conftest import NewHospital, nhs, unique
from tests.record.people import Person, header

from carefolio.record import decisions, moves
from carefolio.record.replay import rebuild_records

_SEEDS = 12
_STEPS = 24


def _stay(visit: str) -> str:
    return f"PV1|1|I|W^1^1{'|' * 16}{visit}"


def _message(chance: random.Random, people: list[Person], visits: list[str], fillers: list[str]) -> str:
    one, other = chance.sample(people, 2)
    visit, second = chance.sample(visits, 2)
    time = f"202610{chance.randrange(1, 29):02d}090000"
    event = chance.choice(
        ["A31", "A01", "A03", "A08", "ORU", "ORU", "ORU", "A40", "A24", "A37", "A42", "A50", "A43", "A45"]
    )
    if event == "ORU":
        status = chance.choice("FFCR")
        return one.result(chance.choice(fillers), str(chance.randrange(50, 150)), status)
    if event == "A31":
        return one.message(
            "A31", time, chance.choice(["AL1|1|DA|P^Penicillin", 'AL1|1||""', "DG1|1||D1^Asthma", "ZRX||M^A"])
        )
    if event in ("A01", "A03", "A08"):
        return one.message(event, time, _stay(visit))
    if event in ("A24", "A37"):
        return f"{header(f'ADT^{event}', time)}EVN|{event}|{time}\n{one.pid}\n{other.pid}"
    prior = {
        "A40": f"MRG|{other.local}^^^T^MR",
        "A43": f"MRG|{other.local}^^^T^MR",
        "A42": f"MRG|{one.local}^^^T^MR||||{second}\n{_stay(visit)}",
        "A50": f"MRG|{one.local}^^^T^MR||||{second}\n{_stay(visit)}",
        "A45": f"MRG|{other.local}^^^T^MR||||{visit}\n{_stay(visit)}",
    }[event]
    return f"{header(f'ADT^{event}', time)}EVN|{event}|{time}\n{one.pid}\n{prior}"


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(_SEEDS))
async def test_any_order_of_events_can_be_rebuilt(new_hospital: NewHospital, pool: asyncpg.Pool, seed: int) -> None:
    chance = random.Random(seed)
    first = await new_hospital("--allow", "127.0.0.0/8", "--set", "accept_merges=true")
    second = await new_hospital("--allow", "127.0.0.0/8", "--set", "accept_merges=true")
    people = [Person(nhs() if at < 2 else "", unique("L")) for at in range(4)]
    visits, fillers = [unique("V") for _ in range(3)], [unique("F") for _ in range(3)]
    for hospital in (first, second):
        for person in people:
            await hospital.accepted(person.message("A28"))
    applied: dict[object, object] = {}
    story = []
    for _ in range(_STEPS):
        if applied and chance.random() < 0.15:
            message = chance.choice(list(applied))
            target = chance.choice([number for number in applied.values() if number])
            try:
                await moves.give(pool, [message], target, "administrator/test")  # type: ignore[list-item, arg-type]
                story.append(f"move {message} to {target}")
            except decisions.DecisionError:
                continue
        elif chance.random() < 0.1 and (joins := [j for j in await decisions.joins(pool) if j["undone_at"] is None]):
            await decisions.undo(pool, chance.choice(joins[:3])["id"], "administrator/test")
            story.append("undo")
        else:
            text = _message(chance, people, visits, fillers)
            row = await chance.choice([first, second]).accepted(text)
            story.append(f"{text.split('|')[8]} {row['status']} {row['reason'] or ''}")
            assert row["status"] in ("applied", "held", "rejected"), story
            if row["status"] == "applied":
                applied[row["id"]] = row["patient_id"]
        for patient in dict.fromkeys(applied.values()):
            async for found in rebuild_records(pool, [patient], "administrator/test", apply=False):  # type: ignore[list-item]
                assert (found.changed, found.refused) == ([], {}), story
