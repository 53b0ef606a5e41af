"""What the documents promise is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Commands that belong to no group.
_ALONE = {"migrate", "profile"}


@pytest.mark.parametrize("name", ["security.md", "safety.md", "threats.md"])
def test_every_test_that_a_table_names_exists(name: str) -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    rows = [line for line in (ROOT / "docs" / name).read_text().splitlines() if line.startswith("| ")]
    named = [name for row in rows for name in re.findall(r"`([a-z_]{12,})`", row.rsplit("|", 2)[1])]
    assert len(named) > 20
    assert [name for name in named if f"def test_{name}(" not in tests] == []


def test_every_command_that_the_documents_show_exists() -> None:
    commands = "".join(path.read_text() for path in (ROOT / "shared/carefolio").glob("c*/*.py"))
    commands += (ROOT / "shared/carefolio/cli.py").read_text()
    for file in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        shown = re.findall(r"(?:^ {4,}|`)carefolio\s+([a-z0-9]+)\s+([a-z-]+)", file.read_text(), re.MULTILINE)
        # As the job runs it, whose words are parted by commas.
        shown += re.findall(r"--args ([a-z0-9]+),([a-z-]+)", file.read_text())
        for group, command in shown:
            if group in _ALONE:
                continue
            assert f'"{group}": "' in commands, (file.name, group)
            known = f'{group}_app.command("{command}")' in commands or f', name="{command}")' in commands
            assert known, (file.name, group, command)


def test_the_architecture_is_drawn_of_what_there_is() -> None:
    """The picture and the tables of docs/architecture.md are what Terraform, the URL map and the wiring say now."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/architecture.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_capacity_is_what_its_model_says() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/capacity.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
