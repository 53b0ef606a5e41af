"""What the runbooks have an operator type is understood by gcloud itself: it refuses a word it does not know before
it asks who is there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.delivery.test_rehearsal import Cloud, cloud

from carefolio.local.installation import REPOSITORY

__all__ = ["cloud"]
_GIVEN = {
    "P": "carefolio-production",
    "R": "europe-west2",
    "SECOND": "europe-west1",
    "S": "x",
    "f": "hl7",
    "j": "command",
}


def commands() -> list[str]:
    """Every line of the documents that begins with gcloud, also what a loop repeats, with what it is given put in."""
    found = []
    for file in (REPOSITORY / "docs/cloud.md", *sorted((REPOSITORY / "docs/runbooks").glob("*.md"))):
        for line in re.findall(r"^ {4,}(gcloud .*)$", file.read_text(), re.MULTILINE):
            text = re.sub(r"\$(\w+)", lambda match: _GIVEN[match[1]], line.split("     ")[0])
            text = re.sub(r"\b(PROJECT|REGION)\b", lambda match: match[1].lower() + "-one", text)
            found.append(text if text.count("'") % 2 == 0 else text + "'")
    return found


@pytest.fixture
def rehearsed(cloud: Cloud) -> list[str]:
    """What a rehearsal asks for, each thing once."""
    for what in ("rehearse", "restore"):
        assert cloud.rehearse(what)[0] == 0
    found = {}
    for line in cloud.asked:
        if line.startswith("gcloud"):
            words = line.removesuffix(" --quiet").split()
            if "--query=" in line:
                words = [*line.partition(" --query=")[0].split(), "--query=SELECT 1"]
            found.setdefault(tuple(words[:5]), shlex.join(words))
    return list(found.values())


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("gcloud") is None, reason="needs gcloud")
def test_gcloud_knows_every_word(tmp_path: Path, rehearsed: list[str]) -> None:
    shown = [*commands(), *rehearsed]
    assert len(shown) > 50

    def refused(command: str) -> str | None:
        done = subprocess.run(
            ["sh", "-c", command + " --quiet"], capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "CLOUDSDK_CONFIG": str(tmp_path / "config")},
        )  # fmt: skip
        said = done.stdout + done.stderr
        known = ("already authenticated account", "does not exist", "No such file")
        return None if any(each in said for each in known) else f"{command}: {said[-300:]}"

    with ThreadPoolExecutor(2) as pool:
        assert [each for each in pool.map(refused, shown) if each] == []
