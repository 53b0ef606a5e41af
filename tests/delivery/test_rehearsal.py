"""The rehearsal in the cloud against a gcloud and a terraform that write down what they are asked, and fail where
told to.

They are programs on the PATH, as the real ones are; their words are those of gcloud's reference.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from carefolio.local.installation import REPOSITORY

_PROGRAM = """#!{python}
import json, os, shutil, sys
place = {place!r}
name, words = os.path.basename(sys.argv[0]), sys.argv[1:]
said = " ".join([name, *words])
with open(place + "/asked", "a") as file:
    file.write(said + "\\n")
failing = open(place + "/failing").read().strip()
if failing and failing in said:
    sys.exit("ERROR: (gcloud) " + failing + " was refused")
answers = json.load(open(place + "/answers"))
if words[:2] == ["storage", "cp"] and words[2].endswith("proof.json"):
    shutil.copy(words[2], place + "/proof.json")
    open(place + "/where", "w").write(words[3])
for part, answer in answers.items():
    if part in said:
        print(answer)
"""


@dataclass
class Cloud:
    """What was asked, and what the programs answer."""

    folder: Path

    def rehearse(self, what: str, failing: str = "", **answers: str) -> tuple[int, str]:
        (self.folder / "failing").write_text(failing)
        told = {
            "get-latest-recovery-time": answers.pop("moment", "2099-01-01T00:00:00Z"),
            "run services describe": "registry.example/carefolio@sha256:1",
            "projects describe": "4711",
            "backups list": json.dumps([{"id": "99", "startTime": datetime.now(UTC).isoformat()}]),
            "describe carefolio-primary": json.dumps(
                {
                    "settings": {"dataDiskSizeGb": "512"},
                    "diskEncryptionConfiguration": {"kmsKeyName": "projects/p/locations/l/keyRings/r/cryptoKeys/k"},
                }
            ),
            "serviceAccountEmailAddress": "p1@gcp-sa-cloud-sql.iam.gserviceaccount.com",
            "storage ls": "gs://offsite/exports/20261125T010000/\ngs://offsite/exports/20261126T010000/",
            "storage cat": '"812","90210","2026-11-26 00:59:00"',
        } | answers
        (self.folder / "answers").write_text(json.dumps(told))
        done = subprocess.run(
            [sys.executable, str(REPOSITORY / "scripts/rehearsal.py"), what, "--project", "carefolio-production",
             "--region", "europe-west2", "--offsite", "gs://offsite", "--offsite-project", "carefolio-offsite",
             "--folder", "1", "--billing", "2", "--policy", "3"],
            env=os.environ | {"PATH": f"{self.folder}:{os.environ['PATH']}"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    @property
    def asked(self) -> list[str]:
        return (self.folder / "asked").read_text().splitlines()

    @property
    def proof(self) -> dict[str, Any]:
        read: dict[str, Any] = json.loads((self.folder / "proof.json").read_text())
        return read

    def place(self, *parts: str) -> list[int]:
        """Where each of these was asked first."""
        return [next(number for number, line in enumerate(self.asked) if part in line) for part in parts]


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    for name in ("gcloud", "terraform"):
        program = tmp_path / name
        program.write_text(_PROGRAM.format(python=sys.executable, place=str(tmp_path)))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return Cloud(tmp_path)


def test_a_rehearsal_leaves_a_proof_and_nothing_else(cloud: Cloud) -> None:
    """A clone beside the instance, a stack from nothing in a project of its own; then both are gone."""
    status, said = cloud.rehearse("rehearse")
    assert status == 0, said
    assert (cloud.proof["kind"], cloud.proof["good"]) == ("rehearsed", True)
    assert {"rto", "rpo", "steps"} <= set(cloud.proof["figures"])
    assert (cloud.folder / "where").read_text().startswith("gs://offsite/proofs/rehearsed/")
    order = cloud.place(
        "sql instances clone carefolio-primary carefolio-clone-", "message,missing,--since", "sql instances delete",
        "projects create", "perimeters update carefolio_production --policy=3 --add-resources=projects/4711",
        "disk_gb=512", "kms keys add-iam-policy-binding",
        "sql backups restore 99 --restore-instance=carefolio-primary", "secrets versions add", "storage rsync",
        "carefolio-migrate", "--args=quiet", "message,put-back", "module.messaging", "audit,verify",
        "kms keys remove-iam-policy-binding", "--remove-resources=projects/4711", "projects delete",
    )  # fmt: skip
    assert order == sorted(order)
    assert all(len(word) <= 30 for line in cloud.asked if "projects create" in line for word in line.split()[3:4])
    # What is given away and not asked for again.
    assert all("--quiet" in line for line in cloud.asked if line.startswith("gcloud"))


@pytest.mark.parametrize(
    "failing",
    ["instances clone", "message,missing", "projects create", "billing projects link", "-auto-approve",
     "backups restore", "secrets versions access", "carefolio-migrate", "message,put-back", "audit,verify"],
)  # fmt: skip
def test_one_that_fails_is_filed_as_that_and_cleaned_up(cloud: Cloud, failing: str) -> None:
    status, said = cloud.rehearse("rehearse", failing)
    assert (status, cloud.proof["good"]) == (1, False)
    assert "was refused" in cloud.proof["figures"]["wrong"]
    assert cloud.proof["figures"]["rto"] > 3600 or "rto" in cloud.proof["figures"]
    made = [what for what in ("instances clone", "projects create") if any(what in line for line in cloud.asked)]
    ended = {"instances clone": "instances delete", "projects create": "projects delete"}
    assert all(any(ended[what] in line for line in cloud.asked) for what in made), said


def test_what_cannot_be_taken_down_is_named(cloud: Cloud) -> None:
    status, _ = cloud.rehearse("rehearse", "projects delete")
    assert status == 1
    assert "left behind: project carefolio-reh-" in cloud.proof["figures"]["wrong"]


def test_a_point_that_is_too_old_breaks_the_promise(cloud: Cloud) -> None:
    status, _ = cloud.rehearse("rehearse", moment="2026-11-01T00:00:00Z")
    assert status == 1
    assert "RPO" in cloud.proof["figures"]["wrong"]


def test_the_last_export_is_brought_up_by_itself_and_counted(cloud: Cloud) -> None:
    status, said = cloud.rehearse("restore")
    assert status == 0, said
    assert (cloud.proof["kind"], cloud.proof["good"], cloud.proof["figures"]["resources"]) == ("restored", True, 90210)
    assert any("sql import sql restored-" in line and "exports/20261126T010000" in line for line in cloud.asked)
    assert "sql instances delete restored-" in cloud.asked[-2] + cloud.asked[-1]


@pytest.mark.parametrize(("failing", "counted"), [("import sql", "1,1"), ("", "0,0"), ("instances create", "1,1")])
def test_an_export_that_does_not_come_up_is_a_bad_proof(cloud: Cloud, failing: str, counted: str) -> None:
    status, _ = cloud.rehearse("restore", failing, **{"storage cat": counted})
    assert (status, cloud.proof["good"], cloud.proof["kind"]) == (1, False, "restored")
    assert any("instances delete restored-" in line for line in cloud.asked)
