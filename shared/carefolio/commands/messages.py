"""The messages that came in: their lives, a person's word about them, and once more with today's map."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import typer

from carefolio.cloud import outbox
from carefolio.cloud.database import Pool
from carefolio.cloud.settings import settings
from carefolio.commands.terminal import Json, UsageError, actor, enter, read_uuid, run, show
from carefolio.recovery import copies

message_app = typer.Typer(no_args_is_help=True, help="The messages that came in.")


@message_app.command("list")
def message_list(
    status: Annotated[str | None, typer.Option(help="received, applied, held, failed, unsupported or refused.")] = None,
    control_id: Annotated[str | None, typer.Option(help="MSH-10.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000)] = 50,
    as_json: Json = False,
) -> None:
    """The newest messages and what became of them."""
    from carefolio.record import messages

    if status and status not in messages.STATUSES:
        raise UsageError(f"--status is one of {', '.join(messages.STATUSES)}")
    rows = run(lambda pool: messages.list_messages(pool, status=status, control_id=control_id, limit=limit))
    if as_json:
        show(rows, as_json)
        return
    for row in rows:
        reason = f"  {row['reason']}" if row["reason"] else ""
        stamp = row["received_at"].isoformat(timespec="seconds")
        shown = f"{row['message_type']:<8} {row['ack_code']} {row['status']:<11}"
        typer.echo(f"{row['id']}  {stamp}  {row['sender']:<24.24} {shown} {row['control_id']}{reason}")


@message_app.command("show")
def message_show(number: str, as_json: Json = False) -> None:
    """One message: as it came, its acknowledgement, and what it wrote. The look is audited."""
    from carefolio.record import messages

    found = run(lambda pool: messages.show_message(pool, read_uuid(number), actor()))
    if found is None:
        raise UsageError("there is no such message")
    show(found, as_json)


@message_app.command("approve")
def message_approve(number: str, as_json: Json = False) -> None:
    """Let a held message through: you answer for it. The same question will not be asked again."""
    _review(number, as_json, approve=True)


@message_app.command("reject")
def message_reject(number: str, as_json: Json = False) -> None:
    """End a held message: it changes nothing, nor do others that raise the same question."""
    _review(number, as_json, approve=False)


def _review(number: str, as_json: bool, *, approve: bool) -> None:
    from carefolio.record import decisions

    async def work(pool: Pool) -> str:
        try:
            reason = await decisions.review(pool, read_uuid(number), actor(), approve=approve)
        except decisions.DecisionError as error:
            raise UsageError(str(error)) from None
        await _publish()
        return reason

    reason = run(work)
    show({"message": number, "held_for": reason, "decision": "approved" if approve else "rejected"}, as_json)


@message_app.command("move")
def message_move(
    numbers: Annotated[list[str], typer.Argument(help="Ids of applied messages, all to one record.")],
    to: Annotated[str, typer.Option("--to", metavar="PATIENT-ID", help="The record that they belong to.")],
    as_json: Json = False,
) -> None:
    """Give messages to the record that they belong to; both records are rebuilt from their messages."""
    from carefolio.record import moves
    from carefolio.record.decisions import DecisionError

    async def work(pool: Pool) -> list[uuid.UUID]:
        try:
            return await moves.give(pool, [read_uuid(n) for n in numbers], read_uuid(to, "a patient"), actor())
        except DecisionError as error:
            raise UsageError(str(error)) from None

    show({"changed": run(work)}, as_json)


@message_app.command("replay")
def message_replay(
    numbers: Annotated[list[str] | None, typer.Argument(help="Ids of messages.")] = None,
    status: Annotated[str | None, typer.Option(help="All that are held, failed or unsupported.")] = None,
    patient: Annotated[str | None, typer.Option(metavar="PATIENT-ID", help="All that made this record.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that made any record.")] = False,
    apply: Annotated[bool, typer.Option("--apply/--dry-run", help="Make the change, or only show it.")] = False,
    as_json: Json = False,
) -> None:
    """Map messages again with today's map, in their order, and show what would differ; --apply then does it.

    Applied messages: their records are rebuilt, and compared with what is there. Others: tried as if they came now.
    """
    from carefolio.record import messages, replay
    from carefolio.record.rebuild import RebuildError

    if sum(map(bool, (numbers, status, patient, everything))) != 1:
        raise UsageError("name messages, or a --status, or a --patient, or --all")
    if status and status not in replay.REPLAYABLE:
        raise UsageError(f"--status is one of {', '.join(replay.REPLAYABLE)}")

    async def work(pool: Pool) -> dict[str, Any]:
        wanted = [read_uuid(number) for number in numbers or []]
        if status:
            wanted = [row["id"] for row in await messages.list_messages(pool, status=status, limit=100_000)]
        records = [read_uuid(patient, "a patient")] if patient else await replay.patients_of(pool, wanted)
        if everything:
            records = await replay.every_patient(pool)
        made: dict[str, Any] = {"applied": apply, "messages": [], "records": []}
        if apply:
            made["messages"] = [
                {"message_id": n, "status": "queued"} for n in await replay.queue(pool, wanted, actor())
            ]
            await _publish()
        else:
            made["messages"] = [asdict(trial) async for trial in replay.trials(pool, wanted)]
        async for difference in replay.rebuild_records(pool, records, actor(), apply=apply):
            if difference.changed or difference.refused or not everything:
                made["records"].append(asdict(difference))
        return made

    try:
        made = run(work)
    except RebuildError as error:
        raise UsageError(str(error)) from None
    if as_json:
        show(
            made
            | {"records": [r | {"refused": {str(k): v for k, v in r["refused"].items()}} for r in made["records"]]},
            True,
        )
        return
    _print_replay(made)


Since = Annotated[
    datetime,
    typer.Option(
        formats=["%Y-%m-%dT%H:%M:%S%z"], help="The moment to which the database was brought back, or earlier."
    ),
]
CopiesAt = Annotated[
    list[str] | None, typer.Option("--from", help="Where copies are; may repeat. Else all places of COPIES_URL.")
]


@message_app.command("missing")
def message_missing(
    since: Since,
    until: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%dT%H:%M:%S%z"], help="Copies until then; else all.")
    ] = None,
    copies_at: CopiesAt = None,
    as_json: Json = False,
) -> None:
    """How many messages were acknowledged, as their copies show, and are not here; exit status 1 where any is."""
    made = _from_copies(since, until, copies_at, apply=False)
    show({"copies": made.copies, "there": made.there, "missing": made.put_back, "refused": list(made.refused)}, as_json)
    raise typer.Exit(1 if made.put_back or made.refused else 0)


@message_app.command("put-back")
def message_put_back(since: Since, copies_at: CopiesAt = None, as_json: Json = False) -> None:
    """After a recovery: take in what was acknowledged and is not here any more, from the copies in the other region.

    Before anybody posts: what is put back counts as come after what is there.
    """
    made = _from_copies(since, None, copies_at, apply=True)
    show(asdict(made), as_json)
    if made.refused:
        raise typer.Exit(1)


def _from_copies(
    since: datetime, until: datetime | None, copies_at: list[str] | None, *, apply: bool
) -> copies.PutBack:
    async def work(pool: Pool) -> copies.PutBack:
        made = [
            await copies.put_back(pool, place, since, until, apply=apply)
            for place in copies_at or settings().copies_urls
        ]
        if apply:
            await _publish()
        # A message has its copy in one of the places, or in both.
        return copies.PutBack(
            sum(each.copies for each in made), sum(each.there for each in made), sum(each.put_back for each in made),
            tuple(name for each in made for name in each.refused),
        )  # fmt: skip

    enter()
    if not (copies_at or settings().copies_urls):
        raise UsageError("no copies are kept here: name where they are with --from")
    return run(work)


def _print_replay(made: dict[str, Any]) -> None:
    from carefolio.record.rebuild import as_json

    for trial in made["messages"]:
        typer.echo(
            f"{trial['message_id']}  {trial.get('before', '')} -> {trial['status']}  {trial.get('reason') or ''}"
        )
        for resource in trial.get("resources", ()):
            typer.echo(f"    {resource}")
    for record in made["records"]:
        typer.echo(f"Patient/{record['patient_id']}: {record['messages']} messages, {record['resources']} resources, "
                   f"{len(record['changed'])} differ, {record['written']} written")  # fmt: skip
        for changed in record["changed"]:
            typer.echo(f"  {changed['resource']} {changed['change']}")
            for path, before, after in changed["elements"]:
                typer.echo(f"    {path}: {as_json(before)} -> {as_json(after)}")
        for number, reason in record["refused"].items():
            typer.echo(f"  message {number} would change nothing: {reason}")
    if not made["messages"] and not made["records"]:
        typer.echo("nothing differs")
    if not made["applied"]:
        typer.echo("nothing was changed (--apply changes it)")


async def _publish() -> None:
    while await outbox.sweep():
        pass
