"""Rehearse the recovery of an environment in Google Cloud, measure it, file the report, and leave nothing behind.

    scripts/rehearsal.py rehearse    twice a year: a clone to a moment, and a stack from nothing with the last backup
    scripts/rehearsal.py restore     each week: the last off-site export, brought up by itself

Both are run by Cloud Build (scripts/rehearsal.yaml, terraform/modules/delivery/rehearsal.tf) and by hand alike, with
gcloud and terraform. What came of it is a proof in the off-site bucket, good or not, whatever happens in between;
/operations/recovery looks at those (carefolio.recovery.promises) and wakes somebody when one is bad, late, or slower
than promised.

A clone to a moment has to stay in its own project, so it is made there under another name. The stack is made in a
project of its own, which is deleted at the end: keys, and names of instances, cannot be had twice.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
RTO, RPO = 3600, 600
_STAMP = "%Y-%m-%dT%H:%M:%SZ"


class RehearsalError(Exception):
    """What did not go, in one sentence."""


@dataclass
class Rehearsal:
    """What is rehearsed, and how far it is; ``cleaning`` is done in the end, the last first, whatever happened."""

    given: argparse.Namespace
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    steps: dict[str, float] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    cleaning: list[tuple[str, Callable[[], None]]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.at:%y%m%d%H%M%S}"

    def step(self, what: str, work: Callable[[], None]) -> None:
        started = time.monotonic()
        say(what)
        work()
        self.steps[what] = round(time.monotonic() - started, 1)

    def clean(self) -> str:
        """Undo what was made; returns what could not be, which somebody has to by hand."""
        left = []
        for what, work in reversed(self.cleaning):
            try:
                work()
            except RehearsalError:
                left.append(what)
        return ", ".join(left)

    def file(self, kind: str, wrong: str) -> None:
        """The proof, as carefolio.recovery.proofs reads it."""
        figures = self.figures | {"steps": self.steps} | ({"wrong": wrong} if wrong else {})
        proof = {"kind": kind, "at": datetime.now(UTC).isoformat(), "good": not wrong, "figures": figures}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "proof.json"
            path.write_text(json.dumps(proof, indent=1))
            gcloud("storage", "cp", str(path), f"{self.given.offsite}/proofs/{kind}/{self.at:%Y%m%dT%H%M%S%fZ}.json")


def say(text: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", flush=True)


def run(*arguments: str, cwd: Path = REPOSITORY, seconds: int = 5400) -> str:
    """What a command prints. Raises RehearsalError with the end of what it says when it fails."""
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, check=False, cwd=cwd, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise RehearsalError(f"{' '.join(arguments[:4])} takes longer than {seconds} s") from None
    if done.returncode:
        raise RehearsalError(f"{' '.join(arguments[:4])}: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout


def gcloud(*arguments: str) -> str:
    return run("gcloud", *arguments, "--quiet")


def rehearse(all_of_it: Rehearsal) -> None:
    """A clone to a moment beside the instance, then a stack from nothing. Raises RehearsalError."""
    given = all_of_it.given
    _clone(all_of_it)
    started = time.monotonic()
    _stack(all_of_it)
    all_of_it.figures["rto"] = max(all_of_it.steps["clone to a moment"], round(time.monotonic() - started, 1))
    if all_of_it.figures["rto"] > RTO or all_of_it.figures["rpo"] > RPO:
        raise RehearsalError(
            f"RTO {all_of_it.figures['rto']:.0f} s, RPO {all_of_it.figures['rpo']:.0f} s in {given.project}"
        )


def _clone(all_of_it: Rehearsal) -> None:
    given = all_of_it.given
    clone = f"carefolio-clone-{all_of_it.name}"
    where = ("--project", given.project)
    latest = gcloud(
        "sql", "instances", "get-latest-recovery-time", given.instance, *where, "--format=value(latestRecoveryTime)"
    )
    moment = datetime.fromisoformat(latest.strip())
    # What a lost instance would take with it now.
    all_of_it.figures["rpo"] = round((datetime.now(UTC) - moment).total_seconds(), 1)
    all_of_it.figures["moment"] = f"{moment:{_STAMP}}"
    all_of_it.cleaning.append((f"instance {clone}", lambda: _delete_instance(clone, given.project)))
    all_of_it.step(
        "clone to a moment",
        lambda: (
            gcloud(
                "sql",
                "instances",
                "clone",
                given.instance,
                clone,
                *where,
                f"--point-in-time={moment:%Y-%m-%dT%H:%M:%S.%fZ}",
            )
            and None
        ),
    )
    # Every message that was acknowledged until a little before that moment is in the clone.
    until = f"{moment - timedelta(minutes=1):{_STAMP}}"
    all_of_it.step(
        "compare the clone",
        lambda: _command(
            given.project,
            given.region,
            f"{given.project}:{given.region}:{clone}",
            "message",
            "missing",
            "--until",
            until,
        ),
    )
    _delete_instance(clone, given.project)
    all_of_it.cleaning.pop()


def _delete_instance(name: str, project: str) -> None:
    gcloud("sql", "instances", "patch", name, "--project", project, "--no-deletion-protection")
    gcloud("sql", "instances", "delete", name, "--project", project)


def _command(project: str, region: str, instance: str, *arguments: str) -> None:
    """A command of carefolio's where the functions run, on another instance; fails with it. Raises RehearsalError."""
    gcloud(
        "run",
        "jobs",
        "execute",
        "carefolio-command",
        "--wait",
        "--project",
        project,
        "--region",
        region,
        f"--args={','.join(arguments)}",
        f"--update-env-vars=CLOUD_SQL_INSTANCE={instance}",
    )


def _stack(all_of_it: Rehearsal) -> None:
    given = all_of_it.given
    project = f"carefolio-rehearsal-{all_of_it.name}"
    restored = f"{project}:{given.region}:carefolio-primary"
    primary = 'module.platform.module.database.google_sql_database_instance.instance["primary"]'
    folder = REPOSITORY / "terraform" / "environments" / "rehearsal"

    def make_project() -> None:
        all_of_it.cleaning.append((f"project {project}", lambda: gcloud("projects", "delete", project) and None))
        gcloud("projects", "create", project, f"--folder={given.folder}")
        gcloud("billing", "projects", "link", project, f"--billing-account={given.billing}")
        number = gcloud("projects", "describe", project, "--format=value(projectNumber)").strip()
        # Inside production's perimeter for its hours: the backup comes from there.
        perimeter = (
            "access-context-manager",
            "perimeters",
            "update",
            given.project.replace("-", "_"),
            f"--policy={given.policy}",
        )
        all_of_it.cleaning.append(
            (
                f"project {number} in the perimeter",
                lambda: gcloud(*perimeter, f"--remove-resources=projects/{number}") and None,
            )
        )
        gcloud(*perimeter, f"--add-resources=projects/{number}")

    def terraform(*arguments: str) -> None:
        run("terraform", f"-chdir={folder}", *arguments)

    def apply(*targets: str) -> None:
        terraform(
            "apply",
            "-auto-approve",
            "-input=false",
            f"-var=project={project}",
            f"-var=image={image}",
            *(f"-target={target}" for target in targets),
        )

    def make_database() -> None:
        terraform("init", "-input=false")
        apply("module.platform.google_project_service.needed")
        for service in ("sqladmin", "pubsub", "secretmanager"):
            gcloud(
                "beta", "services", "identity", "create", f"--service={service}.googleapis.com", f"--project={project}"
            )
        gcloud("storage", "service-agent", f"--project={project}")
        apply("module.platform.module.identity", primary)

    def restore() -> None:
        backups = json.loads(
            gcloud(
                "sql",
                "backups",
                "list",
                f"--instance={given.instance}",
                f"--project={given.project}",
                "--filter=status=SUCCESSFUL",
                "--limit=1",
                "--sort-by=~endTime",
                "--format=json",
            )
        )
        if not backups:
            raise RehearsalError(f"{given.instance} has no good backup")
        gcloud(
            "sql",
            "backups",
            "restore",
            str(backups[0]["id"]),
            "--restore-instance=carefolio-primary",
            f"--project={project}",
            f"--backup-instance={given.instance}",
            f"--backup-project={given.project}",
        )

    def copy_secrets() -> None:
        for secret in ("token-signing-keys", "identity-key", "ordering-key", "pds-key", "smtp-password"):
            with tempfile.TemporaryDirectory() as kept:
                path = Path(kept) / "secret"
                # Letters and calls to the register are nothing that a rehearsal may send.
                if secret in ("pds-key", "smtp-password"):
                    path.write_text(" ")
                else:
                    gcloud(
                        "secrets",
                        "versions",
                        "access",
                        "latest",
                        f"--secret={secret}",
                        f"--project={given.project}",
                        f"--out-file={path}",
                    )
                gcloud("secrets", "versions", "add", secret, f"--data-file={path}", f"--project={project}")

    def put_back() -> None:
        # Kept in the other region than the one that served.
        copies = f"gs://{given.project}-carefolio-copies-second"
        _command(
            project,
            given.region,
            f"{project}:{given.region}:carefolio-primary",
            "message",
            "put-back",
            "--from",
            copies,
        )
        _command(
            project, given.region, f"{project}:{given.region}:carefolio-primary", "message", "missing", "--from", copies
        )

    image = gcloud(
        "run",
        "services",
        "describe",
        "carefolio-fhir",
        f"--project={given.project}",
        f"--region={given.region}",
        "--format=value(spec.template.spec.containers[0].image)",
    ).strip()
    all_of_it.step("project", make_project)
    all_of_it.step("network, keys, database", make_database)
    all_of_it.step("restore the backup", restore)
    all_of_it.step("secrets", copy_secrets)
    all_of_it.step("functions", lambda: apply())
    all_of_it.step(
        "schema",
        lambda: (
            gcloud(
                "run",
                "jobs",
                "execute",
                "carefolio-migrate",
                "--wait",
                f"--project={project}",
                f"--region={given.region}",
            )
            and None
        ),
    )
    all_of_it.step("messages put back", put_back)
    all_of_it.step("audit trail", lambda: _command(project, given.region, restored, "audit", "verify"))


def restore(all_of_it: Rehearsal) -> None:
    """The last off-site export into an instance of its own, in the off-site project. Raises RehearsalError."""
    given = all_of_it.given
    instance = f"restored-{all_of_it.name}"
    where = (f"--project={given.offsite_project}",)
    exports = sorted(gcloud("storage", "ls", f"{given.offsite}/exports/").split())
    if not exports:
        raise RehearsalError("there is no export")
    export = exports[-1].rstrip("/")
    all_of_it.figures["export"] = export

    def make() -> None:
        all_of_it.cleaning.append((f"instance {instance}", lambda: _delete_instance(instance, given.offsite_project)))
        gcloud(
            "sql",
            "instances",
            "create",
            instance,
            *where,
            f"--region={given.region}",
            "--database-version=POSTGRES_17",
            "--edition=ENTERPRISE",
            "--tier=db-custom-4-16384",
            "--no-assign-ip",
            "--enable-private-service-connect",
            "--storage-auto-increase",
        )
        account = gcloud(
            "sql", "instances", "describe", instance, *where, "--format=value(serviceAccountEmailAddress)"
        ).strip()
        gcloud(
            "storage",
            "buckets",
            "add-iam-policy-binding",
            given.offsite,
            f"--member=serviceAccount:{account}",
            "--role=roles/storage.objectAdmin",
        )
        gcloud("sql", "databases", "create", "carefolio", f"--instance={instance}", *where)

    all_of_it.step("instance", make)
    all_of_it.step(
        "import",
        lambda: (
            gcloud(
                "sql", "import", "sql", instance, export, "--database=carefolio", "--parallel", "--threads=4", *where
            )
            and None
        ),
    )
    counted = f"{given.offsite}/checks/{all_of_it.name}.csv"
    query = (
        "SELECT (SELECT count(*) FROM message), (SELECT count(*) FROM resource), (SELECT max(received_at) FROM message)"
    )
    all_of_it.step(
        "count",
        lambda: (
            gcloud("sql", "export", "csv", instance, counted, "--database=carefolio", f"--query={query}", *where)
            and None
        ),
    )
    told = gcloud("storage", "cat", counted).strip().replace('"', "").split(",")
    all_of_it.figures |= {
        "messages": int(told[0]),
        "resources": int(told[1]),
        "newest": told[2] if len(told) > 2 else "",
    }
    if not all_of_it.figures["resources"]:
        raise RehearsalError(f"{export} holds no record")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/rehearsal.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=["rehearse", "restore"])
    parser.add_argument("--project", required=True, help="the environment's")
    parser.add_argument("--region", required=True)
    parser.add_argument("--instance", default="carefolio-primary", help="the instance that is written to")
    parser.add_argument("--offsite", required=True, help="the off-site bucket, gs://...")
    parser.add_argument("--offsite-project", required=True)
    parser.add_argument("--folder", default="", help="rehearse: where the project is made")
    parser.add_argument("--billing", default="", help="rehearse: who pays")
    parser.add_argument("--policy", default="", help="rehearse: the organisation's access policy")
    given = parser.parse_args(arguments)
    for program in ("gcloud", *(("terraform",) if given.what == "rehearse" else ())):
        if shutil.which(program) is None:
            parser.error(f"{program} is needed")
    all_of_it = Rehearsal(given)
    wrong = ""
    try:
        rehearse(all_of_it) if given.what == "rehearse" else restore(all_of_it)
    except RehearsalError as error:
        wrong = str(error)
    except BaseException as error:
        wrong = type(error).__name__
        raise
    finally:
        if left := all_of_it.clean():
            wrong = f"{wrong}; left behind: {left}".lstrip("; ")
        # A rehearsal that could not measure has kept no promise.
        all_of_it.figures.setdefault("rto", RTO + 1.0)
        all_of_it.figures.setdefault("rpo", RPO + 1.0)
        all_of_it.file("rehearsed" if given.what == "rehearse" else "restored", wrong)
        say(wrong or "done: " + json.dumps(all_of_it.figures))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
