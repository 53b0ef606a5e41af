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
            gcloud(f"storage cp {path} {self.given.offsite}/proofs/{kind}/{self.at:%Y%m%dT%H%M%S%fZ}.json")


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


def gcloud(line: str, *more: str) -> str:
    """A command of gcloud's: its words, and those that have spaces in them."""
    return run("gcloud", *line.split(), *more, "--quiet")


def rehearse(all_of_it: Rehearsal) -> None:
    """A clone to a moment beside the instance, then a stack from nothing. Raises RehearsalError."""
    given = all_of_it.given
    _clone(all_of_it)
    started = time.monotonic()
    _stack(all_of_it)
    all_of_it.figures["rto"] = max(all_of_it.steps["clone to a moment"], round(time.monotonic() - started, 1))
    rto, rpo = all_of_it.figures["rto"], all_of_it.figures["rpo"]
    if rto > RTO or rpo > RPO:
        raise RehearsalError(f"RTO {rto:.0f} s, RPO {rpo:.0f} s in {given.project}")


def _clone(all_of_it: Rehearsal) -> None:
    given = all_of_it.given
    clone, where = f"carefolio-clone-{all_of_it.name}", f"--project={given.project}"
    format_ = "--format=value(latestRecoveryTime)"
    moment = datetime.fromisoformat(
        gcloud(f"sql instances get-latest-recovery-time {given.instance} {where} {format_}").strip()
    )
    # What a lost instance would take with it now.
    all_of_it.figures["rpo"] = round((datetime.now(UTC) - moment).total_seconds(), 1)
    all_of_it.figures["moment"] = f"{moment:{_STAMP}}"
    all_of_it.cleaning.append((f"instance {clone}", lambda: _delete_instance(clone, given.project)))
    exactly = f"--point-in-time={moment:%Y-%m-%dT%H:%M:%S.%fZ}"
    all_of_it.step(
        "clone to a moment", lambda: gcloud(f"sql instances clone {given.instance} {clone} {where} {exactly}") and None
    )
    # Every message that was acknowledged in the hour until a little before that moment is in the clone.
    since, until = (f"{moment - timedelta(minutes=minutes):{_STAMP}}" for minutes in (60, 1))
    asked = f"message,missing,--since,{since},--until,{until}"
    instance = f"{given.project}:{given.region}:{clone}"
    all_of_it.step("compare the clone", lambda: _command(given.project, given.region, asked, instance))
    _delete_instance(clone, given.project)
    all_of_it.cleaning.pop()


def _delete_instance(name: str, project: str) -> None:
    gcloud(f"sql instances patch {name} --project={project} --no-deletion-protection")
    gcloud(f"sql instances delete {name} --project={project}")


def _command(project: str, region: str, arguments: str, instance: str = "") -> None:
    """A command of carefolio's where the functions run, or on another instance. Raises RehearsalError."""
    other = f"--update-env-vars=CLOUD_SQL_INSTANCE={instance}" if instance else ""
    gcloud(
        f"run jobs execute carefolio-command --wait --project={project} --region={region} --args={arguments} {other}"
    )


def _stack(all_of_it: Rehearsal) -> None:
    """All of it in a project of its own: database, backup, secrets, schema, what was written since, functions."""
    given = all_of_it.given
    # A project's id has 30 letters at most.
    project = f"carefolio-reh-{all_of_it.name}"
    here, there = f"--project={project}", f"--project={given.project}"
    folder = REPOSITORY / "terraform" / "environments" / "rehearsal"
    described = json.loads(gcloud(f"sql instances describe {given.instance} {there} --format=json"))
    disk, key = described["settings"]["dataDiskSizeGb"], described["diskEncryptionConfiguration"]["kmsKeyName"]
    image = gcloud(
        f"run services describe carefolio-fhir {there} --region={given.region}"
        " --format=value(spec.template.spec.containers[0].image)"
    ).strip()
    backup: dict[str, str] = {}

    def make_project() -> None:
        all_of_it.cleaning.append((f"project {project}", lambda: gcloud(f"projects delete {project}") and None))
        gcloud(f"projects create {project} --folder={given.folder}")
        gcloud(f"billing projects link {project} --billing-account={given.billing}")
        number = gcloud(f"projects describe {project} --format=value(projectNumber)").strip()
        # Inside production's perimeter for its hours, and its database's agent reads what production's key has locked.
        perimeter = (
            f"access-context-manager perimeters update {given.project.replace('-', '_')} --policy={given.policy}"
        )
        inside = f"projects/{number}"
        all_of_it.cleaning.append(
            (f"{inside} in the perimeter", lambda: gcloud(f"{perimeter} --remove-resources={inside}") and None)
        )
        gcloud(f"{perimeter} --add-resources={inside}")
        backup["agent"] = f"serviceAccount:service-{number}@gcp-sa-cloud-sql.iam.gserviceaccount.com"

    def apply(*modules: str) -> None:
        run(
            "terraform", f"-chdir={folder}", "apply", "-auto-approve", "-input=false", f"-var=project={project}",
            f"-var=image={image}", f"-var=disk_gb={disk}", *(f"-target=module.platform.{each}" for each in modules),
        )  # fmt: skip

    def make_database() -> None:
        run("terraform", f"-chdir={folder}", "init", "-input=false")
        apply("google_project_service.needed")
        for service in ("sqladmin", "pubsub", "secretmanager", "run", "binaryauthorization"):
            gcloud(f"beta services identity create --service={service}.googleapis.com {here}")
        gcloud(f"storage service-agent {here}")
        binding = f"{key} --member={backup['agent']} --role=roles/cloudkms.cryptoKeyDecrypter"
        all_of_it.cleaning.append(
            ("the rehearsal's use of the key", lambda: gcloud(f"kms keys remove-iam-policy-binding {binding}") and None)
        )
        gcloud(f"kms keys add-iam-policy-binding {binding}")
        apply("module.identity", 'module.database.google_sql_database_instance.instance["primary"]')

    def restore() -> None:
        listed = gcloud(
            f"sql backups list --instance={given.instance} {there} --filter=status=SUCCESSFUL --limit=1"
            " --sort-by=~endTime --format=json"
        )
        found = json.loads(listed)
        if not found:
            raise RehearsalError(f"{given.instance} has no good backup")
        backup["at"] = found[0]["startTime"]
        gcloud(
            f"sql backups restore {found[0]['id']} --restore-instance=carefolio-primary {here}"
            f" --backup-instance={given.instance} --backup-project={given.project}"
        )

    def bring() -> None:
        """Secrets, the seals of the audit trail, and the copies of messages since the backup."""
        for secret in ("token-signing-keys", "identity-key", "ordering-key", "pds-key", "smtp-password"):
            with tempfile.TemporaryDirectory() as kept:
                path = Path(kept) / "secret"
                # Letters and calls to the register are nothing that a rehearsal may send.
                if secret in ("pds-key", "smtp-password"):
                    path.write_text(" ")
                else:
                    gcloud(f"secrets versions access latest --secret={secret} {there} --out-file={path}")
                gcloud(f"secrets versions add {secret} --data-file={path} {here}")
        files = "carefolio-files/audit"
        gcloud(f"storage cp --recursive gs://{given.project}-{files}/seals gs://{project}-{files}/")
        day = datetime.fromisoformat(backup["at"]) - timedelta(hours=1)
        while day.date() <= datetime.now(UTC).date():
            for role in ("primary", "second"):
                place = f"carefolio-copies-{role}/{day:%Y/%m/%d}"
                try:
                    gcloud(f"storage ls gs://{given.project}-{place}")
                except RehearsalError:
                    # A day on which nothing was copied there is no folder.
                    continue
                gcloud(f"storage rsync --recursive gs://{given.project}-{place} gs://{project}-{place}")
            day += timedelta(days=1)

    def schema() -> None:
        apply("module.database", 'module.services["primary"].google_cloud_run_v2_job.migrate',
              'module.services["primary"].google_cloud_run_v2_job.command')  # fmt: skip
        gcloud(f"run jobs execute carefolio-migrate --wait {here} --region={given.region}")
        # Before anything can call out: it is a copy, and nobody's to write letters or fetch extracts with.
        _command(project, given.region, "quiet")

    def put_back() -> None:
        since = f"{datetime.fromisoformat(backup['at']):{_STAMP}}"
        for what in ("put-back", "missing"):
            _command(project, given.region, f"message,{what},--since,{since}")

    all_of_it.step("project", make_project)
    all_of_it.step("network, keys, database", make_database)
    all_of_it.step("restore the backup", restore)
    all_of_it.step("secrets, seals, copies", bring)
    all_of_it.step("schema", schema)
    all_of_it.step("messages put back", put_back)
    all_of_it.step("functions", lambda: apply("module.services", "module.messaging", "module.edge"))
    all_of_it.step("audit trail", lambda: _command(project, given.region, "audit,verify"))


def restore(all_of_it: Rehearsal) -> None:
    """The last off-site export into an instance of its own, in the off-site project. Raises RehearsalError."""
    given = all_of_it.given
    instance, where = f"restored-{all_of_it.name}", f"--project={given.offsite_project}"
    exports = sorted(gcloud(f"storage ls {given.offsite}/exports/").split())
    if not exports:
        raise RehearsalError("there is no export")
    export = exports[-1].rstrip("/")
    all_of_it.figures["export"] = export

    def make() -> None:
        all_of_it.cleaning.append((f"instance {instance}", lambda: _delete_instance(instance, given.offsite_project)))
        gcloud(
            f"sql instances create {instance} {where} --region={given.region} --database-version=POSTGRES_17"
            " --edition=ENTERPRISE --tier=db-custom-4-16384 --no-assign-ip --enable-private-service-connect"
            " --storage-auto-increase"
        )
        account = gcloud(
            f"sql instances describe {instance} {where} --format=value(serviceAccountEmailAddress)"
        ).strip()
        member = f"--member=serviceAccount:{account} --role=roles/storage.objectAdmin"
        gcloud(f"storage buckets add-iam-policy-binding {given.offsite} {member}")
        gcloud(f"sql databases create carefolio --instance={instance} {where}")
        # Who owns the tables, and who may use them: the export names them, and has no users in it.
        for role in ("carefolio_owner", "carefolio_function"):
            gcloud(f"sql users create {role} --instance={instance} {where}")

    all_of_it.step("instance", make)
    all_of_it.step(
        "import",
        lambda: (
            gcloud(f"sql import sql {instance} {export} --database=carefolio --parallel --threads=4 {where}") and None
        ),
    )
    counted = f"{given.offsite}/checks/{all_of_it.name}.csv"
    query = "SELECT (SELECT count(*) FROM message), (SELECT count(*) FROM resource), max(received_at) FROM message"
    all_of_it.step(
        "count",
        lambda: (
            gcloud(f"sql export csv {instance} {counted} --database=carefolio {where}", f"--query={query}") and None
        ),
    )
    told = gcloud(f"storage cat {counted}").strip().replace('"', "").split(",")
    all_of_it.figures |= {"messages": int(told[0]), "resources": int(told[1]), "newest": told[2] if told[2:] else ""}
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
