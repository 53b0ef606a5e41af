"""What the runbooks have an operator type is understood by gcloud itself: it refuses a word it does not know before
it asks who is there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from carefolio.local.installation import REPOSITORY

_GIVEN = {"P": "carefolio-production", "R": "europe-west2", "SECOND": "europe-west1", "S": "x", "f": "hl7"}


def commands() -> list[str]:
    """Every line of the documents that begins with gcloud, also what a loop repeats, with what it is given put in."""
    found = []
    for file in (REPOSITORY / "docs/cloud.md", *sorted((REPOSITORY / "docs/runbooks").glob("*.md"))):
        for line in re.findall(r"^ {4,}(gcloud .*)$", file.read_text(), re.MULTILINE):
            text = re.sub(r"\$(\w+)", lambda match: _GIVEN[match[1]], line.split("     ")[0])
            found.append(text if text.count("'") % 2 == 0 else text + "'")
    return found


@pytest.mark.long
@pytest.mark.skipif(shutil.which("gcloud") is None, reason="needs gcloud")
def test_gcloud_knows_every_word_of_the_runbooks(tmp_path: Path) -> None:
    shown = commands()
    assert len(shown) > 25

    def refused(command: str) -> str | None:
        done = subprocess.run(
            ["sh", "-c", command + " --quiet"], capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "CLOUDSDK_CONFIG": str(tmp_path / "config")},
        )  # fmt: skip
        said = done.stdout + done.stderr
        return None if "already authenticated account" in said else f"{command}: {said[-300:]}"

    with ThreadPoolExecutor(2) as pool:
        assert [each for each in pool.map(refused, shown) if each] == []
