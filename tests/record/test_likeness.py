"""What $match's weights come to on made-up people: typing errors, twins, families, men of one name."""

from __future__ import annotations

import random
from typing import Any

import pytest

from carefolio.record.likeness import CERTAIN, NOT, POSSIBLE, PROBABLE, compare, settled

_FAMILIES = """
Smith Jones Taylor Brown Williams Wilson Johnson Davies Patel Khan Robinson Wright Thompson Evans Walker White Roberts
Green Hall Wood Jackson Clarke Harris Clark Lewis Hughes Begum Edwards Hill Moore O'Neill Singh Kaur Macdonald
"""
_GIVEN = """
Oliver George Noah Arthur Harry Leo Muhammad Jack Charlie Oscar Olivia Amelia Isla Ava Ivy Freya Lily Florence Mia
Willow Jonathan Elizabeth Catherine Stephen Philip Margaret Susan David John Mary Anne
"""
FAMILIES, GIVEN = _FAMILIES.split(), _GIVEN.split()
_SYSTEM = "https://fhir.nhs.uk/Id/nhs-number"


def person(chance: random.Random, number: int, **known: Any) -> dict[str, Any]:
    born = f"{chance.randrange(1930, 2020)}-{chance.randrange(1, 13):02}-{chance.randrange(1, 29):02}"
    letters = "".join(chance.choices("ABDEFGH", k=2))
    made = {
        "resourceType": "Patient", "id": str(number),
        "name": [{"family": chance.choice(FAMILIES), "given": [chance.choice(GIVEN)]}],
        "birthDate": born, "gender": chance.choice(("male", "female")),
        "address": [{"postalCode": f"DT{chance.randrange(1, 10)} {chance.randrange(10)}{letters}"}],
    }  # fmt: skip
    return made | known


def population(chance: random.Random, size: int) -> list[dict[str, Any]]:
    """Households of one name and postcode, a tenth of them with twins, and sons who are called like their fathers."""
    made: list[dict[str, Any]] = []
    while len(made) < size:
        first = person(chance, len(made))
        made.append(first)
        home = {"address": first["address"]}
        for _ in range(chance.randrange(3)):
            name = [{"family": first["name"][0]["family"], "given": [chance.choice(GIVEN)]}]
            made.append(person(chance, len(made), name=name, **home))
        if chance.random() < 0.1:
            other = chance.choice([g for g in GIVEN if g not in first["name"][0]["given"]])
            twin = [{"family": first["name"][0]["family"], "given": [other]}]
            made.append(person(chance, len(made), name=twin, birthDate=first["birthDate"], **home))
        if chance.random() < 0.05:
            made.append(person(chance, len(made), name=first["name"], gender=first["gender"], **home))
    return made


def misheard(chance: random.Random, whole: dict[str, Any]) -> dict[str, Any]:
    """One person as somebody else wrote him down: one to three things are otherwise, or not there."""
    said = {name: value for name, value in whole.items() if name != "id"}
    name = dict(said["name"][0])
    for _ in range(chance.randrange(1, 4)):
        what = chance.randrange(7)
        if what == 0 and len(name["family"]) > 3:
            at = chance.randrange(1, len(name["family"]) - 1)
            name["family"] = name["family"][:at] + chance.choice("aeiourst") + name["family"][at + 1 :]
        elif what == 1 and len(name["given"][0]) > 3:
            given = name["given"][0]
            at = chance.randrange(1, len(given) - 1)
            name["given"] = [given[:at] + given[at + 1] + given[at] + given[at + 2 :]]
        elif what == 2:
            year, month, day = said.get("birthDate", "2000-01-01").split("-")
            said["birthDate"] = f"{year}-{day}-{month}" if int(day) < 13 else f"{year}-{month}-{int(day) // 2 + 1:02}"
        elif what == 3:
            said["address"] = person(chance, 0)["address"]
        elif what == 4:
            said.pop("address", None)
        elif what == 5:
            name["given"] = [name["given"][0][:1]]
        else:
            said.pop("gender", None)
    said["name"] = [name]
    return said


def test_precision_and_recall_on_made_up_people(capsys: pytest.CaptureFixture[str]) -> None:
    """Everybody of a population, misheard, against all who share a birth date, a family name or a postcode with him."""
    chance = random.Random(20261127)
    people = population(chance, 4000)
    keys: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for each in people:
        for key in blocks(each):
            keys.setdefault(key, []).append(each)
    found = {grade: [0, 0] for grade in (CERTAIN, PROBABLE, POSSIBLE)}
    missed, strangers = 0, 0
    asked = chance.sample(people, 1200)
    for whole in asked:
        said = misheard(chance, whole)
        near = {each["id"]: each for key in blocks(said) for each in keys.get(key, [])}
        graded = {n: found.grade for n, found in settled({n: compare(said, each) for n, each in near.items()}).items()}
        for number, grade in graded.items():
            if grade != NOT:
                found[grade][number == whole["id"]] += 1
        missed += graded.get(whole["id"], NOT) == NOT
        # And somebody whom nobody here knows.
        alien = person(chance, 0)
        near = {each["id"]: each for key in blocks(alien) for each in keys.get(key, [])}
        strangers += any(compare(alien, each).grade in (CERTAIN, PROBABLE) for each in near.values())
    precise = {grade: right / max(1, right + wrong) for grade, (wrong, right) in found.items()}
    recall = {CERTAIN: found[CERTAIN][1] / len(asked), PROBABLE: (found[CERTAIN][1] + found[PROBABLE][1]) / len(asked)}
    with capsys.disabled():
        print(f"\n  $match, {len(asked)} misheard of {len(people)}: precision certain {precise[CERTAIN]:.4f}, probable "
              f"{precise[PROBABLE]:.3f}; recall certain {recall[CERTAIN]:.3f}, with probable {recall[PROBABLE]:.3f}; "
              f"missed {missed}; strangers taken for somebody {strangers}", end=" ")  # fmt: skip
    assert precise[CERTAIN] > 0.999
    assert precise[PROBABLE] > 0.95
    assert recall[PROBABLE] > 0.80
    assert missed / len(asked) < 0.06
    assert strangers <= 5


def blocks(of: dict[str, Any]) -> list[tuple[str, str]]:
    made = [("family", of["name"][0]["family"])]
    made += [("born", of["birthDate"])] if "birthDate" in of else []
    return made + [("postcode", each["postalCode"]) for each in of.get("address", [])]


_INSURED: dict[str, Any] = {"identifier": [{"system": "urn:example:policies", "value": "77"}]}


def made(number: str = "", **other: Any) -> dict[str, Any]:
    base = {"name": [{"family": "Farrow", "given": ["Miriam"]}], "birthDate": "1970-01-02", "gender": "female",
            "address": [{"postalCode": "DT9 1AA"}]}  # fmt: skip
    return base | ({"identifier": [{"system": _SYSTEM, "value": number}]} if number else {}) | other


@pytest.mark.parametrize(
    ("one", "other", "grade"),
    [
        (made(), made(), CERTAIN),
        (made("9990000018"), made("9990000018", address=[]), CERTAIN),
        # Another NHS number is another person, whatever else agrees.
        (made("9990000018"), made("9990000026"), POSSIBLE),
        # A number of somebody else, mistyped.
        (made("9990000018"), {"identifier": made("9990000018")["identifier"], "birthDate": "1999-05-05",
                              "name": [{"family": "Patel", "given": ["Arun"]}]}, NOT),
        # The number of a household's policy, or an NHS number in the wrong record: brothers, a father and a son.
        (made(**_INSURED), made(**_INSURED, name=[{"family": "Farrow", "given": ["Robin"]}]), POSSIBLE),
        (made("9990000018"), made("9990000018", name=[{"family": "Farrow", "given": ["Robin"]}]), POSSIBLE),
        (made(**_INSURED), made(**_INSURED, birthDate="1940-11-30"), POSSIBLE),
        (made(**_INSURED), made(**_INSURED, name=[{"family": "Farrow", "given": ["M"]}]), PROBABLE),
        # Twins; a father and a son.
        (made(), made(name=[{"family": "Farrow", "given": ["Robin"]}]), POSSIBLE),
        (made(), made(birthDate="1940-11-30"), POSSIBLE),
        # Day and month in each other's place; an accent; a married name beside the one at birth.
        (made(), made(birthDate="1970-02-01"), CERTAIN),
        (made(), made(name=[{"family": "Fàrrow", "given": ["miriam"]}]), CERTAIN),
        (made(), made(name=[{"family": "Stone", "given": ["Miriam"]}, {"family": "Farrow", "use": "maiden"}]), CERTAIN),
        (made(), {"name": [{"family": "Farrow"}]}, POSSIBLE),
        (made(), {}, NOT),
        (made(), made(birthDate="1970"), PROBABLE),
        (made(), made(name=[{"family": "Singh", "given": ["Arun"]}], birthDate="1999-01-01"), NOT),
    ],
)  # fmt: skip
def test_grades(one: dict[str, Any], other: dict[str, Any], grade: str) -> None:
    assert compare(one, other).grade == grade
    assert compare(other, one) == compare(one, other)


def test_nobody_is_certain_by_name_while_others_were_not_compared() -> None:
    named, numbered = compare(made(), made()), compare(made("9990000018"), made("9990000018"))
    assert settled({1: named}, all_seen=True)[1].grade == CERTAIN
    assert settled({1: named}, all_seen=False)[1].grade == PROBABLE
    assert settled({1: numbered}, all_seen=False)[1].grade == CERTAIN
