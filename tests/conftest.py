"""One running installation for the whole suite, and hospitals that post to it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from carefolio.cloud import closing
from carefolio.cloud import database as product_database
from carefolio.cloud.settings import settings
from carefolio.hl7 import Message, read
from carefolio.identity import registry
from carefolio.local import load
from carefolio.local.installation import Installation

pytest_plugins = ["tests.people_kit", "tests.browser_kit", "tests.sharing_kit"]
SHARED = Path(__file__).resolve().parents[2] / "shared"
# As the suite found it: the fixture `pool` changes this process's own.
ENVIRONMENT = dict(os.environ)
CLI = Path(sys.executable).with_name("carefolio")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: at the end, one process of the suite would wait for the other."""
    items.sort(key=lambda item: "terraform" not in item.path.parts)


@pytest.fixture(scope="session")
def shared_messages() -> list[Path]:
    """The collected real messages, which do not lie in this repository."""
    folder = SHARED / "hl7" / "messages"
    if not folder.is_dir():
        pytest.skip("the collected HL7 messages are not on this machine")
    return sorted(folder.glob("*/*.hl7"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Collector:
    """An OTLP receiver over HTTP, as a trace backend is one."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        bodies = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return None

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def spans(self) -> list[Any]:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        found = []
        for body in list(self.bodies):
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    found += list(scope.spans)
        return found

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass
class Running:
    """A started installation: its door, its command, its logs."""

    here: Installation
    environment: dict[str, str]
    process: subprocess.Popen[str]
    collector: Collector
    printed: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.here.url

    def cli(self, *arguments: str, check: bool = True, stdin: str = "") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [CLI, *arguments], env=self.environment, capture_output=True, text=True, input=stdin, check=False
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def logs(self) -> str:
        return "".join(path.read_text() for path in (self.here.home / "log").iterdir())


@contextlib.contextmanager
def running(home: Path, *options: str, port: int | None = None, **environment: str) -> Iterator[Running]:
    """``scripts/up`` on a home of its own, from its start to its end."""
    collector = Collector()
    here = Installation(home, port or free_port())
    settings = {
        **ENVIRONMENT,
        "CAREFOLIO_HOME": str(home),
        "PORT": str(here.port),
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "TRACE_SHARE": "1",
        **environment,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "carefolio.local.up", *options],
        env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    made = Running(here, settings, process, collector)
    try:
        for line in process.stdout or ():
            made.printed.append(line)
            if line.startswith("ready:"):
                break
        else:
            raise AssertionError("it did not start: " + "".join(made.printed))
        draining = threading.Thread(target=made.printed.extend, args=(process.stdout,), daemon=True)
        draining.start()
        yield made
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(40)
        with contextlib.suppress(NameError):
            draining.join(5)
        if process.stdout:
            process.stdout.close()
        collector.close()


@pytest.fixture(scope="session")
def homes() -> Iterator[Callable[[], Path]]:
    """Folders for installations, which an unprivileged database server can reach."""
    made: list[Path] = []

    def make() -> Path:
        folder = Path(tempfile.mkdtemp(prefix="carefolio-test-"))
        folder.chmod(0o755)
        made.append(folder)
        return folder

    yield make
    for folder in made:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def installation(homes: Callable[[], Path]) -> Iterator[Running]:
    with running(homes(), "--no-demo") as made:
        yield made


@pytest.fixture(scope="session")
async def database(installation: Running) -> AsyncIterator[asyncpg.Pool]:
    """The installation's own database, for what no door shows."""
    async with asyncpg.create_pool(installation.here.postgres.url, min_size=1, max_size=4) as pool:
        yield pool


@pytest.fixture(scope="session")
async def pool(installation: Running) -> AsyncIterator[asyncpg.Pool]:
    """The product's own pool in this process, which then belongs to the installation."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in installation.here.environment().items():
            patch.setenv(name, value)
        settings.cache_clear()
        yield await product_database.pool()
        await closing.close_all()
    settings.cache_clear()


@pytest.fixture(scope="session")
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        yield session


_NUMBERS = load.numbers()
_SERIAL = itertools.count(1)


def unique(prefix: str = "C") -> str:
    """A control id, or any other name, that this run has not used."""
    return f"{prefix}{next(_SERIAL):05d}"


def nhs() -> str:
    """A valid NHS number that this run has not used."""
    return next(_NUMBERS)


def basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


@dataclass
class Reply:
    """An answer of a door."""

    status: int
    body: bytes
    headers: Any

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def ack(self) -> Message:
        return read(self.body)

    @property
    def code(self) -> str:
        accepted = self.ack.first("MSA")
        return accepted.get(1) if accepted else ""


@dataclass
class Hospital:
    """An organisation with a sender and a client, that talks to the public doors only."""

    ods_code: str
    sender: dict[str, str]
    client: dict[str, str]
    installation: Running
    http: aiohttp.ClientSession
    database: asyncpg.Pool
    token: str = ""
    # When ``bearer`` asked for it: a token lives for ten minutes, and a suite on a slow machine longer.
    asked_at: float = 0

    async def request(self, method: str, path: str, **options: Any) -> Reply:
        async with self.http.request(method, self.installation.url + path, **options) as answer:
            return Reply(answer.status, await answer.read(), answer.headers)

    async def post(self, message: bytes | str, **headers: str) -> Reply:
        """POST /hl7; lines may end as Python has them."""
        raw = message if isinstance(message, bytes) else message.strip().replace("\n", "\r").encode()
        wanted = {
            "Content-Type": "application/hl7-v2",
            "Authorization": basic(self.sender["username"], self.sender["password"]),
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        return await self.request("POST", "/hl7", data=raw, headers=wanted)

    async def accepted(self, message: bytes | str) -> asyncpg.Record:
        """Post a message that must be acknowledged, and wait for its end."""
        reply = await self.post(message)
        assert (reply.status, reply.code) == (200, "AA"), reply.body
        accepted = reply.ack.first("MSA")
        assert accepted is not None
        return await self.settled(accepted.get(2))

    async def settled(self, control_id: str) -> asyncpg.Record:
        """The newest message of that control id, when it has ended."""
        for _ in range(400):
            row = await self.database.fetchrow(
                """
                SELECT message.* FROM message JOIN organisation ON organisation.id = organisation_id
                WHERE control_id = $1 AND ods_code = $2 ORDER BY seq DESC LIMIT 1
                """,
                control_id,
                self.ods_code,
            )
            if row is not None and row["status"] != "received":
                return row
            await asyncio.sleep(0.025)
        raise AssertionError(f"{control_id} has not ended")

    async def authorize(self, scope: str = "") -> str:
        form = {"grant_type": "client_credentials"} | ({"scope": scope} if scope else {})
        headers = {"Authorization": basic(self.client["client_id"], self.client["client_secret"])}
        reply = await self.request("POST", "/oauth2/token", data=form, headers=headers)
        assert reply.status == 200, reply.body
        return str(reply.json["access_token"])

    async def get(self, path: str, **options: Any) -> Reply:
        """GET below /fhir/R4 with a token."""
        return await self.request("GET", f"/fhir/R4/{path}", headers=await self.bearer(), **options)

    async def bearer(self) -> dict[str, str]:
        """The header of a token that lives; one that a test has set itself stays."""
        if not self.token or (self.asked_at and time.monotonic() - self.asked_at > 240):
            self.token, self.asked_at = await self.authorize(), time.monotonic()
        return {"Authorization": f"Bearer {self.token}"}

    async def search(self, path: str) -> list[dict[str, Any]]:
        reply = await self.get(path)
        assert reply.status == 200, reply.body
        return [entry["resource"] for entry in reply.json.get("entry", [])]

    async def patient(self, number: str) -> dict[str, Any]:
        found = await self.search(f"Patient?identifier=https://fhir.nhs.uk/Id/nhs-number|{number}")
        assert len(found) == 1, found
        return found[0]

    async def registered(self) -> str:
        """The NHS number of a new patient of this hospital."""
        number = nhs()
        row = await self.accepted(load.registration(number, unique()))
        assert row["status"] == "applied", row["reason"]
        return number


NewHospital = Callable[..., Awaitable[Hospital]]


@pytest.fixture(scope="session")
def new_hospital(installation: Running, http: aiohttp.ClientSession, database: asyncpg.Pool) -> NewHospital:
    async def make(*sender_options: str, scope: str = "system/*.rs") -> Hospital:
        """As the commands make them, but for the seconds that a command takes to begin; the sender's are its own."""
        ods_code = f"T{uuid.uuid4().hex[:8].upper()}"
        await registry.add_organisation(database, ods_code, f"Hospital {ods_code}")
        client = await registry.add_client(database, "app", ods_code, scope)
        if sender_options:
            options = (f"feed {ods_code}", "--organisation", ods_code, *sender_options, "--json")
            sender = json.loads(installation.cli("sender", "add", *options).stdout)
        else:
            made = await registry.add_sender(database, f"feed {ods_code}", ods_code, ["127.0.0.0/8"])
            sender = asdict(made)
        return Hospital(ods_code, sender, asdict(client), installation, http, database)

    return make


@pytest.fixture(scope="session")
async def hospital(new_hospital: NewHospital) -> Hospital:
    return await new_hospital()
