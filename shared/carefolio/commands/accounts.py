"""People: invitations, accounts, providers, the log of security events, keys."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from carefolio.cloud import outbox, secrets
from carefolio.cloud.database import Pool
from carefolio.commands.terminal import Json, Organisation, UsageError, actor, read_file, read_uuid, run, show
from carefolio.identity import (
    accounts,
    invitations,
    operating,
    providers,
    registry,
    relying_party,
    security_events,
    teams,
    tokens,
)
from carefolio.identity.security_events import SecurityEvent

account_app = typer.Typer(no_args_is_help=True, help="People's accounts.")
provider_app = typer.Typer(no_args_is_help=True, help="Who else signs people in: NHS login, CIS2, OpenID, SAML.")
security_app = typer.Typer(no_args_is_help=True, help="What happened at the doors.")
key_app = typer.Typer(no_args_is_help=True, help="The keys that sign tokens.")
Who = Annotated[str, typer.Argument(metavar="ACCOUNT", help="Its e-mail address or number.")]


@account_app.command("invite")
def account_invite(
    organisation: Organisation,
    nhs_number: Annotated[str | None, typer.Option(help="A patient, by the number in his record.")] = None,
    name: Annotated[str | None, typer.Option(help="A professional, with --email.")] = None,
    email: Annotated[
        str | None, typer.Option(help="Where the invitation goes; without it, print the code in a letter.")
    ] = None,
    team: Annotated[list[str] | None, typer.Option(help="A team that a professional joins; may repeat.")] = None,
    as_json: Json = False,
) -> None:
    """Invite a patient (--nhs-number) or a professional (--name and --email). The code is shown once."""
    if (nhs_number is None) == (name is None) or (name and not email) or (team and nhs_number):
        raise UsageError("give --nhs-number for a patient, or --name and --email for a professional")

    async def work(pool: Pool) -> invitations.NewInvitation:
        owner = await registry.organisation_id(pool, organisation)
        if nhs_number:
            made = await invitations.invite_patient(pool, owner, nhs_number=nhs_number, email=email)
        else:
            rows = await pool.fetch(
                "SELECT id, name FROM team WHERE organisation_id = $1 AND name = ANY($2)", owner, team or []
            )
            if missing := set(team or []) - {row["name"] for row in rows}:
                raise UsageError(f"{organisation} has no team {', '.join(sorted(missing))}")
            made = await invitations.invite_professional(
                pool, owner, name or "", email or "", [row["id"] for row in rows]
            )
        await outbox.sweep()
        return made

    show(asdict(run(work)), as_json)


@account_app.command("show")
def account_show(account: Who, as_json: Json = False) -> None:
    """An account, its sessions and its latest events."""
    show(run(lambda pool: operating.show(pool, account)), as_json)


_ROLES = ", ".join((*teams.ROLES, teams.OPERATOR))


@account_app.command("role")
def account_role(
    account: Who,
    roles: Annotated[list[str] | None, typer.Argument(metavar="ROLE", help=f"{_ROLES}.")] = None,
    as_json: Json = False,
) -> None:
    """Give a professional these roles in his organisation, and no others."""

    async def work(pool: Pool) -> None:
        known = await accounts.by_name(pool, account)
        if known.organisation_id is None:
            raise UsageError("only a professional has roles in an organisation")
        try:
            await teams.set_roles(pool, known.organisation_id, actor(), known.id, roles or [], by_operator=True)
        except teams.TeamError as error:
            raise UsageError(str(error)) from None

    run(work)
    show({"account": account, "roles": roles or []}, as_json)


@account_app.command("unlock")
def account_unlock(account: Who, as_json: Json = False) -> None:
    """Forget failed attempts, which make somebody wait."""
    run(lambda pool: operating.unlock(pool, account, actor()))
    show({"account": account, "unlocked": True}, as_json)


@account_app.command("end-sessions")
def account_end_sessions(account: Who, as_json: Json = False) -> None:
    """End every session of an account."""
    show({"account": account, "ended": run(lambda pool: operating.end_sessions(pool, account, actor()))}, as_json)


@account_app.command("require-factor")
def account_require_factor(account: Who, as_json: Json = False) -> None:
    """Take away passkeys and authenticator app (lost, or stolen): a new one must be added at the next sign-in."""
    run(lambda pool: operating.require_factor(pool, account, actor()))
    show({"account": account, "must_enrol": True}, as_json)


@account_app.command("list")
def account_list(organisation: Organisation, as_json: Json = False) -> None:
    """The accounts of an organisation's professionals and patients, and its living invitations."""

    async def work(pool: Pool) -> list[dict[str, Any]]:
        owner = await registry.organisation_id(pool, organisation)
        return await operating.of_organisation(pool, owner)

    rows = run(work)
    if as_json:
        show(rows, True)
        return
    for row in rows:
        typer.echo(f"{row['id']} {row['kind']:<12} {row['state']:<8} {row['email'] or '-'}  {row['name']}")


@account_app.command("withdraw")
def account_withdraw(invitation: str, as_json: Json = False) -> None:
    """Withdraw an invitation, by its id (account list)."""
    number = read_uuid(invitation, "an invitation")
    run(lambda pool: invitations.end(pool, number))
    show({"id": number, "withdrawn": True}, as_json)


@account_app.command("readmit")
def account_readmit(account: str, as_json: Json = False) -> None:
    """Let an ended account live again, by its id; its password is gone."""
    number = read_uuid(account, "an account")
    run(lambda pool: operating.readmit(pool, number, actor()))
    show({"id": number, "readmitted": True}, as_json)


@account_app.command("end")
def account_end(account: Who, as_json: Json = False) -> None:
    """End an account, with its sessions and what it allowed apps."""
    ended = run(lambda pool: operating.end(pool, account, actor()))
    show({"id": ended.id, "ended": True}, as_json)


@provider_app.command("add")
def provider_add(
    name: Annotated[str, typer.Argument(help="Part of its addresses here: small letters, digits, hyphens.")],
    kind: Annotated[str, typer.Option(help="nhs-login, oidc, cis2 or saml.")],
    issuer: Annotated[str, typer.Option(help="The issuer's URL; for SAML its entity id.")],
    client_id: Annotated[str, typer.Option(help="Our name there; for SAML our entity id.")] = "",
    key: Annotated[Path | None, typer.Option(help="Our private key (PEM or JWK) or client secret, in a file.")] = None,
    title: Annotated[str, typer.Option(help="What people read.")] = "",
    organisation: Annotated[str | None, typer.Option(metavar="ODS-CODE", help="Whose people it signs in.")] = None,
    team: Annotated[str | None, typer.Option(help="The team that they join.")] = None,
    domain: Annotated[list[str] | None, typer.Option(help="A domain of their e-mail addresses; may repeat.")] = None,
    nhs_app_keys: Annotated[str | None, typer.Option(metavar="URL", help="The NHS App's JWKS.")] = None,
    sso_url: Annotated[str | None, typer.Option(metavar="URL", help="SAML: where requests go.")] = None,
    certificate: Annotated[Path | None, typer.Option(help="SAML: the provider's certificate (PEM).")] = None,
    assign: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=JSON", help="scope, vtr, acr_values, claims, teams, extra."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Register a provider. What to register there is printed: our callback, and where our public key lies."""
    chosen: dict[str, Any] = {}
    for text in assign or []:
        setting, equals, value = text.partition("=")
        try:
            chosen[setting] = json.loads(value)
        except ValueError:
            raise UsageError(f"{setting}: the value must be JSON, such as '\"text\"' or '[\"P9.Cp.Cd\"]'") from None
        if not equals:
            raise UsageError(f"not NAME=JSON: {text}")
    if nhs_app_keys:
        chosen["nhs_app_keys"] = nhs_app_keys
    if sso_url:
        chosen["sso_url"] = sso_url
    if certificate:
        chosen["certificate"] = read_file(certificate).decode()

    async def work(pool: Pool) -> dict[str, Any]:
        await providers.add(
            pool, name, kind, issuer=issuer, client_id=client_id, key=read_file(key) if key else None, title=title,
            organisation=organisation, team=team, domains=tuple(domain or ()), chosen=chosen,
        )  # fmt: skip
        made = await providers.find(pool, name)
        assert made is not None
        told: dict[str, Any] = {"name": name, "kind": kind, "callback": made.callback}
        if made.private_key is not None:
            told["keys"] = f"{made.callback.rpartition('/')[0]}/jwks.json"
        if kind != providers.SAML:
            try:
                await relying_party.metadata_of(made)
                told["issuer"] = "reached"
            except relying_party.SignInError as error:
                told["issuer"] = f"not reached: {error.code} {error.description}".strip()
        if kind == providers.SAML:
            told["metadata"] = f"{made.callback.rpartition('/')[0]}/metadata"
        return told

    show(run(work), as_json)


@provider_app.command("list")
def provider_list(as_json: Json = False) -> None:
    """The providers that the sign-in page offers."""
    found = run(providers.offered)
    rows = [
        {"name": each.name, "kind": each.kind, "issuer": each.issuer, "client_id": each.client_id} for each in found
    ]
    if as_json:
        show(rows, True)
        return
    for row in rows:
        typer.echo(f"{row['name']}: {row['kind']} {row['issuer']} {row['client_id']}")


@provider_app.command("end")
def provider_end(name: str, as_json: Json = False) -> None:
    """Nobody signs in by it any more."""
    run(lambda pool: providers.end(pool, name))
    show({"name": name, "ended": True}, as_json)


@security_app.command("events")
def security_list(
    suspicious: Annotated[bool, typer.Option("--suspicious", help="Failed, throttled, refused, reused.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    as_json: Json = False,
) -> None:
    """The latest events at the doors."""
    rows = run(lambda pool: security_events.latest(pool, suspicious=suspicious, limit=limit))
    if as_json:
        show(rows, True)
        return
    for row in rows:
        parts = (row["account"], row["client_id"], row["address"], row["detail"])
        typer.echo(f"{row['at']:%Y-%m-%d %H:%M:%S} {row['kind']:<20} " + "  ".join(str(part) for part in parts if part))


@key_app.command("rotate")
def key_rotate(as_json: Json = False) -> None:
    """Make a new pair of signing keys: published at once, signing after ten minutes; the present pair stays good.

    It is written where the secret is mounted from (SECRETS_DIR).
    """

    async def work(pool: Pool) -> str:
        made = tokens.rotated(secrets.read(tokens.SECRET), time.time())
        secrets.write(tokens.SECRET, made)
        await tokens.publish_keys(pool)
        await security_events.record(pool, SecurityEvent.KEY_ROTATED, detail=actor())
        return str(json.loads(made)["keys"][-2]["kid"])

    show({"kid": run(work), "signs_after_seconds": 600}, as_json)
