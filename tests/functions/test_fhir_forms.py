"""The forms in which answers come, and FHIR's operations on one resource."""

from __future__ import annotations

import asyncio
import base64
import gzip
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from tests.conftest import Hospital, NewHospital, unique
from tests.functions.fhir_client import SYSTEM, found, made, observation, patient, send

XML = "application/fhir+xml"


async def test_xml_goes_both_ways(app: Hospital) -> None:
    document = '<Basic xmlns="http://hl7.org/fhir"><code><text value="x &amp; y"/></code></Basic>'
    created = await send(app, "POST", "Basic", document, Content_Type=XML, Accept=XML)
    assert (created.status, created.headers["Content-Type"]) == (201, "application/fhir+xml; charset=utf-8")
    assert b'<text value="x &amp; y"/>' in created.body
    number = created.headers["Location"].split("/Basic/")[1].partition("/")[0]
    assert (await send(app, "GET", f"Basic/{number}")).json["code"] == {"text": "x & y"}
    assert b"<Basic" in (await send(app, "GET", f"Basic?_id={number}&_format=xml")).body
    # An explicit _format is stronger than Accept; errors come in the same form.
    assert (await send(app, "GET", f"Basic/{number}?_format=json", Accept=XML)).json["id"] == number
    refused = await send(app, "GET", "Basic/nothing", Accept=XML)
    assert (refused.status, refused.body[:38]) == (404, b'<?xml version="1.0" encoding="UTF-8"?>')
    assert (await send(app, "GET", "Basic", Accept="text/turtle")).status == 406
    assert (await send(app, "GET", "Basic", Accept="text/turtle, application/json;q=0.1")).status == 200
    assert (await send(app, "POST", "Basic", document, Content_Type="text/turtle")).status == 415
    wrong = await send(app, "POST", "Patient", '<Patient xmlns="http://hl7.org/fhir"><a/></Patient>', Content_Type=XML)
    assert (wrong.status, wrong.json["issue"][0]["expression"]) == (400, ["Patient.a"])


async def test_a_transaction_in_xml(app: Hospital) -> None:
    name = unique("tx")
    document = f"""<Bundle xmlns="http://hl7.org/fhir"><type value="transaction"/><entry>
        <fullUrl value="urn:uuid:61ebe359-bfdc-4613-8bf2-c5e300945f0a"/>
        <resource><Patient><name><family value="{name}"/></name></Patient></resource>
        <request><method value="POST"/><url value="Patient"/></request></entry></Bundle>"""
    done = await send(app, "POST", "", document, Content_Type=XML)
    assert done.status == 200, done.body
    assert len(await found(app, f"Patient?family={name}")) == 1


async def test_indented_and_compressed(app: Hospital) -> None:
    number = await made(app, patient(name=[{"text": "x" * 2000}]))
    assert b'{\n  "resourceType"' in (await send(app, "GET", f"Patient/{number}?_pretty=true")).body
    plain = await send(app, "GET", f"Patient/{number}", Accept_Encoding="identity")
    packed = await app.request(
        "GET",
        f"/fhir/R4/Patient/{number}",
        headers={"Authorization": f"Bearer {app.token}", "Accept-Encoding": "gzip"},
        auto_decompress=False,
    )
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body


async def test_a_binary_comes_as_what_it_holds(app: Hospital) -> None:
    created = await send(app, "POST", "Binary", "a letter", Content_Type="text/plain")
    number = created.json["id"]
    assert created.json["data"] == base64.b64encode(b"a letter").decode()
    held = await send(app, "GET", f"Binary/{number}", Accept="*/*")
    assert (held.body, held.headers["Content-Type"].partition(";")[0]) == (b"a letter", "text/plain")
    # A page that somebody stored never runs as ours.
    assert held.headers["Content-Security-Policy"] == "sandbox"
    assert (await send(app, "GET", f"Binary/{number}", Accept="application/fhir+json")).json["id"] == number


async def test_validate(app: Hospital) -> None:
    async def issues(path: str, body: Any = None, method: str = "POST") -> list[tuple[str, Any]]:
        reply = await send(app, method, path, body)
        assert reply.status == 200, reply.body
        return [(issue["severity"], issue.get("expression")) for issue in reply.json["issue"]]

    good = patient()
    assert await issues("Patient/$validate", good) == [("information", None)]
    wrapped = {"resourceType": "Parameters", "parameter": [{"name": "resource", "resource": {**good, "gender": "x"}}]}
    assert await issues("Patient/$validate", wrapped) == [("error", ["Patient.gender"])]
    assert await issues("Observation/$validate", good) == [("error", ["Patient"])]
    number = await made(app, good)
    assert await issues(f"Patient/{number}/$validate", method="GET") == [("information", None)]
    assert await issues("Patient/$validate?profile=urn:x", good) == [("warning", None), ("information", None)]
    assert (await send(app, "POST", "Patient/$validate", {"resourceType": "Parameters"})).status == 400


async def test_meta(app: Hospital) -> None:
    tag = {"system": SYSTEM, "code": unique("t")}
    number = await made(app, patient())
    given = {"resourceType": "Parameters", "parameter": [{"name": "meta", "valueMeta": {"tag": [tag]}}]}
    added = await send(app, "POST", f"Patient/{number}/$meta-add", given)
    assert added.json["parameter"][0]["valueMeta"]["tag"] == [tag]
    again = await send(app, "POST", f"Patient/{number}/$meta-add", given)
    assert again.json["parameter"][0]["valueMeta"]["versionId"] == "2"
    assert await found(app, f"Patient?_tag={SYSTEM}|{tag['code']}") == {number}
    assert (await send(app, "GET", f"Patient/{number}/$meta")).json == added.json
    await send(app, "POST", f"Patient/{number}/$meta-delete", given)
    assert await found(app, f"Patient?_tag={SYSTEM}|{tag['code']}") == set()
    first = (await send(app, "GET", f"Patient/{number}/_history/1/$meta")).json
    assert first["parameter"][0]["valueMeta"]["versionId"] == "1"
    assert (await send(app, "POST", f"Patient/{number}/$meta-add", {"resourceType": "Parameters"})).status == 400


async def test_the_record_as_it_stood(app: Hospital) -> None:
    async def now() -> str:
        """A moment with nothing in its millisecond."""
        await asyncio.sleep(0.005)
        moment = datetime.now(UTC)
        await asyncio.sleep(0.005)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    before = await now()
    number = await made(app, patient(gender="female", name=[{"family": unique("Then")}]))
    weight = await made(app, observation(number, 70))
    family = (await send(app, "GET", f"Patient/{number}")).json["name"][0]["family"]
    then = await now()
    changed = patient(gender="male", name=[{"family": "Other"}], id=number)
    assert (await send(app, "PUT", f"Patient/{number}", changed)).status == 200
    await send(app, "DELETE", f"Observation/{weight}")
    assert (await send(app, "GET", f"Patient/{number}?_at={then}")).json["gender"] == "female"
    assert (await send(app, "GET", f"Patient/{number}?_at={before}")).status == 404
    assert (await send(app, "GET", f"Patient/{number}")).json["gender"] == "male"
    assert await found(app, f"Patient?family={family}") == set()
    assert await found(app, f"Patient?family={family}&gender=female&_at={then}") == {number}
    assert await found(app, f"Observation?patient={number}&_at={then}&value-quantity=70") == {weight}
    assert await found(app, f"Observation?subject:Patient.family={family}&_at={then}") == {weight}
    assert await found(app, f"Patient?_has:Observation:patient:code=29463-7&_id={number}&_at={then}") == {number}
    included = await send(app, "GET", f"Patient?_id={number}&_revinclude=Observation:subject&_at={then}")
    assert {entry["resource"]["id"] for entry in included.json["entry"]} == {number, weight}
    whole = (await send(app, "GET", f"Patient/{number}/$everything?_at={then}")).json
    assert {entry["resource"]["id"] for entry in whole["entry"]} == {number, weight}
    assert (await send(app, "GET", f"Patient/{number}?_at=rubbish")).status == 400


async def test_filters(app: Hospital) -> None:
    tag = unique("f")
    meta = {"tag": [{"system": SYSTEM, "code": tag}]}
    name = unique("Filter")
    first = await made(app, patient(meta=meta, gender="female", name=[{"family": name}], birthDate="1980-05-01"))
    second = await made(app, patient(meta=meta, gender="male", name=[{"family": name + "son"}], birthDate="1990"))
    third = await made(app, observation(first, 70, meta=meta))

    async def those(kind: str, expression: str) -> set[str]:
        return await found(app, f"{kind}?_tag={SYSTEM}|{tag}&_filter={expression}")

    assert await those("Patient", f'family eq "{name}"') == {first}
    assert await those("Patient", f'family sw "{name}"') == {first, second}
    assert await those("Patient", 'family ew "son"') == {second}
    assert await those("Patient", f'family co "{name[2:]}s"') == {second}
    assert await those("Patient", "gender ne male") == {first}
    assert await those("Patient", "birthdate lt 1985-01-01 or gender eq male and birthdate gt 2000") == {first}
    assert await those("Patient", "not (birthdate po 1980)") == {second}
    assert await those("Patient", "address pr false and (gender eq male or gender eq female)") == {first, second}
    assert await those("Observation", f'subject.family eq "{name}" and value-quantity gt 69') == {third}
    assert await those("Observation", f"subject re Patient/{first}") == {third}
    for wrong in (
        "family",
        "family eq",
        "(family eq a",
        "family xx a",
        "nothing eq a",
        "gender gt a",
        'family eq "a',
        "a[b eq c].d eq e",
    ):
        reply = await send(app, "GET", f"Patient?_filter={wrong}")
        assert reply.status == 400, wrong


async def test_words_of_the_narrative_and_of_all(app: Hospital) -> None:
    word, other = unique("w").lower(), unique("w").lower()
    narrative = {"status": "generated", "div": f'<div xmlns="http://www.w3.org/1999/xhtml"><p>Ödem {word}</p></div>'}
    number = await made(app, patient(text=narrative, contact=[{"name": {"text": f"Mrs {other}"}}]))
    for query, hit in {
        f"_text={word}": True,
        f"_text=odem {word.upper()}": True,
        f"_text={other}": False,
        f"_content={word}": True,
        f"_content={other} mrs": True,
        f"_content={other} mr": False,
        f"_content=nothing{other},{word}": True,
        "_content=identifier": False,
    }.items():
        assert (number in await found(app, f"Patient?{query}")) is hit, query
    assert (await send(app, "GET", "Patient?_content=-")).status == 400


async def test_what_a_list_holds(app: Hospital) -> None:
    inside, outside = await made(app, patient()), await made(app, patient())
    entries = [
        {"item": {"reference": f"Patient/{inside}"}},
        {"deleted": True, "item": {"reference": f"Patient/{outside}"}},
    ]
    number = await made(app, {"resourceType": "List", "status": "current", "mode": "working", "entry": entries})
    assert await found(app, f"Patient?_list={number}") == {inside}
    assert await found(app, "Patient?_list=nothing") == set()


@pytest.mark.parametrize(
    ("query", "hit"),
    [
        ("80000|http://unitsofmeasure.org|g", True),
        ("le80000|http://unitsofmeasure.org|g", True),
        ("lt80000|http://unitsofmeasure.org|g", False),
        ("gt79999|http://unitsofmeasure.org|g", True),
        ("80|http://unitsofmeasure.org|kg", True),
        ("ap176|http://unitsofmeasure.org|[lb_av]", True),
        ("80|http://unitsofmeasure.org|g", False),
        ("80|http://unitsofmeasure.org|mmol", False),
        ("80||kg", True),
    ],
)
async def test_quantities_in_other_units(app: Hospital, query: str, hit: bool) -> None:
    number = await made(app, patient())
    weight = await made(app, observation(number, 80))
    assert await found(app, f"Observation?patient={number}&value-quantity={query}") == ({weight} if hit else set())


@pytest.mark.parametrize(
    ("near", "hit"),
    [
        ("51.5074|-0.1278|1|km", True),
        ("51.5|-0.1|5", True),
        ("51.6|-0.1278|5|km", False),
        ("51.6|-0.1278|20000|m", True),
        ("51.5074|-0.1278", True),
        ("48.8566|2.3522|300|[mi_i]", True),
        ("48.8566|2.3522|100|km", False),
    ],
)
async def test_places_near(app: Hospital, near: str, hit: bool) -> None:
    tag = {"tag": [{"system": SYSTEM, "code": "london"}]}
    london = {"resourceType": "Location", "meta": tag, "position": {"latitude": 51.5074, "longitude": -0.1278}}
    number = await made(app, london)
    await made(app, {"resourceType": "Location", "meta": tag, "name": "nowhere"})
    assert (number in await found(app, f"Location?near={near}")) is hit
    for wrong in ("1", "a|b", "91|0|1", "1|1|1|kg", "1|1|-1"):
        assert (await send(app, "GET", f"Location?near={wrong}")).status == 400


async def test_sorted_by_codes(app: Hospital) -> None:
    tag = unique("s")
    meta = {"tag": [{"system": SYSTEM, "code": tag}]}
    numbers = [await made(app, patient(meta=meta, **more)) for more in ({"gender": "male"}, {}, {"gender": "female"})]
    reply = await send(app, "GET", f"Patient?_tag={SYSTEM}|{tag}&_sort=gender")
    assert [entry["resource"]["id"] for entry in reply.json["entry"]] == [numbers[2], numbers[0], numbers[1]]


def parameter(code: str, **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "SearchParameter",
        "url": f"urn:{code}",
        "name": "test",
        "status": "active",
        "description": "x",
        "code": code,
        "base": ["Patient"],
        "type": "token",
        "expression": "Patient.maritalStatus",
        **more,
    }


async def test_a_search_parameter_of_ones_own(
    app: Hospital, new_hospital: NewHospital, database: asyncpg.Pool, pool: asyncpg.Pool
) -> None:
    code = unique("marital-")
    value = unique("M")
    married = {"coding": [{"code": value}]}
    older = await made(app, patient(maritalStatus=married))
    defined = await made(app, parameter(code))
    newer = await made(app, patient(maritalStatus=married))
    reply = (await send(app, "GET", f"Patient?{code}={value}")).json
    assert {e["resource"]["id"] for e in reply["entry"] if e["search"]["mode"] == "match"} == {newer}
    # What is not there yet is told.
    assert "still being indexed" in str(reply["entry"][-1])
    other = await new_hospital(scope="system/*.cruds")
    assert (await send(other, "GET", f"Patient?{code}={value}")).status == 400
    await database.execute("UPDATE search_parameter SET created_at = created_at - interval '1 minute'")
    from carefolio.record.reindex import index_new

    assert await index_new(pool) > 0
    assert await found(app, f"Patient?{code}={value}") == {older, newer}
    about = await made(app, observation(older))
    assert await found(app, f"Observation?subject:Patient.{code}={value}") == {about}
    assert (await send(app, "POST", "SearchParameter", parameter(code))).status == 409
    await send(app, "DELETE", f"SearchParameter/{defined}")
    assert (await send(app, "GET", f"Patient?{code}={value}")).status == 400


@pytest.mark.parametrize(
    "wrong",
    [
        {"code": "family"},
        {"code": "a b"},
        {"expression": "Patient.name.repeat(x)"},
        {"expression": "Observation.code"},
        {"base": ["DomainResource"]},
        {"type": "special"},
    ],
)
async def test_search_parameters_that_cannot_be_indexed(app: Hospital, wrong: dict[str, Any]) -> None:
    reply = await send(app, "POST", "SearchParameter", parameter(unique("w-")) | wrong)
    assert reply.status == 422
    assert reply.json["issue"][0]["expression"][0].startswith("SearchParameter.")


async def test_an_app_does_not_change_who_may_see(app: Hospital, database: asyncpg.Pool) -> None:
    label = {"system": "https://fhir.carefolio.uk/CodeSystem/privacy-label", "code": "mental-health"}
    number = await made(app, patient())
    secret = await made(app, observation(number, meta={"security": [label]}))
    changed = await send(app, "PUT", f"Observation/{secret}", observation(number, 71, id=secret))
    assert changed.json["meta"]["security"] == [label]
    assert (
        await database.fetchval("SELECT label FROM resource WHERE content LIKE $1", f'%"id":"{secret}"%')
        == "mental-health"
    )


async def test_the_server_answers_under_the_address_that_it_was_called_by(app: Hospital) -> None:
    """One machine is localhost and 127.0.0.1; links and references work under both, and under no other's."""
    port = app.installation.here.port
    made = await app.http.request(
        "POST", f"http://127.0.0.1:{port}/fhir/R4/Patient", json={"resourceType": "Patient"},
        headers={"Authorization": f"Bearer {await app.authorize()}", "Content-Type": "application/fhir+json"},
    )  # fmt: skip
    assert made.headers["Location"].startswith(f"http://127.0.0.1:{port}/fhir/R4/Patient/")
    patient = made.headers["Location"].partition("/_history")[0]
    for subject in (patient, patient.replace("127.0.0.1", "localhost")):
        observation = {"resourceType": "Observation", "status": "final", "code": {"text": "x"},
                       "subject": {"reference": subject}}  # fmt: skip
        await app.request(
            "POST", "/fhir/R4/Observation", json=observation,
            headers={"Authorization": f"Bearer {await app.authorize()}", "Content-Type": "application/fhir+json"},
        )  # fmt: skip
    for base in ("127.0.0.1", "localhost"):
        found = await app.http.get(
            f"http://{base}:{port}/fhir/R4/Observation?subject={patient.replace('127.0.0.1', base)}",
            headers={"Authorization": f"Bearer {await app.authorize()}"},
        )
        bundle = await found.json(content_type=None)
        assert bundle["total"] == 2
        assert bundle["link"][0]["url"].startswith(f"http://{base}:{port}/")
