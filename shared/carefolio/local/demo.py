"""The demonstration: a dozen messages for three fictional patients, posted and read through the public doors."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import uuid
from collections.abc import Callable
from importlib import resources
from typing import Any

import aiohttp

from carefolio.cloud import database
from carefolio.hl7 import read
from carefolio.identity import invitations, registry
from carefolio.local import demo_people, extract_demo, practice, stand_in
from carefolio.local.installation import Installation
from carefolio.record import matching

FILE = "demonstration.json"
_ODS_CODE = "RDEMO"
# Idris Okonjo-Hale, born 23 September 1991.
_INVITED = "9990001111"
_APPLIED_WITHIN = 20
_PULLED_WITHIN = 60
# What each family of messages is looked up by, once it is applied.
_READ = {"ADT": "Encounter", "ORU": "DiagnosticReport"}

Say = Callable[[str], None]


class DemonstrationError(Exception):
    """The doors did not do what they promise; the text says which."""


async def show(here: Installation, say: Say) -> None:
    """Play it at the first start; later starts show again where its results are."""
    file = here.home / FILE
    if file.exists():
        played = json.loads(file.read_text())
    else:
        say("playing the demonstration: a hospital posts twelve messages about three fictional patients ...")
        played = await _play(here)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as output:
            json.dump(played, output, indent=1)
    _print(here, played, say)


async def _play(here: Installation) -> dict[str, Any]:
    pool = await database.pool()
    if not await pool.fetchval("SELECT EXISTS (SELECT FROM organisation WHERE ods_code = $1)", _ODS_CODE):
        await registry.add_organisation(pool, _ODS_CODE, "Whitcombe Demonstration Hospital")
    # A demonstration that was broken off is played again, by another sender.
    before = await pool.fetchval("SELECT count(*) FROM sender WHERE name LIKE 'Demonstration%'")
    sender = await registry.add_sender(pool, f"Demonstration {before + 1}", _ODS_CODE, ["127.0.0.0/8", "::1/128"])
    client = await registry.add_client(pool, "Demonstration", _ODS_CODE, "system/*.rs")
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as http:
        rows = [await _post(http, here, sender, name, raw) for name, raw in _messages()]
        token = await _token(http, here, client)
        for row in rows:
            row["link"] = await _find(http, here, token, row)
    if here.practice_is_there:
        await extract_demo.register(pool, here)
    await stand_in.register(pool, _ODS_CODE)
    owner = await registry.organisation_id(pool, _ODS_CODE)
    invited = await invitations.invite_patient(pool, owner, nhs_number=_INVITED)
    professional = await invitations.invite_professional(pool, owner, "Ravi Quill", "ravi.quill@example.org")
    general = await _practice(pool) if here.practice_is_there else None
    await demo_people.play(pool, owner, uuid.UUID(rows[0]["link"].rpartition("/")[2]))
    return {
        "practice": general,
        "sender": {"username": sender.username, "password": sender.password},
        "client": {"client_id": client.client_id, "client_secret": client.client_secret},
        "rows": rows,
        "invited": {"patient": invited.code, "professional": professional.code},
    }


async def _practice(pool: database.Pool) -> dict[str, str]:
    """The general practice's client, when the scheduled pull has brought its patients."""
    if not await extract_demo.loaded(pool, _PULLED_WITHIN):
        raise DemonstrationError("the practice's extract was not loaded: see carefolio emis status demonstration.")
    client = await registry.add_client(pool, "Demonstration practice", practice.ODS_CODE, "system/*.rs")
    patient = await pool.fetchval(
        "SELECT patient_id::text FROM patient_identifier WHERE owner = $1 AND value = $2",
        matching.NATIONAL,
        practice.KNOWN[0][0],
    )
    return {"client_id": client.client_id, "client_secret": client.client_secret or "", "patient": patient}


def _messages() -> list[tuple[str, bytes]]:
    folder = resources.files("carefolio.local").joinpath("demonstration")
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".hl7")), key=lambda file: file.name)
    return [(file.name, file.read_bytes()) for file in files]


async def _post(
    http: aiohttp.ClientSession, here: Installation, sender: registry.NewSender, name: str, raw: bytes
) -> dict[str, str]:
    headers = {"Content-Type": "application/hl7-v2", "Authorization": _basic(sender.username, sender.password)}
    async with http.post(f"{here.url}/hl7", data=raw, headers=headers) as answer:
        text = await answer.read()
        if answer.status != 200:
            raise DemonstrationError(f"POST /hl7 answered {answer.status} to {name}: see {here.log('public')}.")
    ack = read(text)
    accepted = ack.first("MSA")
    message = read(raw)
    pid = message.first("PID")
    return {
        "name": name,
        "type": message.type,
        "patient": f"{pid.get(5, 2)} {pid.get(5, 1)}" if pid else "",
        "nhs_number": pid.get(3) if pid else "",
        "ack": f"{accepted.get(1)} {accepted.get(2)}" if accepted else "",
    }


async def _find(http: aiohttp.ClientSession, here: Installation, token: str, row: dict[str, str]) -> str:
    """The link under which the message's result can be read, as soon as it can."""
    code, _, event = row["type"].partition("^")
    patient = f"identifier=https://fhir.nhs.uk/Id/nhs-number|{row['nhs_number']}"
    deadline = asyncio.get_running_loop().time() + _APPLIED_WITHIN
    found = None
    while asyncio.get_running_loop().time() < deadline:
        found = await _first(http, here, token, f"Patient?{patient}")
        if found and event not in ("A28", "A31"):
            kind = _READ[code]
            identifier = await _identifier(row["name"])
            found = await _first(http, here, token, f"{kind}?patient={found}&identifier={identifier}")
            if found:
                return f"/fhir/R4/{kind}/{found}"
        elif found:
            return f"/fhir/R4/Patient/{found}"
        await asyncio.sleep(0.1)
    raise DemonstrationError(f"{row['name']} was acknowledged but cannot be read: see {here.log('internal')}.")


async def _identifier(name: str) -> str:
    message = read(dict(_messages())[name])
    visit, order = message.first("PV1"), message.first("OBR")
    return order.get(3) if order else visit.get(19) if visit else ""


async def _first(http: aiohttp.ClientSession, here: Installation, token: str, query: str) -> str | None:
    headers = {"Authorization": f"Bearer {token}"}
    async with http.get(f"{here.url}/fhir/R4/{query}", headers=headers) as answer:
        bundle = await answer.json(content_type=None)
    entries = bundle.get("entry") or [{}]
    number: str | None = entries[0].get("resource", {}).get("id")
    return number


async def _token(http: aiohttp.ClientSession, here: Installation, client: registry.NewClient) -> str:
    headers = {"Authorization": _basic(client.client_id, client.client_secret or "")}
    async with http.post(f"{here.url}/oauth2/token", data={"grant_type": "client_credentials"}, headers=headers) as got:
        if got.status != 200:
            raise DemonstrationError(f"POST /oauth2/token answered {got.status}: see {here.log('public')}.")
        return str((await got.json())["access_token"])


def _basic(name: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()


def _print(here: Installation, played: dict[str, Any], say: Say) -> None:
    wide = max(len(row["link"]) for row in played["rows"]) + len(here.url)
    say("")
    say(f"  {'posted':<28} {'type':<8} {'patient':<20} {'answer':<12} {'read it at':<{wide}}")
    for row in played["rows"]:
        say(f"  {row['name']:<28} {row['type']:<8} {row['patient']:<20} {row['ack']:<12} {here.url}{row['link']}")
    sender, client, link = played["sender"], played["client"], played["rows"][2]["link"]
    token = (
        f"$(curl -s -u {client['client_id']}:{client['client_secret']} -d grant_type=client_credentials "
        f"""{here.url}/oauth2/token | sed -E 's/.*"access_token": ?"([^"]+)".*/\\1/')"""
    )
    say("")
    say("Read a result (the token lasts ten minutes, the line can be used for ever):")
    say(f'  curl -s -H "Authorization: Bearer {token}" {here.url}{link}')
    if general := played.get("practice"):
        say("Read what her general practice has of the same patient (an extract that was fetched by SFTP):")
        token = token.replace(client["client_id"], general["client_id"])
        token = token.replace(client["client_secret"], general["client_secret"])
        everything = f"{here.url}/fhir/R4/Patient/{general['patient']}/\\$everything"
        say(f'  curl -s -H "Authorization: Bearer {token}" {everything}')
        say("  .venv/bin/carefolio emis status demonstration")
    say("Post a message:")
    say(
        f"  curl -s -u {sender['username']}:{sender['password']} -H 'Content-Type: application/hl7-v2' "
        f"--data-binary @shared/carefolio/local/demonstration/03-full-blood-count.hl7 {here.url}/hl7 | tr '\\r' '\\n'"
    )
    say("Open the portal (no passwords here: choose who you are):")
    say(f"  as a patient:       {here.url}/login/with/nhs-login  and choose Gwen Aldersley")
    say(f"  as a professional:  {here.url}/login/with/whitcombe  and choose Dr Asha Verity")
    say(f"  as an operator:     {here.url}/login/with/whitcombe  and choose Morgan Reyes")
    say(f"Make an account of your own at {here.url}/login/register")
    say(f"  letters arrive in {here.url}/mailbox, the NHS App is {here.url}/stand-in/nhs-app")
    say(f"  a patient's invitation: {played['invited']['patient']} with the date of birth 23 9 1991")
    say(f"  a professional's invitation: {played['invited']['professional']}")
    say("")
