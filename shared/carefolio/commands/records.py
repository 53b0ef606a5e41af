"""Records of one person, joined and taken apart; and what organisations' own codes mean."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any

import typer

from carefolio.cloud import outbox
from carefolio.cloud.database import Pool
from carefolio.commands.terminal import Json, Organisation, UsageError, actor, read_uuid, run, show

record_app = typer.Typer(no_args_is_help=True, help="Records, and whose they are.")
code_app = typer.Typer(no_args_is_help=True, help="Organisations' own codes, and what they mean.")


@record_app.command("joins")
def record_joins(
    patient: Annotated[str | None, typer.Argument(help="Of this Patient's record only.")] = None, as_json: Json = False
) -> None:
    """The records that were joined, by messages and by hand, and which joins were undone."""
    from carefolio.record import decisions

    number = read_uuid(patient, "a patient") if patient else None
    rows = run(lambda pool: decisions.joins(pool, number))
    if as_json:
        show(rows, True)
        return
    for row in rows:
        undone = f"  undone {row['undone_at']:%Y-%m-%d %H:%M} by {row['undone_by']}" if row["undone_at"] else ""
        shown = f"{row['survivor']} {row['kind']} {row['other']}"
        typer.echo(f"{row['id']}  {row['created_at']:%Y-%m-%d %H:%M}  {shown}  by {row['actor']}{undone}")


@record_app.command("freeze")
def record_freeze(
    patient: str, reason: Annotated[str, typer.Option(help="Why; kept with the record.")], as_json: Json = False
) -> None:
    """Close a record to everybody, its patient too; what hospitals send is still applied."""
    from carefolio.record import sharing

    _sharing(lambda pool: sharing.freeze(pool, actor(), read_uuid(patient, "a patient"), reason))
    show({"patient": patient, "frozen": True}, as_json)


@record_app.command("unfreeze")
def record_unfreeze(patient: str, as_json: Json = False) -> None:
    """Open it again, as it was shared before."""
    from carefolio.record import sharing

    _sharing(lambda pool: sharing.unfreeze(pool, actor(), read_uuid(patient, "a patient")))
    show({"patient": patient, "frozen": False}, as_json)


def _sharing(change: Callable[[Pool], Awaitable[None]]) -> None:
    from carefolio.record.sharing import SharingError

    async def work(pool: Pool) -> None:
        try:
            await change(pool)
        except SharingError as error:
            raise UsageError(str(error)) from None

    run(work)


@record_app.command("purge")
def record_purge(
    patient: str,
    reason: Annotated[str, typer.Option(help="Why; kept, and read by the patient.")],
    message: Annotated[list[str] | None, typer.Option(help="A message that is not his; may repeat.")] = None,
    item: Annotated[
        list[str] | None, typer.Option(metavar="TYPE/ID", help="What an app wrote, or was moved; may repeat.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Take misfiled data out of a record for good: out of every version, and as of every moment."""
    from carefolio.record import decisions, purging
    from carefolio.record.ids import internal_id

    messages = [read_uuid(each, "a message") for each in message or ()]
    items = [internal_id(*each.partition("/")[::2]) for each in item or ()]

    async def work(pool: Pool) -> purging.Purge:
        number = read_uuid(patient, "a patient")
        try:
            return await purging.purge(pool, actor(), number, reason, messages=messages, items=items)
        except decisions.DecisionError as error:
            raise UsageError(str(error)) from None

    made = run(work)
    show({"purge": made.id, "messages": len(messages), "items": len(items), "versions": made.versions}, as_json)


@record_app.command("restore")
def record_restore(
    patient: str,
    at: Annotated[
        datetime, typer.Option(formats=["%Y-%m-%dT%H:%M:%S%z"], help="As it was then: 2026-11-27T09:30:00Z.")
    ],
    apply: Annotated[bool, typer.Option("--apply/--dry-run", help="Make the change, or only count it.")] = False,
    as_json: Json = False,
) -> None:
    """Make one record what it was at a moment, as new versions; no other record is touched."""
    from carefolio.record import restoring

    async def work(pool: Pool) -> restoring.Restored:
        try:
            return await restoring.restore(pool, actor(), read_uuid(patient, "a patient"), at, apply=apply)
        except restoring.RestoreError as error:
            raise UsageError(str(error)) from None

    made = run(work)
    told = {"changed": dict(made.changed), "brought_back": dict(made.brought_back), "taken_away": dict(made.taken_away)}
    if as_json:
        show({"patient": patient, "at": at.isoformat(), "applied": apply} | told, True)
        return
    for name, counted in told.items():
        shown = ", ".join(f"{count} {kind}" for kind, count in sorted(counted.items())) or "nothing"
        typer.echo(f"{name.replace('_', ' ')}: {shown}")
    typer.echo("done" if apply else "nothing is changed yet: --apply makes it so")


@record_app.command("join")
def record_join(survivor: str, other: str, as_json: Json = False) -> None:
    """Join two records of one person: OTHER's is from now on SURVIVOR's too. Nothing moves."""
    from carefolio.record import decisions

    async def work(pool: Pool) -> uuid.UUID:
        numbers = read_uuid(survivor, "a patient"), read_uuid(other, "a patient")
        try:
            made = await decisions.join(pool, *numbers, actor())
        except decisions.DecisionError as error:
            raise UsageError(str(error)) from None
        while await outbox.sweep():
            pass
        return made

    show({"join": run(work)}, as_json)


@record_app.command("undo")
def record_undo(join: str, as_json: Json = False) -> None:
    """Take a join back (its id: carefolio record joins)."""
    from carefolio.record import decisions

    async def work(pool: Pool) -> list[uuid.UUID]:
        try:
            return await decisions.undo(pool, read_uuid(join, "a join"), actor())
        except decisions.DecisionError as error:
            raise UsageError(str(error)) from None

    show({"parted": run(work)}, as_json)


@record_app.command("reindex")
def record_reindex(as_json: Json = False) -> None:
    """Index every resource for search again, after an upgrade that finds more; all else goes on meanwhile."""
    from carefolio.record.reindex import reindex

    show({"resources": run(reindex)}, as_json)


@code_app.command("list")
def code_list(
    organisation: Annotated[str | None, typer.Option(metavar="ODS-CODE", help="Of one organisation.")] = None,
    solved: Annotated[bool, typer.Option("--solved", help="Those that have a meaning.")] = False,
    as_json: Json = False,
) -> None:
    """The codes that came in and nobody else understands: work for a person."""
    from carefolio.record import local_codes

    rows = run(lambda pool: local_codes.work(pool, organisation, solved=solved))
    if as_json:
        show(rows, True)
        return
    for row in rows:
        meaning = f" = {row['target_system']}|{row['target_code']} {row['target_display'] or ''}" if solved else ""
        typer.echo(f"{row['organisation']}  {row['system']}|{row['code']}  {row['display']}{meaning}")


@code_app.command("solve")
def code_solve(
    code: Annotated[str, typer.Argument(metavar="SYSTEM|CODE", help="As code list prints it.")],
    meaning: Annotated[str, typer.Argument(metavar="SYSTEM|CODE", help="Such as 'http://snomed.info/sct|271649006'.")],
    organisation: Organisation,
    display: Annotated[str, typer.Option(help="The meaning in words.")] = "",
    as_json: Json = False,
) -> None:
    """Say what an organisation's own code means; what came with it is mapped again."""
    from carefolio.record import local_codes, replay

    own_system, _, own = code.rpartition("|")
    system, _, target = meaning.rpartition("|")

    async def work(pool: Pool) -> dict[str, Any]:
        try:
            patients = await local_codes.solve(
                pool, organisation, (own_system, own), (system, target, display), actor()
            )
        except local_codes.CodeError as error:
            raise UsageError(str(error)) from None
        written = [d.written async for d in replay.rebuild_records(pool, patients, actor(), apply=True)]
        return {"records": len(written), "resources": sum(written)}

    show(run(work), as_json)
