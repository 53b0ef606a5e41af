"""What the CapabilityStatement claims, tried for every resource type; others' examples are taken as they are."""

from __future__ import annotations

import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Hospital, NewHospital, unique
from tests.functions.fhir_client import made, patient, send

from carefolio.fhir.definitions import elements, primitives

SHARED = Path(__file__).parents[3] / "shared/fhir"
EXAMPLES = SHARED / "r4-official-examples.ndjson.gz"
UK_CORE = SHARED / "ukcore/examples"
SYNTHEA = SHARED / "synthea"


@pytest.mark.skipif(not EXAMPLES.exists(), reason="R4's examples are not at hand")
async def test_each_claimed_interaction_works_for_each_type(app: Hospital) -> None:
    statement = (await send(app, "GET", "metadata")).json
    examples: dict[str, Any] = {}
    with gzip.open(EXAMPLES) as lines:
        for line in lines:
            example = json.loads(line)
            examples.setdefault(example["resourceType"], example)
    someone = await made(app, patient())
    for resource in statement["rest"][0]["resource"]:
        kind, claims = resource["type"], {interaction["code"] for interaction in resource["interaction"]}
        example = examples.get(kind) or {"resourceType": kind, **least(kind)}
        # A record of our own for those that belong to a patient.
        text = json.dumps(example).replace('"Patient/example"', f'"Patient/{someone}"')
        if kind == "SearchParameter":
            text = text.replace('"active"', '"draft"')
        body = json.loads(text) | {"id": unique("claim-")}
        path = f"{kind}/{body['id']}"
        tried = {
            "update": (await send(app, "PUT", path, body)).status == 201,
            "read": (await send(app, "GET", path)).status == 200,
            "vread": (await send(app, "GET", f"{path}/_history/1")).status == 200,
            "search-type": (await send(app, "GET", f"{kind}?_id={body['id']}")).json.get("total") == 1,
            "history-instance": len((await send(app, "GET", f"{path}/_history")).json["entry"]) == 1,
            "history-type": (await send(app, "GET", f"{kind}/_history?_count=1")).json["type"] == "history",
        }
        patch = [{"op": "add", "path": "/language", "value": "en"}]
        patched = await send(app, "PATCH", path, patch, Content_Type="application/json-patch+json")
        tried["patch"] = patched.status == 200 and patched.json["language"] == "en"
        again = await send(app, "POST", kind, body, If_None_Exist=f"_id={body['id']}")
        assert (again.status, again.json["id"]) == (200, body["id"]), (kind, "conditionalCreate")
        tried["delete"] = (await send(app, "DELETE", path)).status == 204
        created = await send(app, "POST", kind, body)
        tried["create"] = created.status == 201
        assert claims == {code for code, works in tried.items() if works}, (kind, tried)
        known = resource["conditionalDelete"] == "multiple"
        gone = await send(app, "DELETE", f"{kind}?_id={created.json['id']}")
        assert known is (gone.status in (200, 204)), kind


@pytest.mark.skipif(not UK_CORE.exists(), reason="UK Core's examples are not at hand")
async def test_uk_cores_examples_are_accepted_as_they_are(app: Hospital) -> None:
    refused = {}
    for file in sorted(UK_CORE.glob("*.xml")):
        document = file.read_text("utf-8-sig")
        kind = document.partition("xmlns=")[0].rpartition("<")[2].strip()
        if kind == "Bundle":
            continue
        reply = await send(app, "POST", kind, document, Content_Type="application/fhir+xml")
        if reply.status != 201:
            refused[file.name] = reply.body[:300]
    assert not refused


VALUES = {
    "boolean": True, "integer": 1, "positiveInt": 1, "unsignedInt": 1, "decimal": 1.5, "date": "2024-01-01",
    "dateTime": "2024-01-01", "instant": "2024-01-01T00:00:00Z", "time": "00:00:00", "base64Binary": "AAAA",
    "uri": "urn:x", "url": "urn:x", "canonical": "urn:x", "oid": "urn:oid:1.2",
}  # fmt: skip


def least(kind: str) -> dict[str, Any]:
    """The least that a type may say."""
    made: dict[str, Any] = {}
    for name, element in elements(kind).items():
        if not element.least or element.choice in {
            known.choice for n, known in elements(kind).items() if n in made and known.choice
        }:
            continue
        if element.type in primitives():
            value = min(element.codes) if element.codes else VALUES.get(element.type, "x")
        elif element.type == "Resource":
            value = {"resourceType": "Basic", "code": {"text": "x"}}
        else:
            value = least(element.type) or {"Reference": {"display": "x"}, "Identifier": {"value": "x"}}.get(
                element.type, {"text": "x"} if element.type == "CodeableConcept" else {"id": "x"}
            )
            if element.codes:
                coding = {"code": min(element.codes)}
                value = coding if element.type == "Coding" else {"coding": [coding]}
        made[name] = [value] if element.most != 1 else value
    return made


def unpacked(file: Path) -> bytes:
    return gzip.decompress(file.read_bytes())


def synthea() -> list[Path]:
    return sorted(SYNTHEA.glob("[bs]*.json.gz"))


@pytest.mark.skipif(not SYNTHEA.exists(), reason="Synthea's bundles are not at hand")
@pytest.mark.parametrize("several", [3, pytest.param(100, marks=pytest.mark.long)])
@pytest.mark.timeout(900)
async def test_synthea_bundles_come_back_equal(new_hospital: NewHospital, several: int) -> None:
    app = await new_hospital(scope="system/*.cruds")
    for file in sorted(SYNTHEA.glob("prerequisites-*.json.gz")):
        reply = await send(app, "POST", "", unpacked(file))
        assert reply.status == 200, (file.name, reply.body[:500])
    compared = 0
    for file in synthea()[:several]:
        reply = await send(app, "POST", "", unpacked(file))
        assert reply.status == 200, (file.name, reply.body[:500])
        compared += await equal(app, json.loads(unpacked(file), parse_float=Decimal)["entry"], reply.json["entry"])
    assert compared > 100 * several / 2


async def equal(app: Hospital, sent: list[Any], answered: list[Any]) -> int:
    """How many resources of a transaction are stored as they were sent, their references resolved."""
    places = [entry["response"]["location"].split("/fhir/R4/")[1].partition("/_history")[0] for entry in answered]
    names = {entry["fullUrl"]: place for entry, place in zip(sent, places, strict=True)}
    for start in range(0, len(sent), 500):
        gets = [{"request": {"method": "GET", "url": place}} for place in places[start : start + 500]]
        batch = {"resourceType": "Bundle", "type": "batch", "entry": gets}
        body = json.loads((await send(app, "POST", "", batch)).body, parse_float=Decimal)
        for entry, stored in zip(sent[start:], body["entry"], strict=False):
            wanted = renamed(entry["resource"], names)
            assert plain(stored["resource"]) == plain(wanted), stored["resource"]["id"]
    return len(sent)


def renamed(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {
            name: inner if name == "reference" and "?" in str(inner) else renamed(inner, names)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [renamed(inner, names) for inner in value]
    return names.get(value, value) if isinstance(value, str) else value


def plain(resource: dict[str, Any]) -> Any:
    """Without id and meta; conditional references stand for what they found."""

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                name: "conditional"
                if name == "reference" and ("?" in inner or inner.split("/")[0] in REFERRED)
                else walk(inner)
                for name, inner in value.items()
            }
        return [walk(inner) for inner in value] if isinstance(value, list) else value

    return walk({name: value for name, value in resource.items() if name not in ("id", "meta")})


# What Synthea refers to by condition.
REFERRED = ("Practitioner", "Organization", "Location")
