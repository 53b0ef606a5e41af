"""The promises of recovery, rehearsed on a small record; the long run does it on two gigabytes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DISASTERS = ["destroyed", "streamed", "dropped", "tail", "corrupted", "offsite"]


def rehearse(folder: Path, *options: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "carefolio.local.rehearse", "--report", str(folder), *options],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    [report] = folder.glob("*/report.json")
    assert (report.parent / "chart.svg").read_text().startswith("<svg")
    assert "Every promise was kept" in (report.parent / "report.md").read_text()
    told: dict[str, Any] = json.loads(report.read_text())
    assert (told["good"], told["missing"], told["doubled"]) == (True, 0, 0)
    assert [each["name"] for each in told["disasters"]] == DISASTERS
    return told


def of(told: dict[str, Any], name: str) -> dict[str, Any]:
    return next(each for each in told["disasters"] if each["name"] == name)


@pytest.mark.timeout(240)
def test_every_disaster_of_a_small_record(tmp_path: Path) -> None:
    told = rehearse(tmp_path, "--resources", "2000", "--load", "1.5")
    # Where each commit waits for a receiver, even the database alone has lost nothing; elsewhere it has, and the
    # copies help.
    assert of(told, "streamed")["lost"] == 0
    assert of(told, "destroyed")["lost"] > 0
    assert "is spoilt" in of(told, "corrupted")["noticed"]


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_every_disaster_of_two_gigabytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = rehearse(tmp_path, "--resources", "900000", "--load", "40")
    with capsys.disabled():
        shown = ", ".join(f"{each['name']} {each['rto']:.0f}/{each['rpo']:.0f} s" for each in told["disasters"])
        print(f"\n  {told['gigabytes']} GB, RTO/RPO: {shown}", end=" ")
    assert told["gigabytes"] > 1.9
    assert told["rto"] <= 300
    assert told["rpo"] <= 60
    assert of(told, "streamed")["lost"] == 0
