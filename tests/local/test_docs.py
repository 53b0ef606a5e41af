"""What the documents promise is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["security.md", "safety.md"])
def test_every_test_that_a_table_names_exists(name: str) -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    rows = [line for line in (ROOT / "docs" / name).read_text().splitlines() if line.startswith("| ")]
    named = [name for row in rows for name in re.findall(r"`([a-z_]{12,})`", row.rsplit("|", 2)[1])]
    assert len(named) > 20
    assert [name for name in named if f"def test_{name}(" not in tests] == []


def test_every_command_that_the_documents_show_exists() -> None:
    commands = "".join(path.read_text() for path in (ROOT / "shared/carefolio").glob("c*/*.py"))
    commands += (ROOT / "shared/carefolio/cli.py").read_text()
    for file in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for group, command in re.findall(r"^ {4}carefolio ([a-z0-9]+) ([a-z-]+)", file.read_text(), re.MULTILINE):
            assert f'("{group}", ' in commands, (file.name, group)
            known = f'{group}_app.command("{command}")' in commands or f', name="{command}")' in commands
            assert known, (file.name, group, command)
