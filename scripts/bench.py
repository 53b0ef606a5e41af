"""Measures a fresh installation on this machine and prints one row for each figure of README's table."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from joserfc.jwk import ECKey

from carefolio.cloud.settings import settings
from carefolio.local import growth, load
from carefolio.local.installation import Installation

ROOT = Path(__file__).parents[1]
CLI = ROOT / ".venv/bin/carefolio"
RUNS = 3


def row(what: str, got: str, bar: str) -> None:
    print(f"| {what:<66} | {got:>24} | {bar:>14} |", flush=True)


@contextlib.contextmanager
def installation() -> Iterator[tuple[int, dict[str, str], float]]:
    """A fresh one: its port, its environment, and the seconds to ``ready`` of a second start."""
    home = Path(tempfile.mkdtemp(prefix="carefolio-bench-"))
    home.chmod(0o755)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "CAREFOLIO_HOME": str(home), "PORT": str(port)}
    first, _ = start(environment)
    stop(first)
    up, seconds = start(environment)
    try:
        yield port, environment, seconds
    finally:
        stop(up)
        shutil.rmtree(home, ignore_errors=True)


def start(environment: dict[str, str]) -> tuple[subprocess.Popen[str], float]:
    started = time.perf_counter()
    up = subprocess.Popen([ROOT / "scripts/up", "--no-demo"], env=environment, stdout=subprocess.PIPE, text=True)
    for line in up.stdout or ():
        if line.startswith("ready:"):
            return up, time.perf_counter() - started
    raise SystemExit("the installation did not start")


def stop(up: subprocess.Popen[str]) -> None:
    up.send_signal(signal.SIGINT)
    up.wait(30)


def carefolio(environment: dict[str, str], *arguments: str) -> dict[str, str]:
    done = subprocess.run([CLI, *arguments, "--json"], env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def doors() -> None:
    """ACK rate and latency, and the way to the record; medians of three runs on one installation."""
    with installation() as (port, environment, seconds):
        row("scripts/up, second start to ready", f"{seconds:.2f} s", "5 s")
        carefolio(environment, "organisation", "add", "RLOAD", "Load Hospital")
        sender = carefolio(environment, "sender", "add", "load", "--organisation", "RLOAD", "--allow", "127.0.0.0/8")
        secret = sender["username"], sender["password"]
        feed = load.numbers()
        patients = [next(feed) for _ in range(300)]
        registrations = ((f"R{number}", load.registration(number, f"R{number}")) for number in patients)
        asyncio.run(load.post(port, *secret, registrations))
        settle(environment)
        rates, latencies, whole = [], [], []
        for run in range(RUNS):
            messages = [
                (f"B{run}-{at}", load.report(patients[at % len(patients)], f"B{run}-{at}")) for at in range(3000)
            ]
            started = time.perf_counter()
            posted = asyncio.run(load.post(port, *secret, messages))
            assert len(posted.acknowledged) == len(messages), posted.statuses
            settle(environment)
            whole.append(len(messages) / (time.perf_counter() - started))
            rates.append(len(messages) / posted.took)
            latencies.append(statistics.quantiles(posted.seconds, n=100)[98] * 1000)
        row("POST to ACK, 16 connections, ORU with 4 results", f"{statistics.median(rates):.0f} messages/s", "800/s")
        row("   p99 of the ACK under that load", f"{statistics.median(latencies):.0f} ms", "60 ms")
        row("first POST to last one searchable, same load", f"{statistics.median(whole):.0f} messages/s", "250/s")


def settle(environment: dict[str, str]) -> None:
    """Wait until every message has ended: asks the database itself, as often as does no harm."""
    import asyncpg

    async def wait() -> None:
        from carefolio.local.installation import Installation

        here = Installation(Path(environment["CAREFOLIO_HOME"]), int(environment["PORT"]))
        connection = await asyncpg.connect(here.postgres.url)
        while await connection.fetchval("SELECT EXISTS (SELECT FROM message WHERE status = 'received')"):
            await asyncio.sleep(0.05)
        unapplied = await connection.fetchval("SELECT count(*) FROM message WHERE status <> 'applied'")
        await connection.close()
        assert unapplied == 0, f"{unapplied} messages were not applied"

    asyncio.run(wait())


# What is asked, 16 at once: (name, bar, the request of a patient by number).
_OBSERVATION = {
    "resourceType": "Observation",
    "status": "final",
    "code": {"coding": [{"system": "http://loinc.org", "code": "29463-7"}]},
}
FHIR = (
    ("read Patient", "2,000/s", lambda n: ("GET", f"Patient/g{n}", None)),
    ("read Observation", "2,000/s", lambda n: ("GET", f"Observation/g{n}-o5", None)),
    ("vread", "1,600/s", lambda n: ("GET", f"Patient/g{n}/_history/1", None)),
    (
        "Observation?patient&code&_sort=-date",
        "1,200/s",
        lambda n: ("GET", f"Observation?patient=g{n}&code=29463-7&_sort=-date", None),
    ),
    ("Patient?identifier", "1,500/s", lambda n: ("GET", f"Patient?identifier=urn:growth|{growth.identifier(n)}", None)),
    ("Patient?name", "1,000/s", lambda n: ("GET", f"Patient?name={growth.name_of(n)}&_count=10", None)),
    ("_include", "600/s", lambda n: ("GET", f"Observation?_id=g{n}-o1&_include=Observation:subject", None)),
    ("_revinclude", "600/s", lambda n: ("GET", f"Patient?_id=g{n}&_revinclude=Condition:subject", None)),
    (
        "chained",
        "600/s",
        lambda n: ("GET", f"Condition?subject:Patient.identifier=urn:growth|{growth.identifier(n)}", None),
    ),
    ("_has", "600/s", lambda n: ("GET", f"Patient?_has:Encounter:patient:_id=g{n}-e1", None)),
    ("Patient/$everything", "60/s", lambda n: ("GET", f"Patient/g{n}/$everything", None)),
    (
        "create Observation",
        "900/s",
        lambda n: ("POST", "Observation", {**_OBSERVATION, "subject": {"reference": f"Patient/g{n}"}}),
    ),
    (
        "update Patient",
        "900/s",
        lambda n: (
            "PUT",
            f"Patient/g{n}",
            {
                "resourceType": "Patient",
                "id": f"g{n}",
                "birthDate": "1980-01-01",
                "name": [{"family": f"X{time.time_ns()}"}],
            },
        ),
    ),
)


def fhir() -> None:
    """The FHIR door among 100,000 resources."""
    grown((100_000,))


def grow() -> None:
    """The same among 100,000, a million and five million: some half an hour."""
    grown((100_000, 1_000_000, 5_000_000))


def grown(sizes: Sequence[int]) -> None:
    with installation() as (port, environment, _):
        carefolio(environment, "organisation", "add", "RLOAD", "Load Hospital")
        client = carefolio(environment, "client", "add", "load", "--organisation", "RLOAD", "--scope", "system/*.cruds")
        patients = 0
        for size in sizes:
            patients = asyncio.run(filled(environment, size, patients))
            for what, bar, request in FHIR:
                chance = random.Random(size)
                token = token_of(port, client)
                asked = [raw(token, *request(chance.randrange(patients))) for _ in range(2000)]
                asyncio.run(load.ask(port, asked[:200], 0.5))
                runs = [asyncio.run(load.ask(port, asked[200 * run :], 2)) for run in range(RUNS)]
                rates = [len(run) / 2 for run in runs]
                slow = statistics.median(statistics.quantiles(run, n=100)[98] * 1000 for run in runs)
                row(f"{size:,} resources: {what}", f"{statistics.median(rates):,.0f}/s, p99 {slow:.0f} ms", bar)


async def filled(environment: dict[str, str], size: int, patients: int) -> int:
    import asyncpg

    from carefolio.local.installation import Installation

    here = Installation(Path(environment["CAREFOLIO_HOME"]), int(environment["PORT"]))
    connection = await asyncpg.connect(here.postgres.url)
    owner = await connection.fetchval("SELECT id FROM organisation WHERE ods_code = 'RLOAD'")
    made = await growth.grow(connection, owner, size - patients * growth.PER_PATIENT, after=patients)
    counted = await connection.fetchrow(
        "SELECT pg_total_relation_size('resource') AS bytes, sum(octet_length(content)) AS json FROM resource"
    )
    await connection.close()
    row(
        f"{size:,} resources: bytes of the table and its indexes",
        f"{counted['bytes'] / counted['json']:.1f} x JSON",
        "4 x JSON",
    )
    return made


def token_of(port: int, client: dict[str, str]) -> str:
    secret = base64.b64encode(f"{client['client_id']}:{client['client_secret']}".encode()).decode()
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/oauth2/token", b"grant_type=client_credentials", {"Authorization": f"Basic {secret}"}
    )
    with urllib.request.urlopen(asked) as answer:
        return json.loads(answer.read())["access_token"]


def raw(token: str, method: str, path: str, body: Any) -> bytes:
    """A whole request."""
    content = json.dumps(body).encode() if body else b""
    address = urllib.parse.quote(path, safe="/?&=$:|_.-")
    head = (
        f"{method} /fhir/R4/{address} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/fhir+json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def parse() -> None:
    """A 20-segment ORU on one core, its fields read as far as each reader is asked to."""
    import hl7apy.parser

    import hl7
    from carefolio.hl7 import read

    raw = load.report("9990001103", "PARSE", results=16)
    text = raw.decode()
    assert text.count("\r") == 20

    def ours() -> None:
        message = read(raw)
        for segment in message.all("OBX"):
            segment.get(3, 1), segment.get(5), segment.get(6, 1)

    def python_hl7() -> None:
        message = hl7.parse(text)
        for segment in message.segments("OBX"):
            segment.extract_field(1, 3, 1, 1), segment.extract_field(1, 5), segment.extract_field(1, 6, 1, 1)

    def with_hl7apy() -> None:
        hl7apy.parser.parse_message(text, find_groups=False)

    for what, work, bar in (
        ("parse, 20-segment ORU, three fields of every result: Carefolio", ours, "10,000/s"),
        ("   python-hl7, the same", python_hl7, ""),
        ("   hl7apy, parse alone", with_hl7apy, ""),
    ):
        row(what, f"{rate(work):,.0f} messages/s", bar)


def rate(work: Callable[[], None]) -> float:
    work()
    found = []
    for _ in range(RUNS):
        done, started = 0, time.perf_counter()
        while time.perf_counter() - started < 0.7:
            work()
            done += 1
        found.append(done / (time.perf_counter() - started))
    return statistics.median(found)


def cold() -> None:
    """Each function in a process of its own, as the cloud starts it: from exec to the first answer."""
    for main in sorted((ROOT / "functions").glob("*/main.py")):
        name = main.parent.name
        found = []
        for _ in range(RUNS):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            started = time.perf_counter()
            process = subprocess.Popen(
                [ROOT / ".venv/bin/functions-framework", "--target", name, "--source", main, "--port", str(port)],
                env={**os.environ, "HOST": "127.0.0.1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            while not answers(port):
                time.sleep(0.01)
            found.append(time.perf_counter() - started)
            process.terminate()
            process.wait()
        row(f"cold start of {name}, exec to first answer", f"{statistics.median(found):.2f} s", "1.5 s")


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as wire:
            wire.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return b" 200 " in wire.recv(100)
    except OSError:
        return False


def people() -> None:
    """Tokens, their verification, and a person's way from the sign-in page to his account."""
    import bench_people

    with installation() as (port, environment, _):
        carefolio(environment, "organisation", "add", "RLOAD", "Load Hospital")
        key = ECKey.generate_key("P-256", {"use": "sig", "alg": "ES256"}, auto_kid=True)
        jwks = Path(environment["CAREFOLIO_HOME"]) / "client.json"
        jwks.write_text(json.dumps({"keys": [key.as_dict(private=False)]}))
        options = ("--organisation", "RLOAD", "--scope", "system/*.rs", "--jwks", str(jwks))
        client = carefolio(environment, "client", "add", "load", *options)
        bench_people.measure(row, port, client["client_id"], key, environment, RUNS)


def extracts() -> None:
    import bench_emis

    with installation() as (_, environment, _):
        bench_emis.measure(environment, row, int(os.environ.get("BENCH_PATIENTS", "400")))


def consent() -> None:
    """What consent and audit cost, and a caseload, on 100,000 patients."""
    import bench_sharing

    before = dict(os.environ)
    with installation() as (port, environment, _):
        Installation(Path(environment["CAREFOLIO_HOME"]), port).enter()
        bench_sharing.measure(row, port, int(os.environ.get("BENCH_PATIENTS", "100000")), 2000, 500_000)
    os.environ.clear()
    os.environ.update(before)
    settings.cache_clear()


def portal() -> None:
    """The pages of a patient with 20,000 items."""
    import bench_portal

    before = dict(os.environ)
    with installation() as (port, environment, _):
        Installation(Path(environment["CAREFOLIO_HOME"]), port).enter()
        bench_portal.measure(row, port)
    os.environ.clear()
    os.environ.update(before)
    settings.cache_clear()


def capacity() -> None:
    """What an operation costs, for the model of docs/capacity.md."""
    import bench_capacity

    with installation() as (port, environment, _):
        carefolio(environment, "organisation", "add", "RLOAD", "Load Hospital")
        sender = carefolio(environment, "sender", "add", "load", "--organisation", "RLOAD", "--allow", "127.0.0.0/8")
        client = carefolio(environment, "client", "add", "load", "--organisation", "RLOAD", "--scope", "system/*.cruds")
        here = Installation(Path(environment["CAREFOLIO_HOME"]), port)
        asyncio.run(bench_capacity.filled(here, 100_000))
        bench_capacity.measure(row, here, sender, token_of(port, client), raw, FHIR)


def export() -> None:
    """$export of 300,000 resources: asked for, written, its manifest there; and the process that writes it."""
    import psutil

    with installation() as (port, environment, _):
        carefolio(environment, "organisation", "add", "RLOAD", "Load Hospital")
        client = carefolio(environment, "client", "add", "load", "--organisation", "RLOAD", "--scope", "system/*.rs")
        asyncio.run(filled(environment, 300_000, 0))
        token, rates, largest = token_of(port, client), [], 0
        writer = next(p for p in psutil.process_iter(["cmdline", "environ"]) if "internal" in (p.info["cmdline"] or [])
                      and (p.info["environ"] or {}).get("CAREFOLIO_HOME") == environment["CAREFOLIO_HOME"])  # fmt: skip
        for _ in range(RUNS):
            started = time.perf_counter()
            headers = {"Authorization": f"Bearer {token}", "Prefer": "respond-async"}
            asked = urllib.request.Request(f"http://127.0.0.1:{port}/fhir/R4/$export", headers=headers)
            with urllib.request.urlopen(asked) as answer:
                place = answer.headers["Content-Location"].replace("localhost", "127.0.0.1")
            while True:
                with urllib.request.urlopen(urllib.request.Request(place, headers=headers)) as answer:
                    if answer.status == 200:
                        manifest = json.loads(answer.read())
                        break
                largest = max(largest, writer.memory_info().rss)
                time.sleep(0.1)
            count = sum(each["count"] for each in manifest["output"])
            rates.append(count / (time.perf_counter() - started))
            urllib.request.urlopen(urllib.request.Request(place, headers=headers, method="DELETE")).close()
        row("$export, asked for to its manifest", f"{statistics.median(rates):,.0f} resources/s", "10,000/s")
        row("   largest process that writes it", f"{largest >> 20} MB", "flat")


def subscriptions() -> None:
    """From a change to its notification's arrival, 300 changes a second among 1,000 subscriptions."""
    import bench_subscriptions

    with installation() as (port, environment, _):
        carefolio(environment, "organisation", "add", "RLOAD", "Load Hospital")
        client = carefolio(environment, "client", "add", "load", "--organisation", "RLOAD", "--scope", "system/*.cruds")
        token = {"Authorization": f"Bearer {token_of(port, client)}"}
        asyncio.run(bench_subscriptions.measure(row, port, token, lambda *words: carefolio(environment, *words)))


def terminology() -> None:
    """A million concepts."""
    import bench_terminology

    with installation() as (port, environment, _):
        carefolio(environment, "organisation", "add", "RLOAD", "Load Hospital")
        client = carefolio(environment, "client", "add", "load", "--organisation", "RLOAD", "--scope", "system/*.rs")
        bench_terminology.measure(row, port, token_of(port, client), environment, CLI)


PARTS = {
    "doors": doors,
    "people": people,
    "consent": consent,
    "portal": portal,
    "parse": parse,
    "cold": cold,
    "fhir": fhir,
    "emis": extracts,
    "export": export,
    "subscriptions": subscriptions,
    "terminology": terminology,
    "capacity": capacity,
    "growth": grow,
}

if __name__ == "__main__":
    wanted = sys.argv[1:] or [name for name in PARTS if name not in ("growth", "capacity")]
    if unknown := [name for name in wanted if name not in PARTS]:
        raise SystemExit(f"unknown part: {unknown[0]} (there are {', '.join(PARTS)})")
    print(f"| {'measured':<66} | {time.strftime('%Y-%m-%d'):>24} | {'bar':>14} |")
    print(f"|{'-' * 68}|{'-' * 26}|{'-' * 16}|")
    for name in wanted:
        PARTS[name]()
