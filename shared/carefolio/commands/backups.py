"""One machine's way back: which backups there are, and the database made again from them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from carefolio.commands.terminal import UsageError
from carefolio.local.archive import Archive, ArchiveError
from carefolio.local.installation import Installation, installation

backup_app = typer.Typer(no_args_is_help=True, help="One machine's backups (ARCHIVE_DIR); stop scripts/up first.")
_STAMP = "%Y%m%dT%H%M%SZ"


@backup_app.command("list")
def backup_list() -> None:
    """What there is, and whether it would do: each file is read."""
    archive = _archive(installation())
    for backup in archive.backups():
        typer.echo(f"backup {backup.name}  {_judged(archive, backup) or 'good'}")
    for dump in archive.dumps():
        typer.echo(f"dump   {dump.stem}  {dump.stat().st_size >> 20} MB")


@backup_app.command("restore")
def backup_restore(
    until: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%dT%H:%M:%S%z"], help="The moment; else as far as the log goes.")
    ] = None,
    dump: Annotated[bool, typer.Option("--dump", help="The newest dump alone, where the log is of no use.")] = False,
) -> None:
    """Make the database of CAREFOLIO_HOME again, which has none now; then scripts/up, and message put-back."""
    here = installation()
    if here.postgres.exists():
        raise UsageError(f"there is a database in {here.postgres.data}: move it away first, and keep it")
    archive = _archive(here)
    here.home.mkdir(parents=True, exist_ok=True)
    here.log("any").parent.mkdir(exist_ok=True)
    if dump:
        found = archive.dumps()
        if not found:
            raise UsageError("there is no dump")
        archive.load(found[-1], here.postgres, here.log("restoring"))
        typer.echo(f"restored from the dump of {found[-1].stem}")
        return
    for backup in reversed(archive.backups()):
        if until is not None and datetime.strptime(backup.name, _STAMP).replace(tzinfo=UTC) >= until:
            continue
        if wrong := _judged(archive, backup):
            typer.echo(f"backup {backup.name} is passed over: {wrong}")
            continue
        archive.restore(here.postgres, here.log("restoring"), backup=backup, until=until)
        typer.echo(f"restored from the backup of {backup.name}, and the log since")
        return
    raise UsageError("there is no good backup before that moment")


def _archive(here: Installation) -> Archive:
    if here.archives is None or not (found := Archive.all_in(here.archives)):
        raise UsageError("there is no archive: ARCHIVE_DIR names where it is")
    return found[-1]


def _judged(archive: Archive, backup: Path) -> str:
    try:
        archive.verify(backup)
    except ArchiveError as error:
        return str(error)
    return ""
