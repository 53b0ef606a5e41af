"""Clients that others wrote, installed as they are, against a running installation."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import NewHospital, nhs, unique
from tests.record.people import Person

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


async def test_smart_fetch_exports_and_crawls(new_hospital: NewHospital, tmp_path: Path) -> None:
    """Bulk Data's export, and the same patients resource by resource, by a tool of researchers, unchanged."""
    hospital = await new_hospital("--allow", "127.0.0.0/8", scope="system/*.rs")
    person = Person(nhs(), unique("L"))
    await hospital.accepted(person.message("A28", rest="AL1|1|DA|P^Penicillin"))
    await hospital.accepted(person.result(unique("F"), "90"))
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    pip = [tmp_path / "venv/bin/python", "-m", "pip", "install", "--quiet", "smart-fetch"]
    if subprocess.run(pip, capture_output=True, check=False).returncode:
        pytest.skip("smart-fetch cannot be installed here")
    (tmp_path / "token").write_text(await hospital.authorize())
    kinds = ("Patient", "AllergyIntolerance", "Observation")
    common = ["--fhir-url", f"{hospital.installation.url}/fhir/R4", "--bearer-token", tmp_path / "token",
              "--no-compression", "--no-default-filters", "--type", ",".join(kinds)]  # fmt: skip
    for how, more in (("bulk", []), ("crawl", ["--source-dir", tmp_path / "bulk"])):
        done = subprocess.run(
            [tmp_path / "venv/bin/smart-fetch", how, *common, *more, tmp_path / how],
            capture_output=True, text=True, check=False, timeout=200,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        for kind in kinds:
            lines = [
                line for file in (tmp_path / how).glob(f"{kind}*.ndjson") for line in file.read_text().splitlines()
            ]
            assert len(lines) == 1, (how, kind)
