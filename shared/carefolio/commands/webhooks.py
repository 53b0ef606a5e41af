"""Where organisations want to be told of things: off until the operator allows it."""

from __future__ import annotations

from dataclasses import asdict

import typer

from carefolio.cloud.database import Pool
from carefolio.commands.terminal import Json, UsageError, actor, read_uuid, run, show
from carefolio.identity import webhooks

webhook_app = typer.Typer(no_args_is_help=True, help="Receivers of organisations, which an operator allows.")


@webhook_app.command("list")
def webhook_list(as_json: Json = False) -> None:
    """Every receiver, whether it is allowed, and how the last delivery ended."""
    found = run(webhooks.every)
    if as_json:
        show([asdict(each) for each in found], True)
        return
    for each in found:
        state = "allowed" if each.allowed else "waits for you"
        what = ", ".join(each.events) or "subscriptions: what apps may read of records"
        typer.echo(f"{each.id}  {each.organisation:<10} {state:<14} {each.url}  {each.result} ({each.waiting} wait)")
        typer.echo(f"{'':<38}{what}")


@webhook_app.command("allow")
def webhook_allow(webhook: str, as_json: Json = False) -> None:
    """Let this installation send there."""
    _set(webhook, as_json, allowed=True)


@webhook_app.command("refuse")
def webhook_refuse(webhook: str, as_json: Json = False) -> None:
    """Nothing is sent there, or no more."""
    _set(webhook, as_json, allowed=False)


def _set(webhook: str, as_json: bool, *, allowed: bool) -> None:
    async def work(pool: Pool) -> webhooks.Webhook:
        try:
            return await webhooks.allow(pool, read_uuid(webhook, "a webhook"), actor(), allowed=allowed)
        except webhooks.WebhookError as error:
            raise UsageError(str(error)) from None

    show(asdict(run(work)), as_json)
