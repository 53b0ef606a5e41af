"""What an app does, in a line each."""

from __future__ import annotations

import io
import json
from typing import Any

from tests.conftest import Hospital, Reply, unique

SYSTEM = "urn:test"


async def send(app: Hospital, method: str, path: str, body: Any = None, **headers: str) -> Reply:
    sent = await app.bearer() | {"Content-Type": "application/fhir+json"}
    data = json.dumps(body).encode() if isinstance(body, dict | list) else body
    if isinstance(data, bytes):
        data = io.BytesIO(data)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await app.request(method, f"/fhir/R4/{path}", data=data, headers=sent | named)


def patient(value: str = "", **more: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "identifier": [{"system": SYSTEM, "value": value or unique("I")}], **more}


def observation(number: str, value: Any = 70, code: str = "29463-7", **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
        "subject": {"reference": f"Patient/{number}"},
        "valueQuantity": {"value": value, "unit": "kg", "system": "http://unitsofmeasure.org", "code": "kg"},
        **more,
    }


async def made(app: Hospital, resource: dict[str, Any]) -> str:
    reply = await send(app, "POST", resource["resourceType"], resource)
    assert reply.status == 201, reply.body
    return str(reply.json["id"])


async def found(app: Hospital, path: str) -> set[str]:
    reply = await send(app, "GET", path)
    assert reply.status == 200, reply.body
    return {e["resource"]["id"] for e in reply.json.get("entry", []) if e["search"]["mode"] == "match"}
