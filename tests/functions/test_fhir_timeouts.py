"""A statement that takes too long ends with 503, and nothing is done."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
from tests.conftest import basic, running


async def test_a_statement_that_waits_too_long_is_503(homes: Callable[[], Path]) -> None:
    with running(homes(), "--no-demo", STATEMENT_SECONDS="1", TRACE_SHARE="0") as here:
        here.cli("organisation", "add", "RSLOW", "Slow")
        made = here.cli("client", "add", "app", "--organisation", "RSLOW", "--scope", "system/*.cruds", "--json")
        client = json.loads(made.stdout)
        authorization = basic(client["client_id"], client["client_secret"])
        form = b"grant_type=client_credentials"
        token = ask(f"{here.url}/oauth2/token", "POST", form, authorization, "application/x-www-form-urlencoded")[1]
        bearer = f"Bearer {token['access_token']}"
        body = {"resourceType": "Basic", "id": "b", "code": {"text": "one"}}
        path = f"{here.url}/fhir/R4/Basic/b"
        assert ask(path, "PUT", json.dumps(body).encode(), bearer)[0] == 201
        holder = await asyncpg.connect(here.here.postgres.url)
        async with holder.transaction():
            await holder.execute("SELECT FROM resource FOR UPDATE")
            body["code"] = {"text": "two"}
            status, outcome = ask(path, "PUT", json.dumps(body).encode(), bearer)
            assert (status, outcome["issue"][0]["code"]) == (503, "transient")
        await holder.close()
        assert ask(path, "GET", None, bearer)[1]["code"]["text"] == "one"


def ask(url: str, method: str, body: bytes | None, authorization: str, media: str = "application/fhir+json") -> Any:
    asked = urllib.request.Request(url, body, {"Authorization": authorization, "Content-Type": media}, method=method)
    try:
        with urllib.request.urlopen(asked) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as refused:
        return refused.code, json.loads(refused.read())
