"""``scripts/up``: one command, and one sentence with a way out where it cannot be."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import psutil
import pytest
from tests.conftest import ENVIRONMENT, Hospital, Running, basic, free_port, nhs, running, unique

from carefolio.local import load

Homes = Callable[[], Path]


def up(home: Path, port: int, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Start it where it cannot start."""
    return subprocess.run(
        [sys.executable, "-m", "carefolio.local.up", *options],
        env={**ENVIRONMENT, "CAREFOLIO_HOME": str(home), "PORT": str(port), **environment},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def played(homes: Homes) -> tuple[Path, str]:
    """A first start with its demonstration, and the curl line that it printed, tried while it ran."""
    home = homes()
    with running(home) as made:
        printed = "".join(made.printed)
        line = next(line.strip() for line in made.printed if line.strip().startswith("curl -s -H"))
        answer = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True).stdout
        assert '"resourceType":"DiagnosticReport"' in answer
        posting = next(line.strip() for line in made.printed if line.strip().startswith("curl -s -u"))
        repository = Path(__file__).parents[2]
        ack = subprocess.run(["sh", "-c", posting], capture_output=True, text=True, check=True, cwd=repository).stdout
        assert "MSA|AA|DEMO0003" in ack
    return home, printed


def test_the_demonstration_shows_every_message_with_its_answer_and_link(played: tuple[Path, str]) -> None:
    rows = re.findall(r"\.hl7 +(ADT|ORU)\^\w+ .* AA DEMO\d+ +http://localhost:\d+/fhir/R4/\w+/[\w-]+", played[1])
    assert len(rows) == 12


def test_everything_stops_with_it(played: tuple[Path, str]) -> None:
    home = str(played[0])
    left = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        environment = process.info["environ"] or {}
        if home in " ".join(process.info["cmdline"] or ()) or environment.get("CAREFOLIO_HOME") == home:
            left.append(process.pid)
    assert left == []


def test_a_second_start_keeps_the_data_and_reset_starts_empty(played: tuple[Path, str]) -> None:
    home, printed = played
    started = time.monotonic()
    with running(home, "--no-demo") as made:
        assert time.monotonic() - started < 20
        assert "DEMO0012" in made.cli("message", "list").stdout
    with running(home) as made:
        assert re.findall(r"fhir/R4/\w+/[\w-]+", "".join(made.printed)) == re.findall(r"fhir/R4/\w+/[\w-]+", printed)
    with running(home, "--reset", "--no-demo") as made:
        assert made.cli("message", "list").stdout == ""


def test_a_port_in_use(homes: Homes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = up(homes(), port)
    assert done.returncode == 1
    assert f"Port {port} cannot be used" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("port", ["0", "x", "70000"])
def test_a_port_that_is_none(homes: Homes, port: str) -> None:
    assert "PORT must be" in up(homes(), 1, PORT=port).stderr


def test_two_on_one_home(installation: Running) -> None:
    done = up(installation.here.home, free_port())
    assert done.returncode == 1
    assert f"process {installation.process.pid}" in done.stderr


def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    done = up(file / "home", free_port())
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1


def test_a_half_made_database_is_made_again(homes: Homes) -> None:
    home = homes()
    (home / "postgres.new").mkdir()
    (home / "postgres.new" / "rubbish").write_text("x")
    with running(home, "--no-demo") as made:
        assert made.cli("message", "list").stdout == ""


def test_a_deep_home_works(homes: Homes) -> None:
    home = homes() / ("deep" * 20) / ("deeper" * 10)
    home.mkdir(parents=True)
    with running(home, "--no-demo") as made:
        assert made.cli("message", "list").stdout == ""


async def ready(url: str) -> int:
    with contextlib.suppress(aiohttp.ClientError):
        async with aiohttp.ClientSession() as session, session.get(f"{url}/hl7/health/ready") as answer:
            return answer.status
    return 0


async def until(url: str, status: int) -> None:
    for _ in range(300):
        if await ready(url) == status:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"{url} never answered {status}")


def children(made: Running, name: str) -> list[psutil.Process]:
    return [child for child in psutil.Process(made.process.pid).children() if name in " ".join(child.cmdline())]


async def test_what_dies_is_started_again_and_meanwhile_nothing_is_acknowledged(homes: Homes) -> None:
    with running(homes(), "--no-demo") as made:
        made.cli("organisation", "add", "RKILL", "Hospital")
        sender = made.cli("sender", "add", "s", "--organisation", "RKILL", "--allow", "127.0.0.0/8").stdout
        username, password = re.findall(r": (\S+)", sender)[:2]
        headers = {"Authorization": basic(username, password), "Content-Type": "application/hl7-v2"}

        async def post() -> tuple[int, bytes, str | None]:
            async with (
                aiohttp.ClientSession() as session,
                session.post(f"{made.url}/hl7", data=load.registration(nhs(), unique()), headers=headers) as answer,
            ):
                return answer.status, await answer.read(), answer.headers.get("Retry-After")

        assert (await post())[0] == 200
        (server,) = children(made, "postgres")
        server.send_signal(signal.SIGSTOP)
        for backend in server.children(recursive=True):
            backend.send_signal(signal.SIGKILL)
        server.send_signal(signal.SIGKILL)
        status, body, retry = await post()
        if status != 200:
            assert (status, retry) == (503, "5")
            assert b"MSA" not in body
        await until(made.url, 200)
        assert (await post())[0] == 200
        for side in ("public", "internal", "dispatcher"):
            (process,) = children(made, f"serve {side}")
            process.kill()
            process.wait()
        await until(made.url, 200)
        assert (await post())[0] == 200


async def test_a_supervisor_that_is_killed_leaves_nothing_that_stops_the_next(homes: Homes) -> None:
    home = homes()
    with running(home, "--no-demo") as made:
        sides = [child for side in ("public", "internal", "dispatcher") for child in children(made, f"serve {side}")]
        made.process.kill()
        made.process.wait()
        _, alive = psutil.wait_procs(sides, timeout=20)
        assert alive == []
    with running(home, "--no-demo") as made:
        assert await ready(made.url) == 200


async def test_every_door_has_its_health(hospital: Hospital) -> None:
    for path in ("/hl7", "/fhir/R4", "/oauth2"):
        live = await hospital.request("GET", f"{path}/health/live")
        assert (live.status, live.json) == (200, {"status": "live"})
        assert (await hospital.request("GET", f"{path}/health/ready")).json["database"] == "up"


async def test_internal_functions_are_not_on_the_public_port(hospital: Hospital) -> None:
    for path in ("/ingest", "/ingest/dead", "/operations/outbox"):
        assert (await hospital.request("POST", path, data=b"{}")).status == 404
