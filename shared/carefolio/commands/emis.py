"""EMIS extracts: agreements, fetching and loading, what is parked; and folders on disk, without an installation."""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from carefolio.cloud.database import Pool
from carefolio.commands.terminal import Json, UsageError, actor, read_file, read_uuid, run, show
from carefolio.emis import checking
from carefolio.emis.openpgp import Keyring
from carefolio.extracts import agreements, fetching, loading, status, steps
from carefolio.extracts.agreements import Agreement, Wanted
from carefolio.extracts.sftp import FetchError

emis_app = typer.Typer(no_args_is_help=True, help="EMIS extracts.")
agreement_app = typer.Typer(no_args_is_help=True, help="Sharing agreements: where an extract lies, and what opens it.")
parked_app = typer.Typer(no_args_is_help=True, help="Rows and patients that could not be applied.")
emis_app.add_typer(agreement_app, name="agreement")
emis_app.add_typer(parked_app, name="parked")
Name = Annotated[str, typer.Argument(metavar="AGREEMENT")]


@emis_app.callback()
def _emis() -> None:
    """EMIS extracts."""


@emis_app.command("check")
def emis_check(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False)],
    agreement: Annotated[
        str | None, typer.Option(metavar="GUID", help="Where the folder has files of several.")
    ] = None,
    decrypt_key: Annotated[list[Path] | None, typer.Option(help="A private key (armoured); may repeat.")] = None,
    verify_key: Annotated[list[Path] | None, typer.Option(help="The sender's public key; may repeat.")] = None,
    passphrase_file: Annotated[Path | None, typer.Option(help="The passphrase of the private keys.")] = None,
    as_json: Json = False,
) -> None:
    """Look through a folder of encrypted or plain files: batches, what they lack, rows, columns, signatures."""
    wanted = read_uuid(agreement, "an agreement") if agreement else None
    passphrase = read_file(passphrase_file).decode().strip() if passphrase_file else ""
    told: list[dict[str, Any]] = []
    wrong = False
    with tempfile.TemporaryDirectory(prefix="carefolio-keys-") as home:
        keyring = Keyring(Path(home)) if decrypt_key else None
        for key in [*(decrypt_key or []), *(verify_key or [])]:
            if keyring is not None:
                keyring.add(read_file(key).decode("utf-8", "replace"))
        for batch in checking.batches_in(folder, wanted):
            files = [
                {"table": each.table, "rows": each.rows, "extra": list(each.extra), "signed_by": each.signed_by,
                 "wrong": each.wrong}
                for each in checking.check(batch, keyring, passphrase)
            ]  # fmt: skip
            wrong = wrong or not batch.is_whole or any(file["wrong"] for file in files)
            told.append({"batch": batch.id, "kind": batch.kind.value, "missing": sorted(batch.missing), "files": files})
    if as_json:
        show(told, True)
    for each in [] if as_json else told:
        lacks = f", lacks {', '.join(each['missing'])}" if each["missing"] else ""
        typer.echo(f"batch {each['batch']} {each['kind']}{lacks}")
        for file in each["files"]:
            extra = f", unknown columns {', '.join(file['extra'])}" if file["extra"] else ""
            typer.echo(f"  {file['table']:<32} " + (file["wrong"] or f"{file['rows']} rows{extra}"))
    if wrong:
        raise typer.Exit(1)


def _optional(file: Path | None) -> bytes | None:
    return read_file(file).strip(b"\n") if file is not None else None


@agreement_app.command("add")
def agreement_add(
    name: Annotated[str, typer.Argument(help="Small letters, digits and hyphens.")],
    guid: Annotated[str, typer.Option(help="The agreement's GUID, as the file names have it.")],
    host: Annotated[str, typer.Option(help="The SFTP server; none for extracts that come in folders.")] = "",
    port: int = 22,
    host_key: Annotated[
        list[str] | None, typer.Option(metavar="LINE", help="As in known_hosts: ssh-ed25519 AAAA…; may repeat.")
    ] = None,
    user: str = "",
    key: Annotated[Path | None, typer.Option(help="The SSH private key.")] = None,
    key_passphrase_file: Annotated[Path | None, typer.Option(help="The passphrase of the SSH key.")] = None,
    password_file: Annotated[Path | None, typer.Option(help="The password, where there is no key.")] = None,
    path: Annotated[str, typer.Option(help="The folder on the server.")] = ".",
    decrypt_key: Annotated[
        list[Path] | None, typer.Option(help="Our OpenPGP private key; repeat it while keys are changed.")
    ] = None,
    passphrase_file: Annotated[Path | None, typer.Option(help="The passphrase of the OpenPGP keys.")] = None,
    verify_key: Annotated[
        list[Path] | None, typer.Option(help="The sender's public key; with one, files must be signed by it.")
    ] = None,
    schedule: Annotated[str, typer.Option(metavar="CRON", help="By London's clock.")] = agreements.EVERY_TWO_HOURS,
    practice: Annotated[
        list[str] | None, typer.Option(metavar="ODS-CODE", help="Only these practices; may repeat. None for all.")
    ] = None,
    roll_off: Annotated[
        str, typer.Option(metavar="keep|remove", help="What becomes of a patient's history when he leaves.")
    ] = agreements.KEEP,
    stale_hours: Annotated[int, typer.Option(help="Alert when no batch has come for so long.")] = 36,
    as_json: Json = False,
) -> None:
    """Register an agreement, or change it.

    Its keys and passwords become secrets, and are not shown again; those that are left out stay as they were.
    """
    wanted = Wanted(
        name, read_uuid(guid, "an agreement"), host, port, tuple(host_key or ()), user, path,
        ssh_key=_optional(key), ssh_passphrase=_optional(key_passphrase_file), password=_optional(password_file),
        decrypt_keys=[read_file(file) for file in decrypt_key] if decrypt_key else None,
        passphrase=_optional(passphrase_file),
        verify_keys=[read_file(file) for file in verify_key] if verify_key else None,
        schedule=schedule, practices=tuple(practice or ()), roll_off=roll_off, stale_hours=stale_hours,
    )  # fmt: skip
    show(_shown(run(lambda pool: agreements.add(pool, wanted))), as_json)


def _shown(agreement: Agreement) -> dict[str, Any]:
    made = asdict(agreement)
    made.pop("id")
    return made


@agreement_app.command("list")
def agreement_list(as_json: Json = False) -> None:
    """Every agreement."""
    found = [_shown(each) for each in run(agreements.all_of_them)]
    if as_json:
        show(found, True)
        return
    for each in found:
        state = "ended" if each["ended_at"] else each["trouble"] or "well"
        where_from = f"{each['host']}:{each['port']}" if each["host"] else "folders"
        typer.echo(f"{each['name']:<24} {each['guid']}  {where_from:<32} {state}")


@agreement_app.command("end")
def agreement_end(name: Name) -> None:
    """Fetch no more; what was loaded stays."""
    run(lambda pool: agreements.end(pool, name))


@emis_app.command("fetch")
def emis_fetch(
    name: Name,
    look_again: Annotated[
        float, typer.Option(help="Seconds until a file that was never seen is looked at once more.")
    ] = fetching.LOOK_AGAIN,
    as_json: Json = False,
) -> None:
    """Do at once what the schedule does: land what is new, and have whole batches loaded."""

    async def work(pool: Pool) -> fetching.Fetched:
        agreement = await agreements.find(pool, name)
        if not agreement.host:
            raise UsageError(f"{name} has no server: load its folders with emis load")
        return await fetching.fetch(pool, agreement, look_again=look_again)

    try:
        made = run(work)
    except FetchError as error:
        raise UsageError(str(error)) from None
    if made.busy:
        raise UsageError("it is being fetched already")
    show(asdict(made), as_json)


@emis_app.command("load")
def emis_load(
    agreement: Annotated[str, typer.Option(metavar="NAME")],
    folder: Annotated[Path | None, typer.Argument(exists=True, file_okay=False)] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes at work.")] = os.cpu_count() or 1,
    as_json: Json = False,
) -> None:
    """Load the batches in a folder (encrypted or plain files), here and now; without a folder, what has been fetched.

    Interrupted, it goes on where it was.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, disable=as_json, transient=True) as bars:
        tasks: dict[tuple[str, str], Any] = {}

        def told(stamp: str, stage: str, done: int, count: int) -> None:
            task = tasks.get((stamp, stage))
            if task is None:
                task = tasks[stamp, stage] = bars.add_task(f"{stamp} {stage}", total=count)
            bars.update(task, completed=done, total=count)

        async def work(pool: Pool) -> dict[str, Any]:
            known = await agreements.find(pool, agreement)
            if folder is None:
                loaded = await loading.load_fetched(pool, known, workers=workers, progress=told)
            else:
                loaded = await loading.load_folder(pool, known, folder, workers=workers, progress=told)
            overview = await status.overview(pool, known, batches_shown=max(1, len(loaded)))
            return {"loaded": loaded, "batches": overview["batches"] if loaded else [], "parked": overview["parked"]}

        made = run(work)
    if as_json:
        show(made, True)
        return
    for batch in reversed(made["batches"]):
        _show_batch(batch)
    typer.echo(f"parked in all: {made['parked']}")


def _show_batch(batch: dict[str, Any]) -> None:
    under_way = f" {batch['stage']} {batch['steps'] or ''}" if batch["stage"] else ""
    typer.echo(f"batch {batch['stamp']} {batch['kind']}: {batch['status']}{under_way}")
    for line in [batch["reason"], *batch["alerts"]]:
        if line:
            typer.echo(f"  ! {line}")
    for practice, counts in (batch["report"] or {}).items():
        said = ", ".join(
            f"{name.replace('_', ' ')} {count}" for name, count in counts.items() if isinstance(count, int)
        )
        typer.echo(f"  {practice}: {said}")
        for reason, count in counts.get("reasons", {}).items():
            typer.echo(f"    parked {count}: {reason}")


@emis_app.command("status")
def emis_status(
    name: Name,
    files: Annotated[bool, typer.Option("--files", help="Every file, too.")] = False,
    as_json: Json = False,
) -> None:
    """Where every batch and file stands: seen, fetched, verified, loaded."""

    async def work(pool: Pool) -> dict[str, Any]:
        return await status.overview(pool, await agreements.find(pool, name))

    found = run(work)
    if as_json:
        show(found, True)
        return
    typer.echo(f"{found['agreement']}: last fetched {found['fetched_at'] or 'never'}, parked {found['parked']}")
    if found["trouble"]:
        typer.echo(f"  ! {found['trouble']}")
    for each in found["practices"]:
        flags = [flag for flag in ("activated", "disabled", "deleted", "loaded") if each[flag]]
        typer.echo(f"  {each['ods_code'] or each['guid']} {each['name']}: {', '.join(flags) or 'not shared'}")
    for batch in found["batches"]:
        _show_batch(batch)
        for file in batch["files"] if files else []:
            typer.echo(
                f"    {file['table']:<32} {file['status']:<9} {file['rows'] or 0:>9} rows"
                f" {file['bytes'] or 0:>12} bytes {file['reason'] or ''}"
            )


@emis_app.command("retry")
def emis_retry(
    name: Name,
    batch: Annotated[str, typer.Argument(metavar="TIMESTAMP")],
    fetch_again: Annotated[bool, typer.Option("--fetch-again", help="Fetch its files anew.")] = False,
) -> None:
    """Have a batch that failed go on where it stopped."""

    async def work(pool: Pool) -> None:
        await steps.retry(pool, await agreements.find(pool, name), batch, again=fetch_again)

    run(work)


@parked_app.command("list")
def parked_list(
    name: Name,
    dismissed: Annotated[bool, typer.Option("--dismissed", help="Those that were dismissed.")] = False,
    as_json: Json = False,
) -> None:
    """What is parked, and why; a question can be answered with approve or reject."""

    async def work(pool: Pool) -> list[dict[str, Any]]:
        return await status.parked(pool, await agreements.find(pool, name), dismissed=dismissed)

    found = run(work)
    if as_json:
        show(found, True)
        return
    for each in found:
        asks = " (asks)" if each["question"] else ""
        typer.echo(f"{each['id']} {each['practice']} {each['place']}: {each['reason']}{asks}")


@parked_app.command("retry")
def parked_retry(name: Name) -> None:
    """Try everything that is parked again."""

    async def work(pool: Pool) -> tuple[int, int]:
        agreement = await agreements.find(pool, name)
        tried = await status.retry(pool, agreement)
        return tried, len(await status.parked(pool, agreement))

    tried, left = run(work)
    typer.echo(f"patients tried: {tried}\nstill parked: {left}")


@parked_app.command("dismiss")
def parked_dismiss(
    number: Annotated[str, typer.Argument(metavar="ID")], reason: Annotated[str, typer.Option()]
) -> None:
    """Leave something parked out of the list, with a reason."""
    run(lambda pool: status.dismiss(pool, read_uuid(number, "something parked"), actor(), reason))


@parked_app.command("approve")
def parked_approve(number: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """Say yes to the question that a parked patient asks (docs/matching.md)."""
    run(lambda pool: status.decide(pool, read_uuid(number, "something parked"), actor(), approve=True))


@parked_app.command("reject")
def parked_reject(number: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """Say no to it: the patient stays out of that record."""
    run(lambda pool: status.decide(pool, read_uuid(number, "something parked"), actor(), approve=False))


@emis_app.command("refsets")
def emis_refsets(file: Annotated[Path, typer.Argument(exists=True, dir_okay=False)]) -> None:
    """Take the members of the sensitive refsets from a release of SNOMED CT's (an RF2 simple refset file)."""
    text = read_file(file).decode()
    typer.echo(f"sensitive concepts: {run(lambda pool: status.load_refsets(pool, text))}")


@emis_app.command("demo")
def emis_demo(
    folder: Path,
    patients: Annotated[int, typer.Option(min=1)] = 12,
    observations: Annotated[int, typer.Option(min=1, help="Of each patient.")] = 24,
    share: Annotated[float, typer.Option(min=0, max=1, help="Of the observations that a night changes.")] = 0.0,
) -> None:
    """Write a fictional practice's extract: a bulk and two deltas, encrypted and signed, and the keys."""
    from carefolio.local import extract_demo, practice

    keys = extract_demo.write_extract(folder, practice.Size(patients, observations), share=share)
    typer.echo(f"agreement {practice.AGREEMENT}, practice {practice.ODS_CODE}")
    typer.echo(f"files below {folder / 'sftp'}")
    typer.echo(f"keys {keys['decrypt']} and {keys['verify']}")
