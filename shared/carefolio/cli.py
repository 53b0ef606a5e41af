"""The command ``carefolio``: administers an installation from the machine that it runs on."""

from __future__ import annotations

import asyncio
import getpass
import json
import sys
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from carefolio.cloud import closing, database, outbox
from carefolio.cloud.settings import settings
from carefolio.identity import registry
from carefolio.identity.registry import RegistryError
from carefolio.local.installation import InstallationError, installation
from carefolio.local.postgres import PostgresError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    # Its tracebacks would show what variables hold.
    pretty_exceptions_enable=False,
    help="Administer a Carefolio installation.",
)
organisation_app = typer.Typer(no_args_is_help=True, help="Organisations, by ODS code.")
team_app = typer.Typer(no_args_is_help=True, help="Teams of an organisation.")
sender_app = typer.Typer(no_args_is_help=True, help="Systems that post HL7 messages.")
client_app = typer.Typer(no_args_is_help=True, help="Systems that use the APIs.")
message_app = typer.Typer(no_args_is_help=True, help="The messages that came in.")
hl7_app = typer.Typer(no_args_is_help=True, help="HL7 v2 without an installation.")
for name, sub in (("organisation", organisation_app), ("team", team_app), ("sender", sender_app),
                  ("client", client_app), ("message", message_app), ("hl7", hl7_app)):  # fmt: skip
    app.add_typer(sub, name=name)

T = TypeVar("T")
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Organisation = Annotated[str, typer.Option("--organisation", metavar="ODS-CODE", help="Whose it is.")]


class _UsageError(Exception):
    """What the command was given is wrong; one sentence for the person who typed it."""


@organisation_app.command("add")
def organisation_add(ods_code: str, name: str, as_json: Json = False) -> None:
    """Register an organisation."""
    number = _run(lambda pool: registry.add_organisation(pool, ods_code, name))
    _print({"id": number, "ods_code": ods_code.upper(), "name": name}, as_json)


@team_app.command("add")
def team_add(name: str, organisation: Organisation, as_json: Json = False) -> None:
    """Register a team."""
    number = _run(lambda pool: registry.add_team(pool, organisation, name))
    _print({"id": number, "organisation": organisation, "name": name}, as_json)


@sender_app.command("add")
def sender_add(
    name: str,
    organisation: Organisation,
    allow: Annotated[list[str], typer.Option("--allow", metavar="CIDR", help="A network it posts from; may repeat.")],
    team: Annotated[str | None, typer.Option(help="What comes in is marked with this team.")] = None,
    partner: Annotated[bool, typer.Option("--partner", help="It sends for several organisations.")] = False,
    permit: Annotated[
        list[str] | None, typer.Option(metavar="ALIAS=ODS-CODE", help="For a partner: MSH-4, and whose it is.")
    ] = None,
    auto_create: Annotated[bool, typer.Option("--auto-create", help="Any message may make a record.")] = False,
    as_json: Json = False,
) -> None:
    """Register a sender; its password is shown once."""
    permitted = _permitted(permit or []) if partner else None
    if permit and not partner:
        raise _UsageError("--permit goes with --partner")
    made = _run(
        lambda pool: registry.add_sender(
            pool, name, organisation, allow, team=team, permitted=permitted, auto_create=auto_create
        )
    )
    _print(asdict(made), as_json)


@client_app.command("add")
def client_add(
    name: str,
    organisation: Organisation,
    scope: Annotated[str, typer.Option(help="SMART scopes with spaces between, such as 'system/*.rs'.")],
    jwks: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Its public keys: it signs instead of a secret.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Register a client; its secret is shown once."""
    keys = jwks.read_text() if jwks else None
    made = _run(lambda pool: registry.add_client(pool, name, organisation, scope, keys))
    _print({field: value for field, value in asdict(made).items() if value is not None}, as_json)


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
        raise _UsageError(f"--status is one of {', '.join(messages.STATUSES)}")
    rows = _run(lambda pool: messages.list_messages(pool, status=status, control_id=control_id, limit=limit))
    if as_json:
        _print(rows, as_json)
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

    found = _run(lambda pool: messages.show_message(pool, _uuid(number), _actor()))
    if found is None:
        raise _UsageError("there is no such message")
    _print(found, as_json)


@message_app.command("replay")
def message_replay(
    numbers: Annotated[list[str] | None, typer.Argument(help="Ids of messages.")] = None,
    status: Annotated[str | None, typer.Option(help="All that are held, failed or unsupported.")] = None,
    as_json: Json = False,
) -> None:
    """Try messages again that were not applied."""
    from carefolio.record import messages

    if bool(numbers) == bool(status):
        raise _UsageError("name messages, or a --status")
    if status and status not in messages.REPLAYABLE:
        raise _UsageError(f"--status is one of {', '.join(messages.REPLAYABLE)}")

    async def work(pool: database.Pool) -> list[uuid.UUID]:
        wanted = [_uuid(number) for number in numbers or []]
        if status:
            wanted = [row["id"] for row in await messages.list_messages(pool, status=status, limit=100_000)]
        queued = await messages.replay(pool, wanted, _actor())
        while await outbox.sweep():
            pass
        return queued

    _print({"replayed": _run(work)}, as_json)


@hl7_app.command("map")
def hl7_map(
    file: Annotated[Path | None, typer.Argument(help="A file, or - for standard input.")] = None,
    organisation: Annotated[str, typer.Option(metavar="ODS-CODE", help="Whose message it is taken for.")] = "XXX",
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Read paths on standard input, print one line each.")] = False,
) -> None:
    """Map a message to a FHIR Bundle on standard output; it needs no installation."""
    from carefolio.hl7 import HL7Error
    from carefolio.mapping import UnsupportedTypeError
    from carefolio.mapping.files import map_bytes
    from carefolio.mapping.serialise import dumps

    if jsonl:
        for line in sys.stdin:
            path = line.rstrip("\n")
            if path:
                sys.stdout.buffer.write(dumps(_mapped_or_error(path, organisation)) + b"\n")
        return
    if file is None:
        raise _UsageError("name a file, or give --jsonl and paths on standard input")
    raw = _read(file)
    try:
        typer.echo(dumps(map_bytes(raw, organisation), indent=True))
    except (HL7Error, UnsupportedTypeError, ValueError) as error:
        raise _UsageError(str(error)) from None


@hl7_app.command("explain")
def hl7_explain(
    file: Annotated[Path, typer.Argument(help="A file, or - for standard input.")],
    organisation: Annotated[str, typer.Option(metavar="ODS-CODE", help="Whose message it is taken for.")] = "XXX",
    values: Annotated[bool, typer.Option("--values", help="Show the values too: they are a patient's.")] = False,
    as_json: Json = False,
) -> None:
    """For every value of a message: the FHIR element that it went to, and by which rule."""
    from carefolio.hl7 import HL7Error, is_batch, read, split_batch
    from carefolio.mapping import Source
    from carefolio.mapping.explain import explain

    raw = _read(file)
    try:
        messages = split_batch(raw) if is_batch(raw) else [raw]
        lines = [line for single in messages for line in explain(read(single), Source(organisation))]
    except HL7Error as error:
        raise _UsageError(str(error)) from None
    if as_json:
        shown = [asdict(line) | ({} if values else {"value": None}) for line in lines]
        typer.echo(json.dumps(shown, ensure_ascii=False))
        return
    for line in lines:
        value = f"{line.value[:40]:<42}" if values else ""
        typer.echo(f"{line.position:<16} {value}{line.path or '-':<60} {line.rule}")


@hl7_app.command("check")
def hl7_check(
    file: Annotated[Path, typer.Argument(help="A file, or - for standard input.")],
    as_json: Json = False,
) -> None:
    """What would be refused, and where a message strays from its version of HL7. Exit status 1 where it is refused."""
    from carefolio.hl7 import HL7Error, is_batch, read, split_batch
    from carefolio.hl7.conformance import Finding, conformance

    raw = _read(file)
    findings: list[Finding] = []
    for single in split_batch(raw) if is_batch(raw) else [raw]:
        try:
            findings += conformance(read(single), datetime.now(UTC), production=False)
        except HL7Error as error:
            findings.append(Finding("error", str(error.place), error.reason))
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            typer.echo(f"{finding.severity:<12} {finding.place:<16} {finding.text}")
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(1)


@app.command()
def migrate() -> None:
    """Bring the database to the newest schema; safe while the previous revision serves."""
    from carefolio.cloud import migrations

    _enter()
    typer.echo(f"schema {migrations.migrate()}")


def _read(file: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise _UsageError(f"cannot read {file}: {error.strerror}") from None


def _mapped_or_error(path: str, organisation: str) -> Any:
    from carefolio.mapping.files import map_bytes

    try:
        return map_bytes(Path(path).read_bytes(), organisation)
    except Exception as error:  # one bad file must not end the line of a thousand
        return {"error": str(error)}


def _permitted(pairs: list[str]) -> dict[str, str]:
    split = [pair.partition("=") for pair in pairs]
    if not split or not all(alias and ods_code for alias, _, ods_code in split):
        raise _UsageError("a partner needs --permit ALIAS=ODS-CODE for each organisation that it sends for")
    return {alias: ods_code for alias, _, ods_code in split}


def _uuid(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise _UsageError(f"not the id of a message: {text}") from None


def _actor() -> str:
    return f"administrator/{getpass.getuser()}"


def _enter() -> None:
    here = installation()
    if not settings().database_url and not settings().cloud_sql_instance and not here.home.exists():
        raise InstallationError(f"There is no installation in {here.home}: run scripts/up, or set CAREFOLIO_HOME.")
    here.enter()


def _run(work: Callable[[database.Pool], Awaitable[T]]) -> T:
    async def inside() -> T:
        try:
            return await work(await database.pool())
        finally:
            await closing.close_all()

    _enter()
    return asyncio.run(inside())


def _print(made: Any, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(made, default=str, ensure_ascii=False))
        return
    for name, value in made.items():
        lines = value if isinstance(value, list) else [value]
        typer.echo(f"{name}: " + ", ".join(str(line) for line in lines))


def main() -> None:
    """The entry point: an error is one sentence, and the exit status 1."""
    try:
        app()
    except (RegistryError, InstallationError, PostgresError, _UsageError) as error:
        sys.exit(f"carefolio: {error}")
    except database.UNAVAILABLE:
        sys.exit("carefolio: the database does not answer: is scripts/up running?")
    except BrokenPipeError:
        sys.exit(1)
