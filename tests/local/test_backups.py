"""One machine's own way back: ARCHIVE_DIR, what it does by itself, and the database made again by a command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest
from tests.conftest import CLI, Running, nhs, running, unique

from carefolio.local import load
from carefolio.local.archive import Archive


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_a_machine_that_lost_its_database(homes: Callable[[], Path]) -> None:
    """Backed up by itself, destroyed, restored to the end of its log, started, and nothing acknowledged is missing."""
    home, place = homes(), homes() / "to be % kept"
    copies = homes()
    given = {"ARCHIVE_DIR": str(place), "COPIES_URL": str(copies), "TRACE_SHARE": "0"}
    with running(home, "--no-demo", **given) as made:
        made.cli("organisation", "add", "RBACK", "Hospital")
        options = ("--organisation", "RBACK", "--allow", "127.0.0.0/8", "--json")
        sender = json.loads(made.cli("sender", "add", "s", *options).stdout)
        archive = until_backed_up(place)
        secret = made.here.port, sender["username"], sender["password"]
        posted = await load.post(*secret, [(f"B{n}", load.registration(nhs(), unique("B"))) for n in range(20)])
        assert posted.statuses == {"200 AA": 20}
        began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 300))
        told = command(made, "backup", "list")
        assert "good" in told.stdout
        refused = command(made, "backup", "restore")
        assert (refused.returncode, "move it away" in refused.stderr) == (1, True)
    shutil.rmtree(home / "postgres")
    assert archive.dumps()
    restored = command(made, "backup", "restore")
    assert restored.returncode == 0, restored.stderr
    with running(home, "--no-demo", **given) as again:
        again.cli("message", "put-back", "--since", began)
        missing = again.cli("message", "missing", "--since", began, "--json")
        assert json.loads(missing.stdout)["missing"] == 0
        connection = await asyncpg.connect(again.here.postgres.url)
        assert await connection.fetchval("SELECT count(*) FROM message WHERE ack_code = 'AA'") == 20
        await connection.close()
        until_backed_up(place)


def until_backed_up(place: Path) -> Archive:
    """The archive, when the first night's work is done."""
    for _ in range(600):
        if len(list(place.glob("proofs/*/*.json"))) >= 3:
            for proof in place.glob("proofs/*/*.json"):
                assert json.loads(proof.read_text())["good"], proof.read_text()
            [archive] = Archive.all_in(place)
            return archive
        time.sleep(0.1)
    raise AssertionError("nothing is backed up")


def command(made: Running, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [CLI, *arguments], env=os.environ | made.environment, capture_output=True, text=True, check=False
    )
