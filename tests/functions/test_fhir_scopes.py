"""Scopes with a query open what the query finds, by every way there is."""

from __future__ import annotations

import json

from tests.conftest import Hospital, basic, unique
from tests.functions.fhir_client import found, made, observation, patient, send


async def restricted(app: Hospital, scope: str) -> Hospital:
    """Another client of the same organisation."""
    added = app.installation.cli("client", "add", "x", "--organisation", app.ods_code, "--scope", scope, "--json")
    other = Hospital(app.ods_code, app.sender, json.loads(added.stdout), app.installation, app.http, app.database)
    form = {"grant_type": "client_credentials"}
    authorization = basic(other.client["client_id"], other.client["client_secret"])
    reply = await app.request("POST", "/oauth2/token", data=form, headers={"Authorization": authorization})
    other.token = reply.json["access_token"]
    return other


async def test_a_scope_with_a_query_opens_what_it_finds(app: Hospital) -> None:
    number = await made(app, patient(name=[{"family": unique("Scope")}]))
    category = [
        {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "laboratory"}]}
    ]
    shown = await made(app, observation(number, category=category))
    hidden = await made(app, observation(number, code="8302-2"))
    other = await restricted(app, "system/Patient.rs system/Observation.rs?category=laboratory system/Encounter.rs")
    assert (await send(other, "GET", f"Observation/{shown}")).status == 200
    assert (await send(other, "GET", f"Observation/{hidden}")).status == 404
    assert (await send(other, "GET", f"Observation/{hidden}/_history/1")).status == 404
    assert await found(other, f"Observation?patient={number}") == {shown}
    counted = (await send(other, "GET", f"Observation?patient={number}&_summary=count")).json
    assert counted["total"] == 1
    assert await found(other, f"Patient?_has:Observation:patient:code=8302-2&_id={number}") == set()
    included = (await send(other, "GET", f"Patient?_id={number}&_revinclude=Observation:subject")).json
    assert hidden not in {entry["resource"]["id"] for entry in included["entry"]}
    history = (await send(other, "GET", "Observation/_history?_count=100")).json
    assert hidden not in str(history)
    assert (await send(other, "GET", f"Provenance?target=Observation/{hidden}")).status == 403
    assert await found(other, f"Patient?_id={number}") == {number}
    # With the whole type beside it the query restricts nothing.
    whole = await restricted(app, "system/*.rs system/Observation.rs?category=laboratory")
    assert await found(whole, f"Observation?patient={number}") == {shown, hidden}


async def test_nobody_writes_over_what_his_scope_hides(app: Hospital) -> None:
    number = await made(app, patient())
    hidden = await made(app, observation(number))
    other = await restricted(app, "system/Patient.rs system/Observation.rs?category=laboratory system/Observation.cud")
    patch = [{"op": "add", "path": "/language", "value": "en"}]
    reply = await send(other, "PATCH", f"Observation/{hidden}", patch, Content_Type="application/json-patch+json")
    assert (reply.status, b"valueQuantity" in reply.body) == (403, False)
    assert (await send(other, "PUT", f"Observation/{hidden}", observation(number, id=hidden))).status == 403
    assert (await send(other, "DELETE", f"Observation/{hidden}")).status == 403
    assert (await send(other, "POST", "Observation", observation(number))).status == 201


async def test_scopes_that_cannot_be(app: Hospital) -> None:
    for scope in (
        "system/*.rs?category=laboratory",
        "system/Observation.cruds?category=laboratory",
        "system/Observation.rs?nothing=1",
        "system/Observation.rs?subject.name=x",
        "system/Nothing.rs?a=b",
    ):
        refused = app.installation.cli(
            "client", "add", "x", "--organisation", app.ods_code, "--scope", scope, check=False
        )
        assert refused.returncode != 0, scope
        assert "scope" in refused.stderr


async def test_a_token_may_ask_for_less(app: Hospital) -> None:
    other = await restricted(app, "system/Observation.rs")
    authorization = basic(other.client["client_id"], other.client["client_secret"])
    form = {"grant_type": "client_credentials", "scope": "system/Observation.rs?status=final"}
    reply = await app.request("POST", "/oauth2/token", data=form, headers={"Authorization": authorization})
    assert reply.json["scope"] == "system/Observation.rs?status=final"
    form["scope"] = "system/Patient.rs?gender=male"
    refused = await app.request("POST", "/oauth2/token", data=form, headers={"Authorization": authorization})
    assert refused.json["error"] == "invalid_scope"
