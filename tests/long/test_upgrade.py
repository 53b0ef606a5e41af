"""An upgrade without interruption: two versions of the code on one schema, requests shifted from one to the other.

The old version is the one before the newest migration, taken from the history, so that the schema changes under it. The
front door divides requests as Cloud Run does between revisions (scripts/rollout: 5%, 25%, 100%).
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import asyncpg
import pytest
from aiohttp import web
from tests.conftest import ENVIRONMENT, free_port

from carefolio.cloud.queue import EMBEDDED_SCHEMA
from carefolio.local import load, postgres
from carefolio.local.installation import REPOSITORY, Installation

STEPS = (5, 25, 100)
EACH = 4.0
PATIENTS = 20


@dataclass
class FrontDoor:
    """Sends each request to one of two addresses: ``percent`` of them to the new one."""

    port: int
    old: str
    new: str = ""
    percent: int = 0
    asked: dict[str, int] = field(default_factory=lambda: {"old": 0, "new": 0})

    async def forward(self, request: web.Request) -> web.Response:
        which = "new" if random.random() * 100 < self.percent else "old"
        self.asked[which] += 1
        headers = {name: value for name, value in request.headers.items() if name.lower() != "content-length"}
        async with self.session.request(
            request.method, (self.new if which == "new" else self.old) + request.path_qs,
            data=await request.read(), headers=headers, allow_redirects=False,
        ) as answer:  # fmt: skip
            kept = {name: answer.headers[name] for name in ("Content-Type", "Location") if name in answer.headers}
            return web.Response(status=answer.status, body=await answer.read(), headers=kept)

    async def serve(self) -> web.AppRunner:
        self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), auto_decompress=False)
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{path:.*}", self.forward)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port).start()
        return runner


@dataclass
class Version:
    """One version of the code: its tree, and its processes on the common home."""

    tree: Path
    environment: dict[str, str]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def run(self, *arguments: str) -> str:
        done = subprocess.run([sys.executable, *arguments], env=self.environment, capture_output=True, text=True,
                              check=False, cwd=self.tree)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, *sides: str) -> None:
        for side in sides:
            with Path(self.environment["CAREFOLIO_HOME"], f"{self.tree.name}-{side}.log").open("wb") as log:
                self.processes[side] = subprocess.Popen(
                    [sys.executable, "-m", "carefolio.local.serve", side], env=self.environment, cwd=self.tree,
                    stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
                )  # fmt: skip

    def stop(self, side: str) -> None:
        process = self.processes.pop(side)
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        if process.stdin:
            process.stdin.close()


def before_the_newest_migration(folder: Path) -> Path:
    """The tree as it was then; skips where the history is not there."""
    versions = "shared/carefolio/cloud/migrations/versions"
    git = ["git", "-C", str(REPOSITORY)]
    found = subprocess.run(
        [*git, "log", "-1", "--diff-filter=A", "--format=%H", "--", versions],
        capture_output=True,
        text=True,
        check=False,
    )
    parent = f"{found.stdout.strip()}^"
    if not found.stdout.strip() or subprocess.run([*git, "cat-file", "-e", parent], check=False).returncode:
        pytest.skip("the history before the newest migration is not here")
    folder.mkdir()
    taken = subprocess.run([*git, "archive", parent], capture_output=True, check=True)
    subprocess.run(["tar", "-x", "-C", str(folder)], input=taken.stdout, check=True)
    return folder


async def answers(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        for _ in range(300):
            try:
                async with session.get(f"{url}/fhir/R4/health/ready") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
    raise AssertionError(f"{url} does not get ready")


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_an_upgrade_under_load(homes: Callable[[], Path], capsys: pytest.CaptureFixture[str]) -> None:
    home = homes()
    earlier = before_the_newest_migration(home / "old")
    door = FrontDoor(free_port(), "")
    here = Installation(home, free_port())
    common = {
        **ENVIRONMENT, **here.environment(), "CAREFOLIO_HOME": str(home), "TRACE_SHARE": "0",
        "PUBLIC_URL": f"http://localhost:{door.port}", "ALSO_AT": f"http://127.0.0.1:{door.port}",
    }  # fmt: skip
    old = Version(earlier, common | {"PORT": str(here.port), "PYTHONPATH": str(earlier / "shared")})
    new = Version(REPOSITORY, common | {"PORT": str(free_port()), "PYTHONPATH": str(REPOSITORY / "shared")})
    door.old, door.new = (f"http://127.0.0.1:{each.environment['PORT']}" for each in (old, new))
    here.postgres.make()
    server = here.postgres.start(home / "postgres.log")
    runner = await door.serve()
    try:
        was = old.run("-m", "carefolio.cli", "migrate")
        connection = await asyncpg.connect(here.postgres.url)
        for statement in EMBEDDED_SCHEMA:
            await connection.execute(statement)
        old.run(
            "-c", "from carefolio.local.installation import installation as i; h = i(); h.enter(); h.make_secrets()"
        )
        old.run("-m", "carefolio.cli", "organisation", "add", "RUP", "Hospital")
        options = ("--organisation", "RUP", "--allow", "127.0.0.0/8", "--json")
        sender = json.loads(old.run("-m", "carefolio.cli", "sender", "add", "s", *options))
        client = json.loads(
            old.run(
                "-m", "carefolio.cli", "client", "add", "c", "--organisation", "RUP", "--scope", "system/*.rs", "--json"
            )
        )
        old.start("public", "internal", "dispatcher")
        await answers(door.old)

        numbers = load.numbers()
        patients = [next(numbers) for _ in range(PATIENTS)]
        secret = door.port, sender["username"], sender["password"]
        first = await load.post(
            *secret, [(f"R{number}", load.registration(number, f"R{number}")) for number in patients]
        )
        assert first.statuses == {"200 AA": PATIENTS}
        ended = asyncio.Event()
        posting = asyncio.create_task(load.post(*secret, feed(patients, ended), connections=8))
        reading = [asyncio.create_task(read(door.port, client, patients, ended)) for _ in range(8)]
        await asyncio.sleep(EACH)

        # As scripts/deploy.yaml does it: the schema first, while the old version serves on it.
        became = await asyncio.to_thread(new.run, "-m", "carefolio.cli", "migrate")
        new.start("public", "internal")
        await answers(door.new)
        for door.percent in STEPS:
            await asyncio.sleep(EACH)
        await asyncio.to_thread(old.stop, "public")
        await asyncio.to_thread(old.stop, "internal")
        await asyncio.sleep(EACH)
        ended.set()
        posted = await posting
        counted = [await each for each in reading]

        while await connection.fetchval("SELECT EXISTS (SELECT FROM message WHERE status = 'received')"):
            await asyncio.sleep(0.1)
        results = await connection.fetchval("SELECT count(*) FROM resource WHERE type = 'Observation'")
        await connection.close()
        reads = sum(sum(each.values()) for each in counted)
        posts = sum(posted.statuses.values())
        with capsys.disabled():
            print(f"\n  {was.strip()} -> {became.strip()} under load: {posts} posts, {reads} reads, {door.asked['new']}"
                  f" of them by the new version; broken {posted.broken}", end=" ")  # fmt: skip
        assert was != became
        assert posted.broken == 0
        assert set(posted.statuses) == {"200 AA"}
        assert {status for each in counted for status in each} == {200}
        assert results == 2 * len(posted.acknowledged)
        assert min(door.asked.values()) > 100
    finally:
        for version in (old, new):
            for side in list(version.processes):
                version.stop(side)
        await runner.cleanup()
        await door.session.close()
        postgres.stop(server)
        shutil.rmtree(earlier, ignore_errors=True)


def feed(patients: list[str], ended: asyncio.Event):  # type: ignore[no-untyped-def]
    serial = 0
    while not ended.is_set():
        serial += 1
        yield f"U{serial}", load.report(random.choice(patients), f"U{serial}", 2)


async def read(port: int, client: dict[str, str], patients: list[str], ended: asyncio.Event) -> dict[int, int]:
    """Searches as an app makes them, with a token that is fetched anew now and then; by status how many."""
    counted: dict[int, int] = {}
    basic = base64.b64encode(f"{client['client_id']}:{client['client_secret']}".encode()).decode()
    async with aiohttp.ClientSession(f"http://localhost:{port}") as session:
        until = 0.0
        while not ended.is_set():
            if time.monotonic() > until:
                form = {"grant_type": "client_credentials", "scope": "system/*.rs"}
                async with session.post(
                    "/oauth2/token", data=form, headers={"Authorization": f"Basic {basic}"}
                ) as answer:
                    token = (await answer.json())["access_token"]
                until = time.monotonic() + 2
            number = random.choice(patients)
            path = f"/fhir/R4/Observation?patient.identifier=https://fhir.nhs.uk/Id/nhs-number|{number}&_count=5"
            async with session.get(path, headers={"Authorization": f"Bearer {token}"}) as answer:
                await answer.read()
                counted[answer.status] = counted.get(answer.status, 0) + 1
    return counted
