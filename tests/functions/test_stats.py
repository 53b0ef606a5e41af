"""Observation/$stats: what measurements come to."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
from tests.conftest import Hospital, NewHospital
from tests.sharing_kit import World

_LOINC, _UCUM = "http://loinc.org", "http://unitsofmeasure.org"
_WEIGHT, _PRESSURE, _SYSTOLIC = "29463-7", "85354-9", "8480-6"


def code(value: str) -> dict[str, Any]:
    return {"coding": [{"system": _LOINC, "code": value}]}


def quantity(value: float, unit: str = "kg", **more: Any) -> dict[str, Any]:
    return {"value": value, "unit": unit, "system": _UCUM, "code": unit, **more}


async def made(hospital: Hospital, patient: str, at: str, **more: Any) -> None:
    body = {"resourceType": "Observation", "status": "final", "code": code(_WEIGHT), "effectiveDateTime": at,
            "subject": {"reference": f"Patient/{patient}"}}  # fmt: skip
    reply = await hospital.request("POST", "/fhir/R4/Observation", json=body | more, headers=await hospital.bearer())
    assert reply.status == 201, reply.body


@pytest.fixture(scope="module")
async def owner(new_hospital: NewHospital) -> Hospital:
    return await new_hospital("--allow", "127.0.0.0/8", scope="system/*.cruds")


@pytest.fixture(scope="module")
async def patient(owner: Hospital) -> str:
    """Five weights, one in grams; five that do not count; one that is an error; two blood pressures."""
    person = (await owner.patient(await owner.registered()))["id"]
    for day, value in ((1, 70), (2, 71.5), (3, 71), (4, 74)):
        await made(owner, person, f"2026-10-0{day}T09:00:00Z", valueQuantity=quantity(value))
    await made(owner, person, "2026-09-30T09:00:00Z", valueQuantity=quantity(69500, "g"))
    await made(owner, person, "2026-10-05", valueQuantity=quantity(500, comparator="<"))
    await made(owner, person, "2026-10-05", valueQuantity={"value": 500, "system": "urn:own:units", "code": "kg"})
    await made(owner, person, "2026-10-05", valueQuantity={"value": 500, "unit": "kg"})
    await made(owner, person, "2026-10-05", valueString="heavy")
    odd = [{"url": "urn:own:not", "valueBoolean": True}]
    await made(owner, person, "2026-10-05", valueQuantity=quantity(500), modifierExtension=odd)
    await made(owner, person, "2026-10-05", valueQuantity=quantity(500), status="entered-in-error")
    for day, value in ((1, 120), (2, 130)):
        parts = [{"code": code(_SYSTOLIC), "valueQuantity": quantity(value, "mm[Hg]")},
                 {"code": code("8462-4"), "valueQuantity": quantity(value / 2, "mm[Hg]")}]  # fmt: skip
        await made(owner, person, f"2026-10-0{day}", code=code(_PRESSURE), component=parts)
    return str(person)


async def asked(owner: Hospital, query: str) -> list[dict[str, Any]]:
    reply = await owner.get(f"Observation/$stats?{query}")
    assert reply.status == 200, reply.body
    assert reply.json["resourceType"] == "Parameters"
    return list(reply.json.get("parameter", []))


def values(observation: dict[str, Any]) -> dict[str, Any]:
    """By statistic, the value and its unit; None where it is told to be absent."""
    return {
        part["code"].get("text", part["code"]["coding"][0]["code"]): (
            (part["valueQuantity"]["value"], part["valueQuantity"].get("code")) if "valueQuantity" in part else None
        )
        for part in observation["component"]
    }


_ALL = ("count,total-count,average,maximum,minimum,median,std-dev,sum,variance,20-percent,80-percent,4-lower,4-upper,"
        "4-dev,5-1,5-2,5-3,5-4,skew,kurtosis,regression")  # fmt: skip


async def test_every_statistic(owner: Hospital, patient: str) -> None:
    (only,) = await asked(owner, f"subject=Patient/{patient}&system={_LOINC}&code={_WEIGHT}&statistic={_ALL}")
    assert only["name"] == "statistics"
    observation = only["resource"]
    assert (observation["status"], observation["code"]) == ("final", code(_WEIGHT))
    assert observation["effectivePeriod"]["start"].startswith("2026-09-30T09:00")
    found = values(observation)
    weights = [69.5, 70, 71, 71.5, 74]
    line = statistics.linear_regression([0, 1, 3, 2, 4], weights)
    expected: dict[str, tuple[float, str | None]] = {
        "count": (5, None), "total-count": (10, None), "average": (71.2, "kg"), "maximum": (74, "kg"),
        "minimum": (69.5, "kg"), "median": (71, "kg"), "std-dev": (statistics.stdev(weights), "kg"),
        "sum": (356, "kg"), "variance": (statistics.variance(weights), "kg.kg"), "20-percent": (69.9, "kg"),
        "80-percent": (72, "kg"), "4-lower": (70, "kg"), "4-upper": (71.5, "kg"), "4-dev": (0.75, "kg"),
        "5-1": (69.9, "kg"), "5-2": (70.6, "kg"), "5-3": (71.2, "kg"), "5-4": (72, "kg"),
        "skew": (0.7946, "1"), "kurtosis": (2.376, "1"), "gradient": (line.slope, "kg/d"),
        "intercept": (line.intercept, "kg"),
    }  # fmt: skip
    assert list(found) == list(expected)
    for name, (value, unit) in expected.items():
        assert found[name] == (pytest.approx(value, rel=1e-3), unit), name


async def test_components_other_codes_and_what_cannot_be_reckoned(owner: Hospital, patient: str) -> None:
    query = f"subject=Patient/{patient}&code={_LOINC}|{_SYSTOLIC}&code={_LOINC}|1-8&statistic=average&statistic=count"
    systolic, none = await asked(owner, query)
    assert values(systolic["resource"]) == {"average": (125, "mm[Hg]"), "count": (2, None)}
    assert values(none["resource"]) == {"average": None, "count": (0, None)}
    sent = await asked(owner, f"{query}&include=true&limit=1")
    assert [each["name"] for each in sent] == ["statistics", "statistics", "source"]
    assert sent[2]["resource"]["code"] == code(_PRESSURE)


async def test_units_that_are_no_measure_of_each_other_are_not_mixed(owner: Hospital) -> None:
    person = (await owner.patient(await owner.registered()))["id"]
    measured = (
        (48, "mmol/mol"),
        (6.5, "%"),
        (5, "meq/L"),
        (5.1, "mmol/L"),
        (5.3, "mmol/L"),
        (92, "mg/dL"),
        (3, "[iU]/L"),
    )
    for day, (value, unit) in enumerate(measured, start=1):
        await made(owner, person, f"2026-10-0{day}", valueQuantity=quantity(value, unit))
    both = await asked(owner, f"subject={person}&code={_WEIGHT}&statistic=average&statistic=variance")
    assert [values(each["resource"]) for each in both] == [
        {"average": (3, "[iU]/L"), "variance": None},
        {"average": (92, "mg/dL"), "variance": None},
        {"average": (5.2, "mmol/L"), "variance": (0.02, "(mmol/L).(mmol/L)")},
        {"average": (5, "meq/L"), "variance": None},
        {"average": (6.5, "%"), "variance": None},
        {"average": (48, "mmol/mol"), "variance": None},
    ]


async def test_of_a_time(owner: Hospital, patient: str) -> None:
    body: dict[str, Any] = {"resourceType": "Parameters", "parameter": [
        {"name": "subject", "valueUri": f"Patient/{patient}"},
        {"name": "coding", "valueCoding": {"system": _LOINC, "code": _WEIGHT}},
        {"name": "period", "valuePeriod": {"start": "2026-10-02", "end": "2026-10-03"}},
        {"name": "statistic", "valueCode": "maximum"}, {"name": "include", "valueBoolean": False},
    ]}  # fmt: skip
    reply = await owner.request("POST", "/fhir/R4/Observation/$stats", json=body, headers=await owner.bearer())
    (only,) = reply.json["parameter"]
    assert values(only["resource"]) == {"maximum": (71.5, "kg")}
    assert only["resource"]["effectivePeriod"] == {"start": "2026-10-02", "end": "2026-10-03"}
    (only,) = await asked(owner, f"subject={patient}&code={_WEIGHT}&duration=0.5&statistic=count")
    assert values(only["resource"]) == {"count": (0, None)}
    assert only["resource"]["subject"] == {"reference": f"Patient/{patient}"}


@pytest.mark.parametrize(
    ("query", "place"),
    [("code=a&statistic=count", "subject"), ("subject=x&statistic=count", "code"), ("subject=x&code=a", "statistic"),
     ("subject=x&code=a&statistic=mode", "statistic"), ("subject=x&code=a|&statistic=count", "code"),
     ("subject=x&code=a&statistic=count&duration=nan", "duration"),
     ("subject=x&code=a&statistic=count&limit=0", "limit"), ("subject=x,y&code=a&statistic=count", "subject"),
     ("subject=x&code=a&statistic=count&limit=" + "0" * 5000 + "1", "limit"),
     ("subject=x&code=a&statistic=count&duration=-1", "duration"), ("subject=x&code=a&statistic=count&odd=1", "odd"),
     ("subject=x&code=a&statistic=count&period=2026", "period"),
     ("subject=x&code=a&statistic=count&include=1", "include"),
     ("subject=x&coding=a&statistic=count", "coding"), ("subject=x&subject=y&code=a&statistic=count", "subject"),
     ("subject=x&statistic=count&code=" + "&code=".join(map(str, range(21))), "code")],
)  # fmt: skip
async def test_what_cannot_be_asked(owner: Hospital, query: str, place: str) -> None:
    reply = await owner.get(f"Observation/$stats?{query}")
    assert (reply.status, place in reply.body.decode()) == (400, True), reply.body


async def test_it_reckons_with_nothing_that_a_search_does_not_show(world: World, owner: Hospital) -> None:
    await world.state("all")
    for name, person in world.people.items():
        bearer = {"Authorization": f"Bearer {person.token()}"}
        found = await world.hospital.request(
            "GET", f"/fhir/R4/Observation?patient={world.patient}&_count=500", headers=bearer
        )
        if found.status != 200:
            continue
        codes = {
            f"{each['system']}|{each['code']}"
            for entry in found.json.get("entry", [])
            for each in entry["resource"]["code"].get("coding", []) if "system" in each
        } or {f"{_LOINC}|{_WEIGHT}"}  # fmt: skip
        query = "&".join(f"code={each}" for each in sorted(codes)[:20]) + f"&subject=Patient/{world.patient}"
        counted = await world.hospital.request(
            "GET", f"/fhir/R4/Observation/$stats?statistic=total-count&include=true&{query}",
            headers=bearer,
        )  # fmt: skip
        assert counted.status == 200, (name, counted.body)
        shown = {entry["resource"]["id"] for entry in found.json.get("entry", [])}
        sources = {each["resource"]["id"] for each in counted.json["parameter"] if each["name"] == "source"}
        assert sources <= shown, name
    assert (await owner.request("GET", "/fhir/R4/Observation/$stats?subject=x&code=a&statistic=count")).status == 401
