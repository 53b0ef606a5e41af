"""EMIS extracts on disk; nothing here needs an installation."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from carefolio.commands.terminal import Json, read_file, read_uuid, show
from carefolio.emis import checking
from carefolio.emis.openpgp import Keyring

emis_app = typer.Typer(no_args_is_help=True, help="EMIS extracts.")


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
