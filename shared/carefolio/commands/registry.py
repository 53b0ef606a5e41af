"""Organisations, teams, senders and clients."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from carefolio.cloud.database import Pool
from carefolio.commands.terminal import Json, Organisation, UsageError, actor, run, show
from carefolio.identity import registration, registry, sender_settings, teams
from carefolio.identity.sender_settings import SenderSettings, Stored, with_assignments
from carefolio.record import directory
from carefolio.record.labels import LABELS

organisation_app = typer.Typer(no_args_is_help=True, help="Organisations, by ODS code.")
team_app = typer.Typer(no_args_is_help=True, help="Teams of an organisation.")
sender_app = typer.Typer(no_args_is_help=True, help="Systems that post HL7 messages, and what was agreed with them.")
client_app = typer.Typer(no_args_is_help=True, help="Systems that use the APIs.")


@organisation_app.command("add")
def organisation_add(ods_code: str, name: str, as_json: Json = False) -> None:
    """Register an organisation."""
    number = run(lambda pool: registry.add_organisation(pool, ods_code, name))
    show({"id": number, "ods_code": ods_code.upper(), "name": name}, as_json)


@team_app.command("add")
def team_add(
    name: str,
    organisation: Organisation,
    label: Annotated[str, typer.Option(help="Of what it contributes, where nothing says another.")] = "general",
    sees: Annotated[list[str] | None, typer.Option(help="A label that it sees of its patients; may repeat.")] = None,
    as_json: Json = False,
) -> None:
    """Register a team, with its privacy labels."""
    labels = sees if sees is not None else ["general"]
    if unknown := [each for each in (label, *labels) if each not in LABELS]:
        raise UsageError(f"{unknown[0]} is none of {', '.join(LABELS)}")

    async def work(pool: Pool) -> teams.Team:
        try:
            made = await teams.add(
                pool, await registry.organisation_id(pool, organisation), actor(), name, label, labels
            )
        except teams.TeamError as error:
            raise UsageError(str(error)) from None
        await directory.publish(pool, made.id, actor())
        return made

    made = run(work)
    show({"id": made.id, "organisation": organisation, "name": made.name, "label": made.label,
          "labels": list(made.labels)}, as_json)  # fmt: skip


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
    assign: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting (see sender set); may repeat.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Register a sender; its password is shown once."""
    permitted = _permitted(permit or []) if partner else None
    if permit and not partner:
        raise UsageError("--permit goes with --partner")
    agreed = with_assignments(SenderSettings(), assign or [])

    async def work(pool: Pool) -> registry.NewSender:
        made = await registry.add_sender(pool, name, organisation, allow, team=team, permitted=permitted)
        known = await sender_settings.load(pool, made.name)
        if assign and known:
            await sender_settings.store(pool, known, agreed, actor())
        return made

    show(asdict(run(work)), as_json)


@sender_app.command("show")
def sender_show(name: str, as_json: Json = False) -> None:
    """A sender's settings, and every version that they had."""

    async def work(pool: Pool) -> tuple[Stored | None, list[dict[str, object]]]:
        return await sender_settings.load(pool, name), await sender_settings.history(pool, name)

    known, versions = run(work)
    if known is None:
        raise UsageError(f"there is no sender {name}")
    if as_json:
        show({"name": name, "version": known.version, "settings": asdict(known.settings), "history": versions}, True)
        return
    show({"name": name, "version": known.version} | asdict(known.settings), False)
    for version in versions:
        typer.echo(f"version {version['version']} by {version['actor']} at {version['at']}")


@sender_app.command("set")
def sender_set(
    name: str,
    assignments: Annotated[
        list[str], typer.Argument(metavar="NAME=VALUE...", help="Such as accept_merges=true authorities.RXX=https://…")
    ],
    as_json: Json = False,
) -> None:
    """Change what was agreed with a sender; the change is a version, with who made it.

    auto_create, accept_merges, replace_sets, r_deletes (true or false); zone, character_set; authorities.NAME=URI,
    z_fields.ZPI-2=name (an empty value removes one).
    """

    async def work(pool: Pool) -> Stored:
        known = await sender_settings.load(pool, name)
        if known is None:
            raise UsageError(f"there is no sender {name}")
        stored = await sender_settings.store(pool, known, with_assignments(known.settings, assignments), actor())
        if stored is None:
            raise UsageError("somebody else changed the settings at this moment: try again")
        return stored

    stored = run(work)
    show({"name": name, "version": stored.version} | asdict(stored.settings), as_json)


@sender_app.command("allow")
def sender_allow(
    name: str,
    networks: Annotated[
        list[str] | None, typer.Argument(metavar="CIDR...", help="All that it may post from; none: from nowhere.")
    ] = None,
    as_json: Json = False,
) -> None:
    """From where a sender may post, in place of what was allowed before; within a minute, at the edge within five."""
    allowed = run(lambda pool: registry.set_networks(pool, name, networks or []))
    show({"name": name, "networks": [str(each) for each in allowed]}, as_json)


@sender_app.command("renew")
def sender_renew(name: str, as_json: Json = False) -> None:
    """A new password for a sender, shown once; the old one opens nothing after a minute."""
    show(asdict(run(lambda pool: registry.renew_password(pool, name))), as_json)


@client_app.command("add")
def client_add(
    name: str,
    organisation: Organisation,
    scope: Annotated[str, typer.Option(help="SMART scopes with spaces between, such as 'system/*.rs'.")],
    jwks: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Its public keys: it signs instead of a secret.")
    ] = None,
    jwks_uri: Annotated[str | None, typer.Option(metavar="URL", help="Where its public keys lie.")] = None,
    redirect: Annotated[
        list[str] | None, typer.Option(metavar="URI", help="People sign in to it, and come back here; may repeat.")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="It runs in a browser or on a phone: no secret, PKCE.")
    ] = False,
    device: Annotated[bool, typer.Option("--device", help="It has no browser: people type a code elsewhere.")] = False,
    launch: Annotated[str | None, typer.Option(metavar="URI", help="It can be opened from here (EHR launch).")] = None,
    as_json: Json = False,
) -> None:
    """Register a client; its secret is shown once."""
    _check_queries(scope)
    grants = ["authorization_code", "refresh_token"] if redirect else []
    grants += ["urn:ietf:params:oauth:grant-type:device_code", "refresh_token"] if device else []
    if any(text.startswith("system/") or text == "hand-over" for text in scope.split()):
        grants.append("client_credentials")
    app = registry.AppSettings(
        public, tuple(redirect or ()), tuple(dict.fromkeys(grants or ["client_credentials"])), jwks_uri, launch, actor()
    )
    keys = jwks.read_text() if jwks else None
    made = run(lambda pool: registry.add_client(pool, name, organisation, scope, keys, app))
    show({field: value for field, value in asdict(made).items() if value is not None}, as_json)


@client_app.command("list")
def client_list(organisation: Organisation, as_json: Json = False) -> None:
    """The living clients of an organisation."""

    async def work(pool: Pool) -> list[dict[str, object]]:
        return await registry.clients_of(pool, await registry.organisation_id(pool, organisation))

    rows = run(work)
    if as_json:
        show(rows, True)
        return
    for row in rows:
        typer.echo(f"{row['id']} {row['name']}: {row['scope']}")


@client_app.command("allow")
def client_allow(
    organisation: Organisation,
    scope: Annotated[str, typer.Option(help="The most that the client may register for.")],
    days: Annotated[int, typer.Option(min=1, max=90, help="How long the token may be used.")] = 7,
    as_json: Json = False,
) -> None:
    """A token by which one client may register itself (RFC 7591), shown once."""
    _check_queries(scope)
    made = run(lambda pool: registration.allow(pool, organisation, scope, days))
    show({"initial_access_token": made, "organisation": organisation, "scope": scope, "days": days}, as_json)


def _check_queries(scope: str) -> None:
    from carefolio.record.access import check_scope
    from carefolio.record.arguments import SearchError

    for text in scope.split():
        try:
            check_scope(text)
        except SearchError as wrong:
            raise UsageError(f"not a scope: {text} ({wrong})") from None


@client_app.command("end")
def client_end(client_id: str, as_json: Json = False) -> None:
    """End a client: it gets no more tokens, and those that it has open nothing within a minute."""
    run(lambda pool: registry.end_client(pool, client_id))
    show({"client_id": client_id, "ended": True}, as_json)


def _permitted(pairs: list[str]) -> dict[str, str]:
    split = [pair.partition("=") for pair in pairs]
    if not split or not all(alias and ods_code for alias, _, ods_code in split):
        raise UsageError("a partner needs --permit ALIAS=ODS-CODE for each organisation that it sends for")
    return {alias: ods_code for alias, _, ods_code in split}
