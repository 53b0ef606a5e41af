"""The portal part of scripts/bench: every page of a patient with 20,000 items, as his browser gets it."""

from __future__ import annotations

import asyncio
import statistics
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
from bench_sharing import _row

from carefolio.cloud import closing, database
from carefolio.identity import accounts, sessions
from carefolio.record.ids import uuid7
from carefolio.record.many import Feed, write_many

Row = Callable[[str, str, str], None]
_ROUNDS = 25
_RESULTS, _OTHERS = 3000, 17000
_KINDS = ("Encounter", "Condition", "Immunization", "Procedure", "MedicationStatement", "AllergyIntolerance")
_PAGES = (
    "", "/tests", "/appointments", "/medicines", "/allergies", "/conditions", "/vaccinations", "/documents", "/stays",
    "/measurements", "/plans", "/timeline", "/tests?words=glucose", "/timeline?words=nothing",
    "/timeline?from=2015-01-01&to=2016-01-01",
    "/trend?system=http%3A%2F%2Floinc.org&code=4548-4", "/sharing", "/sharing/access-log", "/all", "?as-of=2026-01-01",
)  # fmt: skip


def measure(row: Row, port: int) -> None:
    """Print the rows of README's table, on the installation that this process's environment names."""
    asyncio.run(_measure(row, port))


async def _measure(row: Row, port: int) -> None:
    pool = await database.pool()
    hospital = await pool.fetchval("INSERT INTO organisation (ods_code, name) VALUES ('BEN2', 'Bench') RETURNING id")
    patient = await _patient(pool, hospital)
    async with pool.acquire() as connection, connection.transaction():
        account = await accounts.add(connection, kind="patient", name="Bench", email="bench@example.org",
                                     record=patient, verified=True)  # fmt: skip
        cookie = await sessions.start(connection, account, stage="open", level="strong", methods=["pwd", "mfa"])
    await pool.execute("ANALYZE", timeout=300)
    base, slowest, largest = f"http://localhost:{port}", ("", 0.0), 0
    async with aiohttp.ClientSession(headers={"Cookie": f"__Host-session={cookie}"}) as http:
        async with http.get(f"{base}/login/static/carefolio.css") as answer:
            style = len(await answer.read())
        for path in _PAGES:
            times = []
            for _ in range(_ROUNDS):
                started = time.perf_counter()
                async with http.get(f"{base}/record{path}") as answer:
                    body = await answer.read()
                times.append(time.perf_counter() - started)
                assert answer.status == 200, (path, answer.status)
            late = statistics.quantiles(times, n=20)[-1] * 1000
            largest = max(largest, len(body))
            if late > slowest[1]:
                slowest = (path or "/", late)
            print(f"    {path or '/':<50} p95 {late:5.0f} ms  {len(body):6} bytes")
    row("slowest page of a patient with 20,000 items, p95", f"{slowest[1]:.0f} ms ({slowest[0]})", "150 ms")
    row("largest page and its style, as they are sent", f"{(largest + style) / 1000:.0f} kB", "60 kB")
    await closing.close_all()


async def _patient(pool: Any, hospital: uuid.UUID) -> uuid.UUID:
    patient, source, now = uuid.uuid4(), uuid7(), datetime.now(UTC)
    who = {"resourceType": "Patient", "name": [{"family": "Bench", "given": ["Ann"]}], "birthDate": "1950-03-01"}
    items = [*(_result(patient, number, now) for number in range(_RESULTS)),
             *(_other(patient, number, now) for number in range(_OTHERS))]  # fmt: skip
    rows = [_row(patient, who, patient, hospital, source, now)]
    rows += [_row(uuid.uuid4(), each, patient, hospital, source, now) for each in items]
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("INSERT INTO record (id, person_id, created_at) VALUES ($1, $1, now())", patient)
        for start in range(0, len(rows), 2000):
            await write_many(connection, Feed("bench", hospital, "bench"),
                             [(each, source) for each in rows[start : start + 2000]], now)  # fmt: skip
    return patient


def _result(patient: uuid.UUID, number: int, now: datetime) -> dict[str, Any]:
    code, name = (("4548-4", "Haemoglobin A1c"), ("718-7", "Haemoglobin"), ("2345-7", "Glucose"))[number % 3]
    return {
        "resourceType": "Observation", "status": "final", "subject": {"reference": f"Patient/{patient}"},
        "code": {"coding": [{"system": "http://loinc.org", "code": code, "display": name}], "text": name},
        "effectiveDateTime": (now - timedelta(days=number * 2)).isoformat(timespec="seconds"),
        "valueQuantity": {"value": 40 + number % 30, "unit": "g/L"},
        "referenceRange": [{"low": {"value": 42}, "high": {"value": 60}}],
    }  # fmt: skip


def _other(patient: uuid.UUID, number: int, now: datetime) -> dict[str, Any]:
    kind, at = _KINDS[number % len(_KINDS)], (now - timedelta(hours=number * 7)).isoformat(timespec="seconds")
    subject, said = {"reference": f"Patient/{patient}"}, {"text": f"Something that was written down {number}"}
    return {
        "Encounter": {"status": "finished", "class": {"code": "AMB"}, "type": [said], "subject": subject,
                      "period": {"start": at, "end": at}},
        "Condition": {"code": said, "subject": subject, "onsetDateTime": at},
        "Immunization": {"status": "completed", "vaccineCode": said, "patient": subject, "occurrenceDateTime": at},
        "Procedure": {"status": "completed", "code": said, "subject": subject, "performedDateTime": at},
        "MedicationStatement": {"status": "active", "medicationCodeableConcept": said, "subject": subject,
                                "effectiveDateTime": at, "dosage": [{"text": "one a day"}]},
        "AllergyIntolerance": {"code": said, "patient": subject, "onsetDateTime": at},
    }[kind] | {"resourceType": kind}  # fmt: skip
