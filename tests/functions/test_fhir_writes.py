"""What apps write: exactly one of what must be one, all or nothing, with its history, and in nobody else's record."""

from __future__ import annotations

import asyncio
import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from tests.conftest import Hospital, NewHospital, nhs, unique
from tests.functions.fhir_client import SYSTEM, found, made, observation, patient, send
from tests.record.people import Person, end

EXAMPLES = Path(__file__).parents[3] / "shared/fhir/r4-official-examples.ndjson.gz"


async def test_the_life_of_a_resource(app: Hospital) -> None:
    created = await send(app, "POST", "Patient", patient(gender="female"))
    number = created.json["id"]
    assert created.headers["Location"].endswith(f"/Patient/{number}/_history/1")
    assert created.headers["ETag"] == 'W/"1"'
    changed = await send(app, "PUT", f"Patient/{number}", created.json | {"gender": "male"}, If_Match='W/"1"')
    assert (changed.status, changed.headers["ETag"]) == (200, 'W/"2"')
    assert (await send(app, "PUT", f"Patient/{number}", created.json, If_Match='W/"1"')).status == 412
    same = await send(app, "PUT", f"Patient/{number}", changed.json)
    assert (same.status, same.headers["ETag"]) == (200, 'W/"2"')
    assert (await send(app, "GET", f"Patient/{number}", If_None_Match='W/"2"')).status == 304
    assert (await send(app, "GET", f"Patient/{number}/_history/1")).json["gender"] == "female"
    assert (await send(app, "DELETE", f"Patient/{number}")).status == 204
    assert (await send(app, "GET", f"Patient/{number}")).status == 410
    assert (await send(app, "GET", f"Patient/{number}/_history/3")).status == 410
    assert await found(app, f"Patient?_id={number}") == set()
    back = await send(app, "PUT", f"Patient/{number}", created.json)
    assert (back.status, back.headers["ETag"]) == (201, 'W/"4"')
    versions = (await send(app, "GET", f"Patient/{number}/_history")).json["entry"]
    assert [entry["request"]["method"] for entry in versions] == ["PUT", "DELETE", "PUT", "POST"]
    assert [entry["response"]["etag"] for entry in versions] == ['W/"4"', 'W/"3"', 'W/"2"', 'W/"1"']
    paged = (await send(app, "GET", f"Patient/{number}/_history?_count=3")).json
    following = next(link["url"] for link in paged["link"] if link["relation"] == "next").split("/fhir/R4/")[1]
    assert [e["response"]["etag"] for e in (await send(app, "GET", following)).json["entry"]] == ['W/"1"']


async def test_an_id_of_the_apps_own(app: Hospital) -> None:
    number = unique("own-")
    assert (
        await send(app, "PUT", f"Basic/{number}", {"resourceType": "Basic", "id": number, "code": {"text": "x"}})
    ).status == 201
    assert (await send(app, "GET", f"Basic/{number}")).json["id"] == number
    assert await found(app, f"Basic?_id={number}") == {number}
    assert (await send(app, "PUT", f"Basic/{number}", {"resourceType": "Basic", "code": {"text": "x"}})).status == 400
    assert (
        await send(app, "PUT", "Basic/a_b", {"resourceType": "Basic", "id": "a_b", "code": {"text": "x"}})
    ).status in (400, 422)


@pytest.mark.parametrize(
    ("body", "status", "expression"),
    [
        (patient(gender="banana"), 422, "Patient.gender"),
        (patient(colour="blue"), 422, "Patient.colour"),
        ({"resourceType": "Observation"}, 400, None),
        ("{", 400, None),
        ('{"resourceType": "Patient", "id": "a", "id": "b"}', 400, None),
        ("[" * 5000, 400, None),
        ('{"resourceType": "Patient", "multipleBirthInteger": NaN}', 400, None),
    ],
)
async def test_what_is_not_valid_is_refused_with_its_place(
    app: Hospital, body: Any, status: int, expression: str | None
) -> None:
    reply = await send(app, "POST", "Patient", body)
    assert reply.status == status
    assert reply.json["resourceType"] == "OperationOutcome"
    assert reply.json["issue"][0].get("expression", [None])[0] == expression


async def test_sixteen_at_once_make_one_and_one_wins(app: Hospital) -> None:
    value = unique("R")
    condition = f"identifier={SYSTEM}|{value}"
    replies = await asyncio.gather(
        *(send(app, "POST", "Patient", patient(value), If_None_Exist=condition) for _ in range(16))
    )
    assert sorted(reply.status for reply in replies) == [200] * 15 + [201]
    (number,) = {reply.json["id"] for reply in replies}
    current = (await send(app, "GET", f"Patient/{number}")).json
    replies = await asyncio.gather(
        *(
            send(app, "PUT", f"Patient/{number}", current | {"birthDate": f"19{at + 10}"}, If_Match='W/"1"')
            for at in range(16)
        )
    )
    assert sorted(reply.status for reply in replies) == [200] + [412] * 15
    replies = await asyncio.gather(
        *(send(app, "PUT", f"Basic?identifier={SYSTEM}|{value}", {"resourceType": "Basic", "code": {"text": str(at)},
               "identifier": [{"system": SYSTEM, "value": value}]}) for at in range(8))
    )  # fmt: skip
    assert [reply.status for reply in replies].count(201) == 1
    assert len(await found(app, f"Basic?identifier={SYSTEM}|{value}")) == 1


async def test_patches(app: Hospital) -> None:
    number = await made(app, patient(gender="female", name=[{"family": "A", "given": ["B"]}]))
    media = "application/json-patch+json"
    operations: list[dict[str, Any]] = [
        {"op": "test", "path": "/gender", "value": "female"},
        {"op": "add", "path": "/name/0/given/-", "value": "C"},
        {"op": "replace", "path": "/gender", "value": "male"},
    ]
    done = await send(app, "PATCH", f"Patient/{number}", operations, Content_Type=media)
    assert (done.status, done.json["gender"], done.json["name"][0]["given"]) == (200, "male", ["B", "C"])
    again = await send(app, "PATCH", f"Patient/{number}", operations, Content_Type=media)
    assert (again.status, again.json["issue"][0]["expression"]) == (422, ["patch[0]"])
    wrong = [{"op": "replace", "path": "/gender", "value": "banana"}]
    assert (await send(app, "PATCH", f"Patient/{number}", wrong, Content_Type=media)).status == 422
    moved = [{"op": "replace", "path": "/id", "value": "other"}]
    assert (await send(app, "PATCH", f"Patient/{number}", moved, Content_Type=media)).status == 422

    def parameters(**parts: Any) -> dict[str, Any]:
        listed = [
            {"name": name, ("valueString" if name == "path" else "valueCode"): value} for name, value in parts.items()
        ]
        return {"resourceType": "Parameters", "parameter": [{"name": "operation", "part": listed}]}

    replaced = await send(
        app, "PATCH", f"Patient/{number}", parameters(type="replace", path="Patient.gender", value="other")
    )
    assert (replaced.status, replaced.json["gender"]) == (200, "other")
    gone = await send(app, "PATCH", f"Patient/{number}", parameters(type="delete", path="Patient.name[0].given[1]"))
    assert gone.json["name"][0]["given"] == ["B"]
    assert (
        await send(app, "PATCH", f"Patient/{number}", parameters(type="replace", path="Patient.x", value="y"))
    ).status == 422


async def test_what_is_merged(app: Hospital) -> None:
    number = await made(app, patient(gender="male", maritalStatus={"text": "a", "coding": [{"code": "M"}]}))
    change = {"gender": None, "active": True, "maritalStatus": {"text": "b"}}
    merged = await send(app, "PATCH", f"Patient/{number}", change, Content_Type="application/merge-patch+json")
    assert merged.status == 200
    assert (merged.json.get("gender"), merged.json["active"]) == (None, True)
    assert merged.json["maritalStatus"] == {"text": "b", "coding": [{"code": "M"}]}
    refused = await send(app, "PATCH", f"Patient/{number}", {"gender": "x"}, Content_Type="application/json")
    assert refused.status == 422


async def test_a_transaction_is_all_or_nothing(app: Hospital) -> None:
    value, practitioner = unique("T"), unique("P")
    gp = await made(app, {"resourceType": "Practitioner", "identifier": [{"system": SYSTEM, "value": practitioner}]})
    name = "urn:uuid:7b0b8f0e-5a0c-4d36-9b7e-2f7d6c1c9a11"
    entries: list[dict[str, Any]] = [
        {"fullUrl": name, "resource": patient(value), "request": {"method": "POST", "url": "Patient",
         "ifNoneExist": f"identifier={quote(f'{SYSTEM}|{value}')}"}},
        {"resource": observation("x") | {"subject": {"reference": name}, "performer": [
         {"reference": f"Practitioner?identifier={quote(f'{SYSTEM}|{practitioner}')}"}]},
         "request": {"method": "POST", "url": "Observation"}},
    ]  # fmt: skip
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
    done = await send(app, "POST", "", bundle)
    assert [entry["response"]["status"][:3] for entry in done.json["entry"]] == ["201", "201"]
    first, second = (entry["resource"] for entry in done.json["entry"])
    assert second["subject"]["reference"] == f"Patient/{first['id']}"
    assert second["performer"] == [{"reference": f"Practitioner/{gp}"}]
    again = await send(app, "POST", "", bundle)
    assert [entry["response"]["status"][:3] for entry in again.json["entry"]] == ["200", "201"]
    bad = {"resource": patient(gender="banana"), "request": {"method": "POST", "url": "Patient"}}
    failed = await send(app, "POST", "", bundle | {"entry": [*entries, bad]})
    assert (failed.status, failed.json["resourceType"]) == (422, "OperationOutcome")
    assert len(await found(app, f"Observation?subject=Patient/{first['id']}")) == 2
    batch = await send(app, "POST", "", bundle | {"type": "batch", "entry": [bad, entries[0]]})
    assert [entry["response"]["status"][:3] for entry in batch.json["entry"]] == ["422", "200"]
    twice = {"resource": patient() | {"id": first["id"]}, "request": {"method": "PUT", "url": f"Patient/{first['id']}"}}
    assert (await send(app, "POST", "", bundle | {"entry": [twice, twice]})).status == 400


async def test_searches_of_every_kind(app: Hospital) -> None:
    tag = unique("tag")
    meta = {"meta": {"tag": [{"system": SYSTEM, "code": tag}]}}
    trust = await made(app, {"resourceType": "Organization", "name": f"Trust {tag}", **meta})
    one = await made(app, patient(gender="female", birthDate="1985-03", name=[{"family": "Müller", "given": ["Anna"]}],
                                  managingOrganization={"reference": f"Organization/{trust}"}, **meta))  # fmt: skip
    two = await made(app, patient(gender="male", birthDate="1951", name=[{"family": "Smithson"}], **meta))
    light = await made(app, observation(one, 70.5, effectiveDateTime="2026-01-05T10:00:00Z", **meta))
    heavy = await made(app, observation(two, 90, effectiveDateTime="2026-03-05T10:00:00Z", **meta))
    pressure = await made(app, {
        "resourceType": "Observation", "status": "final", "code": {"text": "blood pressure"},
        "subject": {"reference": f"Patient/{one}"}, **meta, "component": [
            {"code": {"coding": [{"system": "http://loinc.org", "code": code}]},
             "valueQuantity": {"value": value, "unit": "mmHg"}} for code, value in (("8480-6", 120), ("8462-4", 80))],
    })  # fmt: skip
    everybody = f"_tag={SYSTEM}|{tag}"
    for query, wanted in {
        "Patient?gender=female": {one},
        "Patient?gender:not=female": {two},
        "Patient?family=muller": {one},
        "Patient?family=MULLER": {one},
        "Patient?family:exact=Smith": set(),
        "Patient?family:contains=mithso": {two},
        "Patient?name=smith,anna": {one, two},
        "Patient?birthdate=1985": {one},
        "Patient?birthdate=lt1951-06": {two},
        "Patient?birthdate:missing=true": set(),
        f"Patient?organization=Organization/{trust}": {one},
        f"Patient?organization.name=Trust {tag}": {one},
        "Patient?_has:Observation:patient:code=http://loinc.org|8480-6": set(),
        "Patient?_has:Observation:patient:combo-code=http://loinc.org|8480-6": {one},
        "Observation?value-quantity=70.5": {light},
        "Observation?value-quantity=70": set(),
        "Observation?value-quantity=gt80|http://unitsofmeasure.org|kg": {heavy},
        "Observation?value-quantity=le70.5": {light},
        "Observation?value-quantity=lt70.5": set(),
        "Observation?value-quantity=ap71": {light},
        "Observation?code-value-quantity=http://loinc.org|29463-7$gt85": {heavy},
        "Observation?component-code-value-quantity=http://loinc.org|8480-6$120": {pressure},
        "Observation?component-code-value-quantity=http://loinc.org|8480-6$80": set(),
        "Observation?code:text=blood": {pressure},
        "Observation?date=sa2026-02": {heavy},
        "Observation?date=eb2026-02": {light},
        f"Observation?subject={one}": {light, pressure},
        f"Observation?subject:Patient={two}": {heavy},
        "Observation?subject:Patient.organization.name=Trust": {light, pressure},
        f"Patient/{one}/Observation?code=29463-7": {light},
        f"Observation?_id={light},{heavy}": {light, heavy},
    }.items():
        assert await found(app, f"{query}&{everybody}") == wanted, query
    ordered = await send(app, "GET", f"Observation?{everybody}&code=29463-7&_sort=-value-quantity")
    assert [entry["resource"]["id"] for entry in ordered.json["entry"]] == [heavy, light]
    included = await send(
        app, "GET", f"Observation?_id={light}&_include=Observation:subject&_include:iterate=Patient:organization"
    )
    assert {e["resource"]["id"]: e["search"]["mode"] for e in included.json["entry"]} == {
        light: "match", one: "include", trust: "include",
    }  # fmt: skip
    backwards = await send(app, "GET", f"Patient?_id={one}&_revinclude=Observation:subject")
    assert {e["resource"]["id"] for e in backwards.json["entry"]} == {one, light, pressure}
    seen, path = [], f"Observation?{everybody}&_count=1&_sort=_lastUpdated"
    while path:
        page = (await send(app, "GET", path)).json
        seen += [entry["resource"]["id"] for entry in page["entry"]]
        links = {link["relation"]: link["url"] for link in page["link"]}
        path = links["next"].split("/fhir/R4/")[1] if "next" in links else ""
    assert seen == [light, heavy, pressure]
    counted = (await send(app, "GET", f"Observation?{everybody}&_summary=count")).json
    assert (counted["total"], "entry" in counted) == (3, False)
    few = (await send(app, "GET", f"Observation?_id={light}&_elements=valueQuantity")).json["entry"][0]["resource"]
    assert ("subject" in few, "status" in few, few["meta"]["tag"][-1]["code"]) == (False, True, "SUBSETTED")


async def test_unknown_parameters_are_never_passed_over_in_silence(app: Hospital) -> None:
    assert (await send(app, "GET", "Patient?colour=blue")).status == 400
    lenient = (await send(app, "GET", "Patient?colour=blue&gender=female&_count=1", Prefer="handling=lenient")).json
    assert "colour" not in next(link["url"] for link in lenient["link"] if link["relation"] == "self")
    (outcome,) = [e["resource"] for e in lenient["entry"] if e["search"]["mode"] == "outcome"]
    assert "colour" in outcome["issue"][0]["diagnostics"]
    for query in (
        "gender:above=x",
        "birthdate=yesterday",
        "family:missing=maybe",
        "_has:Observation=1",
        "_include=Nothing:x",
    ):
        reply = await send(app, "GET", f"Patient?{query}&_id=x")
        if query.startswith("_include"):
            continue
        assert reply.status == 400, query


async def test_digits_extensions_and_order_come_back_as_they_were(app: Hospital) -> None:
    number = await made(app, patient())
    body = (
        json.dumps(observation(number))
        .replace('"value": 70', '"value": 70.50')
        .replace('"status"', '"_status": {"id": "s1"}, "status"')
    )
    reply = await send(app, "POST", "Observation", body)
    text = (await send(app, "GET", f"Observation/{reply.json['id']}")).body.decode()
    assert '"value":70.50' in text
    assert text.index('"_status"') < text.index('"status"')


async def test_official_examples_are_stored_and_read_back_equal(app: Hospital) -> None:
    if not EXAMPLES.exists():
        pytest.skip("the official examples are not on this machine")
    with gzip.open(EXAMPLES) as lines:
        examples = [json.loads(line, parse_float=Decimal) for line in list(lines)[::5]]
    for example in examples:
        kind, number = example["resourceType"], example.get("id")
        if not number or kind in ("Bundle", "Questionnaire"):
            continue
        text = json.dumps(example, default=lambda value: float(value))
        reply = await send(app, "PUT", f"{kind}/{number}", text)
        assert reply.status in (200, 201), (kind, number, reply.body[:300])
        stored = (await send(app, "GET", f"{kind}/{number}")).json
        for resource in (stored, sent := json.loads(text)):
            for name in ("versionId", "lastUpdated", "source"):
                resource.get("meta", {}).pop(name, None)
            if not resource.get("meta"):
                resource.pop("meta", None)
        assert stored == sent, (kind, number)


async def test_nobody_writes_into_a_record_that_he_does_not_read(app: Hospital, new_hospital: NewHospital) -> None:
    other = await new_hospital(scope="system/*.cruds")
    number = await made(app, patient())
    theirs = await made(app, observation(number))
    assert (await send(other, "POST", "Observation", observation(number))).status == 422
    assert (await send(other, "PUT", f"Observation/{theirs}", observation(number) | {"id": theirs})).status == 403
    assert (await send(other, "DELETE", f"Observation/{theirs}")).status == 403
    for path in (f"Observation/{theirs}", f"Observation/{theirs}/_history/1", f"Observation/{theirs}/_history"):
        assert (await send(other, "GET", path)).status == 404
    assert await found(other, f"Observation?subject=Patient/{number}") == set()
    second = await made(app, patient())
    moved = await send(app, "PUT", f"Observation/{theirs}", observation(second) | {"id": theirs})
    assert moved.status == 422


async def test_an_nhs_number_is_one_records(app: Hospital, hospital: Hospital) -> None:
    taken = await hospital.registered()
    identifier = [{"system": "https://fhir.nhs.uk/Id/nhs-number", "value": taken}]
    reply = await send(app, "POST", "Patient", {"resourceType": "Patient", "identifier": identifier})
    assert (reply.status, reply.json["issue"][0]["code"]) == (409, "duplicate")
    identifier.insert(0, {"system": "https://fhir.nhs.uk/Id/nhs-number", "value": nhs()})
    reply = await send(app, "POST", "Patient", {"resourceType": "Patient", "identifier": identifier})
    assert reply.status == 409


async def test_a_rebuild_leaves_what_apps_wrote(app: Hospital) -> None:
    person = Person(nhs())
    assert (await end(app, person.message("A28")))[0] == "applied"
    assert (await end(app, person.result(unique("F"), "120")))[0] == "applied"
    number = (await app.patient(person.number))["id"]
    (result,) = [e["resource"] for e in (await send(app, "GET", f"Observation?patient={number}")).json["entry"]]
    changed = await send(app, "PUT", f"Observation/{result['id']}", result | {"note": [{"text": "seen"}]})
    assert changed.status == 200
    own = await made(app, observation(number))
    shown = json.loads(app.installation.cli("message", "replay", "--patient", number, "--apply", "--json").stdout)
    assert shown["records"][0]["changed"] == []
    assert await found(app, f"Observation?patient={number}") == {own, result["id"]}


async def test_scopes_are_asked_of_every_entry(new_hospital: NewHospital) -> None:
    reader = await new_hospital(scope="system/Patient.rs")
    assert (await send(reader, "POST", "Patient", patient())).status == 403
    entry = {"resource": patient(), "request": {"method": "POST", "url": "Patient"}}
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [entry]}
    assert (await send(reader, "POST", "", bundle)).status == 403
    assert (await send(reader, "GET", "Observation?code=x")).status == 403
    assert (await send(reader, "GET", "?_type=Observation")).status == 403


async def test_a_search_does_not_go_through_what_the_token_may_not_search(new_hospital: NewHospital) -> None:
    """Who may see patients alone does not learn by a chain who has a result."""
    narrow = await new_hospital(scope="system/Patient.crs")
    for query in ("_has:Observation:patient:code=x", "organization.name=x", "_has:Observation:patient:status=final"):
        assert (await send(narrow, "GET", f"Patient?{query}")).status == 400
    blind = await new_hospital(scope="system/Patient.c")
    assert (await send(blind, "POST", "Patient", patient(), If_None_Exist="gender=female")).status == 403


async def test_one_organisation_does_not_delete_what_another_contributed_to(app: Hospital, hospital: Hospital) -> None:
    person = Person(nhs())
    for each in (app, hospital):
        assert (await end(each, person.message("A28")))[0] == "applied"
    number = (await app.patient(person.number))["id"]
    assert (await send(app, "DELETE", f"Patient/{number}")).status == 409
    assert (await hospital.patient(person.number))["id"] == number
