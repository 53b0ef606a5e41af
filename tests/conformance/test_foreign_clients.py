"""Clients that others wrote, installed as they are, against a running installation."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import NewHospital

HERE = Path(__file__).parent
pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]


@pytest.mark.parametrize(
    ("package", "script"), [("fhirpy==2.3.1", "with_fhirpy"), ("fhirclient==4.4.0", "with_fhirclient")]
)
async def test_a_python_client(new_hospital: NewHospital, tmp_path: Path, package: str, script: str) -> None:
    environment = await who_asks(new_hospital)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    installed = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", package], capture_output=True, text=True, check=False
    )
    if installed.returncode:
        pytest.skip(f"{package} cannot be installed here")
    check([str(python), str(HERE / f"{script}.py")], environment, tmp_path)


async def test_a_javascript_client(new_hospital: NewHospital, tmp_path: Path) -> None:
    if not shutil.which("npm"):
        pytest.skip("npm is not on this machine")
    environment = await who_asks(new_hospital)
    installed = subprocess.run(
        ["npm", "install", "--silent", "--no-audit", "fhir-kit-client@2.0.3"], cwd=tmp_path, check=False
    )
    if installed.returncode:
        pytest.skip("fhir-kit-client cannot be installed here")
    shutil.copy(HERE / "with_fhir_kit_client.mjs", tmp_path)
    check(["node", "with_fhir_kit_client.mjs"], environment, tmp_path)


async def who_asks(new_hospital: NewHospital) -> dict[str, str]:
    app = await new_hospital(scope="system/*.cruds")
    return {**os.environ, "BASE": f"{app.installation.url}/fhir/R4", "TOKEN": await app.authorize()}


def check(command: list[str], environment: dict[str, str], folder: Path) -> None:
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ": good" in done.stdout
