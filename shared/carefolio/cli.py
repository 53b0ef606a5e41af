"""The command ``carefolio``: administers an installation from the machine that it runs on."""

from __future__ import annotations

import sys

import typer

from carefolio.cloud import database
from carefolio.commands.accounts import account_app, key_app, provider_app, security_app
from carefolio.commands.audit import audit_app
from carefolio.commands.backups import backup_app
from carefolio.commands.emis import emis_app
from carefolio.commands.hl7 import hl7_app
from carefolio.commands.messages import message_app
from carefolio.commands.profiles import profile
from carefolio.commands.quiet import quiet
from carefolio.commands.records import code_app, record_app
from carefolio.commands.registry import client_app, organisation_app, sender_app, team_app
from carefolio.commands.terminal import UsageError, enter
from carefolio.commands.terminology import terminology_app
from carefolio.commands.webhooks import webhook_app
from carefolio.emis.errors import ExtractError
from carefolio.extracts.agreements import AgreementError
from carefolio.identity.accounts import AccountError
from carefolio.identity.registry import RegistryError
from carefolio.identity.sender_settings import SettingsError
from carefolio.local.archive import ArchiveError
from carefolio.local.installation import InstallationError
from carefolio.local.postgres import PostgresError
from carefolio.terminology.concepts import TerminologyError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    # Its tracebacks would show what variables hold.
    pretty_exceptions_enable=False,
    help="Administer a Carefolio installation.",
)
for name, sub in (("organisation", organisation_app), ("team", team_app), ("sender", sender_app),
                  ("client", client_app), ("message", message_app), ("record", record_app), ("code", code_app),
                  ("account", account_app), ("provider", provider_app), ("security", security_app), ("key", key_app),
                  ("emis", emis_app), ("audit", audit_app), ("backup", backup_app), ("webhook", webhook_app),
                  ("hl7", hl7_app), ("terminology", terminology_app)):  # fmt: skip
    app.add_typer(sub, name=name)
app.command()(profile)
app.command()(quiet)


@app.command()
def migrate() -> None:
    """Bring the database to the newest schema; safe while the previous revision serves."""
    from carefolio.cloud import migrations
    from carefolio.terminology import store

    enter()
    revision = migrations.migrate()
    store.install()
    typer.echo(f"schema {revision}")


def main() -> None:
    """The entry point: an error is one sentence, and the exit status 1."""
    try:
        app()
    except (
        AccountError,
        AgreementError,
        ExtractError,
        RegistryError,
        SettingsError,
        InstallationError,
        PostgresError,
        ArchiveError,
        TerminologyError,
        UsageError,
    ) as error:
        sys.exit(f"carefolio: {error}")
    except database.UNAVAILABLE:
        sys.exit("carefolio: the database does not answer: is scripts/up running?")
    except BrokenPipeError:
        sys.exit(1)


if __name__ == "__main__":
    main()
