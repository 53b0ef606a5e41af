"""The letter of R4, where servers go astray: each line is something that once was wrong."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from tests.conftest import Hospital, unique
from tests.functions.fhir_client import SYSTEM, found, made, observation, patient, send


@pytest.mark.parametrize(
    "query", ["_count=1", "_sort=_id", "_elements=id", "_lastupdated=lt2000", "_foo=1", "_query=x"]
)
@pytest.mark.parametrize("method", ["DELETE", "PUT", "PATCH"])
async def test_a_condition_chooses(app: Hospital, method: str, query: str) -> None:
    await made(app, {"resourceType": "Basic", "code": {"text": "x"}})
    body: Any = {"resourceType": "Basic", "code": {"text": "y"}} if method == "PUT" else None
    headers = {}
    if method == "PATCH":
        body, headers = (
            [{"op": "add", "path": "/language", "value": "en"}],
            {"Content_Type": "application/json-patch+json"},
        )
    assert (await send(app, method, f"Basic?{query}", body, **headers)).status in (400, 412)
    created = await send(app, "POST", "Basic", {"resourceType": "Basic", "code": {"text": "z"}}, If_None_Exist=query)
    assert created.status in (400, 412)


async def test_what_is_unknown_is_told(app: Hospital) -> None:
    reply = (await send(app, "GET", "Patient?_foo=1&_count=1")).json
    assert reply["entry"][-1]["search"]["mode"] == "outcome"
    assert "_foo" not in reply["link"][0]["url"]
    for query in ("_foo=1", "foo=1"):
        assert (await send(app, "GET", f"Patient?{query}", Prefer="handling=strict")).status == 400
    for query in ("_query=foo", "foo=1", "_sort:desc=_id", "_contained=true", "_contained=foo"):
        assert (await send(app, "GET", f"Patient?{query}")).status == 400, query


async def test_conditions_on_versions(app: Hospital) -> None:
    value = unique("v")
    number = await made(app, patient(value))
    body = patient(value, id=number, gender="male")
    assert (await send(app, "PUT", f"Patient/{number}", body, If_None_Match="*")).status == 412
    assert (await send(app, "PUT", f"Patient/{number}", body, If_Match='W/"7", W/"1"')).status == 200
    assert (await send(app, "PUT", f"Patient/{number}", patient(value, id=number), If_Match="*")).status == 200
    assert (await send(app, "PUT", f"Patient/{unique('n')}", patient(value), If_Match="*")).status in (400, 412)
    other = await send(app, "PUT", f"Patient?identifier={SYSTEM}|{value}", patient(value, id="else"))
    assert other.status == 400
    assert (await send(app, "GET", f"Patient/{number}", If_Modified_Since="garbage")).status == 200
    assert (await send(app, "GET", f"Patient/{number}/_history/01")).status == 404
    elsewhere = await send(app, "POST", "Patient", patient(), Content_Type="application/fhir+json; fhirVersion=3.0")
    assert elsewhere.status == 415
    assert (await send(app, "POST", "Patient/_search", {"a": 1}, Content_Type="application/json")).status == 415


@pytest.mark.parametrize(
    ("part", "status", "changed"),
    [
        ({"type": "delete", "path": "Patient.name.given"}, 422, {}),
        ({"type": "add", "path": "Patient", "name": "gender", "value": {"valueCode": "male"}}, 422, {}),
        ({"type": "add", "path": "Patient", "name": "deceased", "value": {"valueBoolean": True}}, 200,
         {"deceasedBoolean": True}),
        ({"type": "replace", "path": "Patient.multipleBirth", "value": {"valueBoolean": True}}, 200,
         {"multipleBirthBoolean": True, "multipleBirthInteger": None}),
        ({"type": "add", "path": "Patient", "name": "contact",
          "value": {"part": [{"name": "telecom", "valueContactPoint": {"system": "phone", "value": "1"}}]}}, 200,
         {"contact": [{"telecom": [{"system": "phone", "value": "1"}]}]}),
    ],
)  # fmt: skip
async def test_fhirpath_patches(app: Hospital, part: dict[str, Any], status: int, changed: dict[str, Any]) -> None:
    number = await made(app, patient(gender="female", multipleBirthInteger=2, name=[{"given": ["x", "y"]}]))
    parts = [
        {"name": name, **value} if name == "value" else {"name": name, "valueString": value}
        for name, value in part.items()
    ]
    body = {"resourceType": "Parameters", "parameter": [{"name": "operation", "part": parts}]}
    reply = await send(app, "PATCH", f"Patient/{number}", body)
    assert reply.status == status, reply.body
    for name, value in changed.items():
        assert reply.json.get(name) == value


@pytest.mark.parametrize(
    "document",
    [
        '{"resourceType":"Patient","name":[{"family":"\\ud800"}]}',
        '{"resourceType":"Patient","\\ud800":1}',
        '{"resourceType":"Observation","status":"final","code":{"text":"x"},"valueQuantity":{"value":1e-999999999}}',
        '{"resourceType":"Observation","status":"final","code":{"text":"x"},"valueQuantity":{"value":1e99999999999999999999}}',
        '{"resourceType":"Patient","photo":[{"data":"A"}]}',
        '{"resourceType":"Patient","photo":[{"data":"AAAA="}]}',
        '{"resourceType":"Patient","name":[{"given":["a","b"],"_given":[{"id":"x"}]}]}',
        '{"resourceType":"Patient","name":[{"given":["a"],"_given":[null]}]}',
        '{"resourceType":"Patient","multipleBirthInteger":1,"_multipleBirthBoolean":{"id":"a"}}',
        '{"resourceType":"Patient","contact":[{"relationship":[{"text":"x"}]}]}',
        '{"resourceType":"Patient","telecom":[{"value":"1"}]}',
        '{"resourceType":"Patient","contained":[{"resourceType":"Basic","code":{"text":"x"}}]}',
        '{"resourceType":"Patient","text":{"status":"generated","div":"<div>a</div>"}}',
    ],
)
async def test_refused_by_name_and_never_an_error_of_ours(app: Hospital, document: str) -> None:
    kind = json.loads(document.replace("\\ud800", "x"))["resourceType"]
    assert (await send(app, "POST", kind, document)).status in (400, 422)


@pytest.mark.parametrize("text", ["70.50", "1.0E-5", "1e10", "1.0E-245", "9" * 30, "0.1234567890123456789"])
async def test_digits_as_they_were_sent(app: Hospital, text: str) -> None:
    document = (
        f'{{"resourceType":"Observation","status":"final","code":{{"text":"x"}},"valueQuantity":{{"value":{text}}}}}'
    )
    created = await send(app, "POST", "Observation", document)
    assert created.status == 201
    assert f'"value":{text}'.encode() in created.body


@pytest.mark.parametrize("query", ["birthdate=ap0001", "birthdate=ap9999", "birthdate=lt0001-01-01T00:00:00Z"])
async def test_the_ends_of_time(app: Hospital, query: str) -> None:
    assert (await send(app, "GET", f"Patient?{query}")).status == 200
    for value in ("1e-99999999", "1e99999999", "9" * 200):
        assert (await send(app, "GET", f"Observation?value-quantity={value}")).status == 400
        assert (await send(app, "GET", f"Observation?code-value-quantity=a${value}")).status == 400


@pytest.mark.parametrize(
    ("element", "query", "hit"),
    [
        ({"effectiveTiming": {"event": ["2020-01-01", "2020-03-01"]}}, "date=2020", True),
        ({"effectiveTiming": {"event": ["2020-01-01", "2020-03-01"]}}, "date=ge2020-02-01", True),
        ({"effectiveTiming": {"repeat": {"boundsPeriod": {"start": "2020-01-01"}}}}, "date=gt2021", True),
        ({"effectiveDateTime": "2020-12-31T23:59:60Z"}, "date=ge2020-12-31", True),
        ({"effectiveDateTime": "2020-01-01T00:00:00.1234567Z"}, "date=2020-01-01T00:00:00.123Z", True),
        ({"effectiveDateTime": "2020-01-01T00:00:00.123456789012Z"}, "date=2020-01-01", True),
        ({"valueQuantity": {"value": 100, "comparator": "<"}}, "value-quantity=100", False),
        ({"valueQuantity": {"value": 100, "comparator": "<"}}, "value-quantity=ge100", False),
        ({"valueQuantity": {"value": 100, "comparator": "<"}}, "value-quantity=lt100", True),
        ({"valueQuantity": {"value": 100, "comparator": ">="}}, "value-quantity=gt500", True),
        ({}, "code-value-quantity=29463-7$10||kg", True),
        ({}, "status=http://hl7.org/fhir/observation-status|final", True),
        ({}, "_id:not=nothing", True),
    ],
)
async def test_found_as_r4_says(app: Hospital, element: dict[str, Any], query: str, hit: bool) -> None:
    number = await made(app, patient())
    body = observation(number, 10) | element
    result = await made(app, body)
    assert await found(app, f"Observation?patient={number}&{query}") == ({result} if hit else set())


async def test_who_is_not_known_to_be_dead_is_not(app: Hospital) -> None:
    living, dead = await made(app, patient()), await made(app, patient(deceasedBoolean=True))
    assert await found(app, f"Patient?deceased=false&_id={living},{dead}") == {living}
    assert await found(app, f"Patient?gender=http://hl7.org/fhir/administrative-gender|male&_id={living}") == set()


async def test_uris_below(app: Hospital) -> None:
    base = f"http://example.org/{unique('u')}"
    number = await made(app, {"resourceType": "ValueSet", "status": "draft", "url": f"{base}/ValueSet/a"})
    assert await found(app, f"ValueSet?url:below={base}") == {number}
    assert await found(app, f"ValueSet?url:below={base}/Value") == set()
    assert await found(app, f"ValueSet?url:above={base}/ValueSet/a/b") == {number}


async def test_summaries_and_elements_of_a_read(app: Hospital) -> None:
    photo = [{"contentType": "image/png", "data": base64.b64encode(b"x" * 30).decode()}]
    number = await made(app, patient(gender="male", photo=photo, birthDate="1980-01-01"))
    short = (await send(app, "GET", f"Patient/{number}?_summary=true")).json
    assert "photo" not in short
    assert short["meta"]["tag"][-1]["code"] == "SUBSETTED"
    assert set((await send(app, "GET", f"Patient/{number}?_elements=gender")).json) == {
        "resourceType",
        "id",
        "meta",
        "gender",
    }


async def test_every_read_may_stand_in_a_batch(app: Hospital) -> None:
    number = await made(app, patient())
    urls = [f"Patient/{number}/_history", f"Patient/{number}/_history/1", f"Patient/{number}/$everything", "metadata"]
    entries: list[Any] = [{"request": {"method": "GET", "url": url}} for url in urls]
    entries.append({"request": {"method": "GET", "url": f"Patient/{number}", "ifNoneMatch": 'W/"1"'}})
    entries.append({"request": {"method": "GET", "url": "Patient/nothing"}})
    patch = base64.b64encode(b'[{"op":"add","path":"/active","value":true}]').decode()
    binary = {"resourceType": "Binary", "contentType": "application/json-patch+json", "data": patch}
    entries.append({"resource": binary, "request": {"method": "PATCH", "url": f"Patient/{number}"}})
    reply = await send(app, "POST", "", {"resourceType": "Bundle", "type": "batch", "entry": entries})
    assert [entry["response"]["status"][:3] for entry in reply.json["entry"]] == ["200"] * 4 + ["304", "404", "200"]
    empty = await send(app, "POST", "", {"resourceType": "Bundle", "type": "transaction"})
    assert empty.json == {"resourceType": "Bundle", "type": "transaction-response"}
    for wrong in ({"entry": []}, {"foo": 1}, {"entry": [{**entries[0], "bar": 2}]}):
        assert (await send(app, "POST", "", {"resourceType": "Bundle", "type": "batch", **wrong})).status == 400, wrong


async def test_names_within_a_transaction(app: Hospital) -> None:
    base = f"{app.installation.url}/fhir/R4"
    link = (
        '<div xmlns="http://www.w3.org/1999/xhtml"><a href="urn:uuid:61ebe359-bfdc-4613-8bf2-c5e300945f0a">x</a></div>'
    )
    about = observation("tmpa", text={"status": "generated", "div": link})
    entries = [
        {"fullUrl": f"{base}/Patient/tmpa", "resource": patient(), "request": {"method": "POST", "url": "Patient"}},
        {
            "fullUrl": "urn:uuid:61ebe359-bfdc-4613-8bf2-c5e300945f0a",
            "resource": about,
            "request": {"method": "POST", "url": "Observation"},
        },
    ]
    reply = (await send(app, "POST", "", {"resourceType": "Bundle", "type": "transaction", "entry": entries})).json
    person, result = (entry["resource"] for entry in reply["entry"])
    assert result["subject"] == {"reference": f"Patient/{person['id']}"}
    assert f'href="Observation/{result["id"]}"' in result["text"]["div"]
    entries[1]["fullUrl"] = entries[0]["fullUrl"]
    assert (
        await send(app, "POST", "", {"resourceType": "Bundle", "type": "transaction", "entry": entries})
    ).status == 400


async def test_json_patch_knows_true_from_one(app: Hospital) -> None:
    number = await made(app, patient(active=True, multipleBirthInteger=1))
    for path, value in (("/active", 1), ("/multipleBirthInteger", True)):
        test = [{"op": "test", "path": path, "value": value}]
        reply = await send(app, "PATCH", f"Patient/{number}", test, Content_Type="application/json-patch+json")
        assert reply.status == 422
    wrong = [{"op": "add", "path": 1, "value": 1}]
    assert (
        await send(app, "PATCH", f"Patient/{number}", wrong, Content_Type="application/json-patch+json")
    ).status == 422


async def test_what_is_passed_over_leaves_nothing_behind(app: Hospital) -> None:
    number = await made(app, patient(gender="male"))
    path = f"Patient?_id={number}&_filter=gender eq female and nothing eq 1"
    assert await found_leniently(app, path) == {number}
    assert (await send(app, "GET", path)).status == 400


async def found_leniently(app: Hospital, path: str) -> set[str]:
    reply = await send(app, "GET", path, Prefer="handling=lenient")
    assert reply.status == 200, reply.body
    return {entry["resource"]["id"] for entry in reply.json["entry"] if entry["search"]["mode"] == "match"}


@pytest.mark.parametrize("sort", ["_id", "-_id", "birthdate,_id", "_lastUpdated,-_id"])
async def test_pages_in_the_order_of_ids(app: Hospital, sort: str) -> None:
    tag = unique("page")
    numbers = {await made(app, patient(meta={"tag": [{"code": tag}]})) for _ in range(5)}
    path, seen = f"Patient?_tag={tag}&_sort={sort}&_count=2", list[str]()
    while path:
        reply = await send(app, "GET", path)
        assert reply.status == 200, reply.body
        seen += [entry["resource"]["id"] for entry in reply.json["entry"]]
        following = (link["url"] for link in reply.json["link"] if link["relation"] == "next")
        path = next(following, "").partition("/fhir/R4/")[2]
    assert sorted(seen) == sorted(numbers)


async def test_another_servers_patient_is_not_ours(app: Hospital) -> None:
    family = unique("Own")
    number = await made(app, patient(name=[{"family": family}]))
    other = observation("x", subject={"reference": f"http://other.example/fhir/Patient/{number}"})
    about = await made(app, other)
    for query in (f"subject={number}", f"subject:Patient.name={family}", f"patient:Patient.family={family}"):
        assert await found(app, f"Observation?{query}") == set(), query
    assert await found(app, f"Observation?subject=http://other.example/fhir/Patient/{number}") == {about}
    whole = await send(app, "GET", f"Patient?_id={number}&_revinclude=Observation:subject")
    assert [entry["resource"]["id"] for entry in whole.json["entry"]] == [number]
    own = await made(app, observation("x", subject={"reference": f"{app.installation.url}/fhir/R4/Patient/{number}"}))
    assert await found(app, f"Observation?subject:Patient.name={family}") == {own}


async def test_one_condition_twice_in_a_transaction_makes_one(app: Hospital) -> None:
    value = unique("once")
    entry = {
        "resource": patient(value),
        "request": {"method": "POST", "url": "Patient", "ifNoneExist": f"identifier={SYSTEM}|{value}"},
    }
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [entry, entry]}
    reply = await send(app, "POST", "", bundle, Prefer="return=minimal")
    assert [each["response"]["status"][:3] for each in reply.json["entry"]] == ["201", "200"]
    assert all("resource" not in each for each in reply.json["entry"])
    assert len(await found(app, f"Patient?identifier={SYSTEM}|{value}")) == 1


async def test_a_transaction_whose_read_fails_writes_nothing(app: Hospital) -> None:
    value = unique("read")
    number = unique("own-")
    write = {"resource": patient(value, id=number), "request": {"method": "PUT", "url": f"Patient/{number}"}}
    for url, status in (("Patient/nothing", 404), ("Foo/1", 404), (1, 400), (f"Patient/{number}", 200)):
        entries = [write, {"request": {"method": "GET", "url": url}}]
        reply = await send(app, "POST", "", {"resourceType": "Bundle", "type": "transaction", "entry": entries})
        assert reply.status == status, (url, reply.body)
        assert len(await found(app, f"Patient?identifier={SYSTEM}|{value}")) == (status == 200)


async def test_a_history_tells_what_was_answered(app: Hospital) -> None:
    number = await made(app, patient())
    await send(app, "DELETE", f"Patient/{number}")
    assert (await send(app, "PUT", f"Patient/{number}", patient(id=number))).status == 201
    history = (await send(app, "GET", f"Patient/{number}/_history")).json
    assert [entry["response"]["status"] for entry in history["entry"]] == ["201", "204", "201"]
    assert (await send(app, "GET", f"Patient/{number}?_at=")).status == 400
    assert (await send(app, "GET", f"Patient/{number}", Accept="application/fhir+json; fhirVersion=3.0")).status == 406


@pytest.mark.parametrize(
    "element",
    [
        {"_birthDate": {"id": "a"}},
        {"name": [{"_given": [{"id": "x"}]}]},
        {"contained": [{"resourceType": "Organization", "id": "a", "name": "x"}]},
        {"managingOrganization": {"reference": "#nope"}},
        {"photo": [{"data": "AAAA"}]},
        {"text": {"status": "generated", "div": '<div xmlns="http://www.w3.org/1999/xhtml">&foo;</div>'}},
        {"extension": [{"url": "urn:x", "valueRatio": {"numerator": {"value": 1}}}]},
        {"extension": [{"url": "urn:x", "valueTiming": {"repeat": {"period": 1}}}]},
    ],
)
async def test_invariants(app: Hospital, element: dict[str, Any]) -> None:
    assert (await send(app, "POST", "Patient", patient(**element))).status == 422


async def test_words_between_xml_elements(app: Hospital) -> None:
    document = '<Patient xmlns="http://hl7.org/fhir"><active value="true">lost words</active></Patient>'
    assert (await send(app, "POST", "Patient", document, Content_Type="application/fhir+xml")).status == 400
