"""$import: files of resources by a manifest, with a report of each refused line."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from tests.conftest import Hospital, NewHospital, Reply, unique


class Files:
    """Where a manifest's files lie; ``served`` by path, anything else is 404."""

    def __init__(self) -> None:
        self.served: dict[str, bytes] = {}
        files = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = files.served.get(self.path)
                self.send_response(404 if body is None else 200)
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *_: object) -> None:
                return None

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def put(self, lines: list[Any]) -> str:
        path = f"/{unique('f')}.ndjson"
        self.served[path] = b"\n".join(
            line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines
        ) + b"\n"  # fmt: skip
        return f"http://localhost:{self.server.server_port}{path}"


@pytest.fixture(scope="module")
def files() -> Iterator[Files]:
    made = Files()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture(scope="module")
async def owner(new_hospital: NewHospital) -> Hospital:
    return await new_hospital("--allow", "127.0.0.0/8", scope="system/*.cruds")


async def asked(owner: Hospital, body: Any, **headers: str) -> Reply:
    return await owner.request(
        "POST", "/fhir/R4/$import", json=body, headers={**await owner.bearer(), "Prefer": "respond-async", **headers}
    )


async def imported(owner: Hospital, *inputs: tuple[str, str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The answer when all is done, and the report's lines."""
    body = {"inputFormat": "application/fhir+ndjson", "input": [{"type": t, "url": u} for t, u in inputs]}
    reply = await asked(owner, body)
    assert reply.status == 202, reply.body
    place = urlsplit(reply.headers["Content-Location"]).path
    for _ in range(600):
        told = await owner.request("GET", place, headers=await owner.bearer())
        if told.status != 202:
            break
        await asyncio.sleep(0.05)
    report = []
    for each in told.json.get("error", []):
        file = await owner.request("GET", urlsplit(each["url"]).path, headers=await owner.bearer())
        report += [json.loads(line) for line in file.body.splitlines()]
    return told.json, report


def patient(number: str) -> dict[str, Any]:
    return {"resourceType": "Patient", "id": number, "name": [{"family": "Fictional"}], "birthDate": "1970-01-01"}


def observation(number: str, of: str) -> dict[str, Any]:
    return {"resourceType": "Observation", "id": number, "status": "final", "code": {"text": "Weight"},
            "subject": {"reference": f"Patient/{of}"}, "valueQuantity": {"value": 70}}  # fmt: skip


async def test_files_are_taken_in_and_each_refused_line_is_told(
    owner: Hospital, files: Files, database: asyncpg.Pool
) -> None:
    """What is good is there; what is not is told by line and element, never by what it says; twice makes nothing."""
    who = unique("imp").lower()
    good = [observation(f"{who}-{n}", who) for n in range(450)]
    wrong = {"resourceType": "Observation", "status": "Zyxwvut", "code": {"text": "x"}}
    lines = [*good[:100], b"{rubbish", wrong, patient("x"), b"", *good[100:], b'{"a":' * 5000, b"[1]"]
    people, results = files.put([patient(who)]), files.put(lines)
    told, report = await imported(owner, ("Patient", people), ("Observation", results))
    assert [(each["count"], each["refused"]) for each in told["outcome"]] == [(1, 0), (450, 5)]
    said = [issue["diagnostics"] for each in report for issue in each["issue"]]
    assert [each.partition(":")[0] for each in said] == ["line 101", "line 102", "line 103", "line 455", "line 456"]
    assert any("status" in json.dumps(each) for each in report)
    assert "Zyxwvut" not in json.dumps(report)
    assert len(await owner.search(f"Observation?patient={who}&_count=1000")) == 450
    before = await database.fetchval("SELECT count(*) FROM resource_history")
    told, _ = await imported(owner, ("Observation", results))
    assert told["outcome"][0]["count"] == 450
    assert await database.fetchval("SELECT count(*) FROM resource_history") == before


async def test_a_line_without_an_id_gets_one(owner: Hospital, files: Files) -> None:
    family = unique("Noid")
    body = {"resourceType": "Patient", "name": [{"family": family}]}
    told, _ = await imported(owner, ("Patient", files.put([body])))
    assert told["outcome"][0]["count"] == 1
    # Another import, in which it stands elsewhere, makes no other.
    await imported(owner, ("Patient", files.put([patient(unique("first").lower()), body])))
    assert len(await owner.search(f"Patient?family={family}")) == 1


async def test_asked_by_parameters(owner: Hospital, files: Files) -> None:
    who = unique("par").lower()
    said = {"resourceType": "Parameters", "parameter": [
        {"name": "inputFormat", "valueCode": "application/fhir+ndjson"},
        {"name": "input", "part": [{"name": "type", "valueCode": "Patient"},
                                   {"name": "url", "valueUri": files.put([patient(who)])}]},
    ]}  # fmt: skip
    assert (await asked(owner, said)).status == 202
    for _ in range(100):
        if (await owner.get(f"Patient/{who}")).status == 200:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("not imported")


async def test_a_file_that_is_not_there_fails_the_job_in_words(owner: Hospital, files: Files) -> None:
    told, _ = await imported(owner, ("Patient", f"http://localhost:{files.server.server_port}/none"))
    assert told["resourceType"] == "OperationOutcome"
    assert "input[0]: status 404" in told["issue"][0]["diagnostics"]


@pytest.mark.parametrize(
    ("kind", "url", "status"),
    [("Patient", "https://elsewhere.example/x", 403), ("Patient", "https://10.0.0.1/x", 400),
     ("Patient", "https://metadata.internal/x", 400), ("Patient", "file:///etc/passwd", 400),
     ("Patient", "http://elsewhere.example/x", 400), ("Patient", "https://[::1]/x", 400),
     ("Nothing", "http://localhost/x", 400)],
)  # fmt: skip
async def test_what_may_not_be_fetched(owner: Hospital, kind: str, url: str, status: int) -> None:
    """Private addresses, and hosts that no operator has allowed."""
    reply = await asked(owner, {"input": [{"type": kind, "url": url}]})
    assert (reply.status, "input[0]" in reply.body.decode()) == (status, True), reply.body


@pytest.mark.parametrize("body", [[], {}, {"input": []}, {"input": [1]}, {"input": [{"type": "Patient"}]},
                                  {"inputFormat": "csv", "input": [{"type": "Patient", "url": "http://localhost/"}]},
                                  {"resourceType": "Parameters", "parameter": []},
                                  {"resourceType": "Parameters", "parameter": ["x"]}])  # fmt: skip
async def test_what_is_no_manifest(owner: Hospital, body: Any) -> None:
    assert (await asked(owner, body)).status == 400


async def test_who_may_not_write_imports_nothing(new_hospital: NewHospital, files: Files) -> None:
    reader = await new_hospital("--allow", "127.0.0.0/8", scope="system/*.rs")
    reply = await asked(reader, {"input": [{"type": "Patient", "url": files.put([patient("no")])}]})
    assert reply.status == 403
