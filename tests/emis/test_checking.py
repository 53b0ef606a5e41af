"""``carefolio emis check``: a folder as it comes, looked through to the last row."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import CLI

from carefolio.emis.tables import tables

AGREEMENT = "11111111-2222-3333-4444-555555555555"
STAMP = "20260101020000"


def write(folder: Path, table: str, rows: int, *extra: str, kind: str = "bulk", agreement: str = AGREEMENT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{kind}_7_{table}_{STAMP}_{agreement}.csv"
    with file.open("w", encoding="utf-8", newline="") as output:
        writer = csv.writer(output, quoting=csv.QUOTE_ALL)
        writer.writerow([*tables()[table].columns, *extra])
        writer.writerows([["x"] * (len(tables()[table].columns) + len(extra))] * rows)
    return file


def check(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [CLI if CLI.exists() else sys.executable, "emis", "check", str(folder), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"})


def test_a_whole_batch_is_counted(tmp_path: Path) -> None:
    for at, table in enumerate(tables()):
        write(tmp_path / "IM1" / "deep", table, at, *(["NewIn9"] if at == 3 else []))
    (tmp_path / "readme.txt").write_text("not an extract's")
    done = check(tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    (batch,) = json.loads(done.stdout)
    assert (batch["batch"], batch["kind"], batch["missing"]) == (STAMP, "bulk", [])
    assert [file["rows"] for file in batch["files"]] == list(range(21))
    assert batch["files"][3]["extra"] == ["NewIn9"]


def test_what_is_wrong_is_said_and_the_rest_is_read(tmp_path: Path) -> None:
    for table in tables():
        if table != "Admin_Patient":
            write(tmp_path, table, 2)
    broken = write(tmp_path, "CareRecord_Problem", 2)
    broken.write_text(broken.read_text() + '"too","few"\r\n')
    locked = write(tmp_path, "Coding_DrugCode", 1)
    locked.rename(locked.with_name(locked.name + ".gpg"))
    done = check(tmp_path)
    assert done.returncode == 1
    assert "lacks Admin_Patient" in done.stdout
    assert "CareRecord_Problem row 4: 2 values for" in done.stdout
    assert "Coding_DrugCode: it is encrypted: give a key" in done.stdout
    assert "few" not in done.stdout
    assert "2 rows" in done.stdout


@pytest.mark.parametrize("agreements", [[], [AGREEMENT, AGREEMENT.replace("1", "9")]])
def test_one_agreement_is_looked_at(tmp_path: Path, agreements: list[str]) -> None:
    for agreement in agreements:
        write(tmp_path, "Admin_Patient", 1, agreement=agreement)
    assert check(tmp_path).returncode == 1
    if agreements:
        assert "name one" in check(tmp_path).stderr
        assert "Admin_Patient" in check(tmp_path, "--agreement", AGREEMENT).stdout
