"""schemathesis, as it is, over the REST API's own document, with the tokens of everybody who may call."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from tests.sharing_kit import World

from carefolio.identity import tokens

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
_SCOPES = {
    "patient": "patient/Sharing.ru patient/AccessLog.r",
    "professional": "user/Patient.s user/Glass.cs user/Freeze.ud user/Team.crus",
    "system": "system/Extract.cruds system/Team.crus",
}
# A line break in a path is answered by the framework, in plain text.
_CHECKS = {
    "positive": "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
    "negative": "not_a_server_error,status_code_conformance",
}


async def test_schemathesis(world: World, tmp_path: Path) -> None:
    """No server error, and no answer that the document does not have."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    installed = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "schemathesis==4.32.5"], capture_output=True, check=False
    )
    if installed.returncode:
        pytest.skip("schemathesis cannot be installed here")
    await world.pool.execute(
        "UPDATE account SET roles = '{administrator,privacy-officer}' WHERE id = $1", world.people["member"].account
    )
    bearers = {
        "patient": world.people["patient"].token(_SCOPES["patient"]),
        "professional": world.people["member"].token(_SCOPES["professional"]),
        "system": tokens.issue("app", _SCOPES["system"], organisation=world.people["member"].organisation),
    }
    known = {"patient": world.patient, "team": world.teams["b1"], "account": world.people["outsider"].account}
    lines = [f'"path.{name}" = "{value}"' for name, value in known.items()]
    (tmp_path / "schemathesis.toml").write_text("\n".join(["[parameters]", *lines]))
    for (who, bearer), (mode, checks) in itertools.product(bearers.items(), _CHECKS.items()):
        done = subprocess.run(
            [tmp_path / "venv/bin/schemathesis", "run", f"{world.hospital.installation.url}/api/v1/openapi.json",
             "--header", f"Authorization: Bearer {bearer}", "--max-examples", "25", "--no-color", "--mode", mode,
             "--checks", checks, "--phases", "examples,coverage,fuzzing"],
            capture_output=True, text=True, check=False, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, f"{who} {mode}\n{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
