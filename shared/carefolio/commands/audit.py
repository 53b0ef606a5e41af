"""The audit trail: whether it is whole."""

from __future__ import annotations

import typer

from carefolio.commands.terminal import Json, run, show
from carefolio.record import seals

audit_app = typer.Typer(no_args_is_help=True, help="The audit trail.")


@audit_app.command("verify")
def audit_verify(as_json: Json = False) -> None:
    """Compute every seal anew, and compare it with the table and the bucket; exit status 1 where something is wrong."""
    found = run(seals.verify)
    if as_json:
        show({"seals": found.seals, "lines": found.lines, "waiting": found.waiting, "wrong": list(found.wrong)}, True)
    else:
        whole = "something is wrong" if found.wrong else "whole"
        typer.echo(f"seals {found.seals}, lines {found.lines}: {whole}; {found.waiting} lines are not sealed yet")
        for each in found.wrong:
            typer.echo(f"  ! {each}")
    raise typer.Exit(1 if found.wrong else 0)
