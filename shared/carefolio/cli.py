"""The command ``carefolio``: administers an installation from the machine that it runs on."""

from __future__ import annotations

import sys
from importlib import import_module

import typer

# Groups and commands by name, and where they are: only what is asked for is loaded, since all of it takes a second.
_GROUPS = {
    "organisation": "registry", "team": "registry", "sender": "registry", "client": "registry", "message": "messages",
    "record": "records", "code": "records", "account": "accounts", "provider": "accounts", "security": "accounts",
    "key": "accounts", "emis": "emis", "audit": "audit", "backup": "backups", "webhook": "webhooks", "hl7": "hl7",
    "terminology": "terminology",
}  # fmt: skip
_COMMANDS = {"profile": "profiles", "quiet": "quiet"}
# What ends a command with one sentence. Whatever module was not loaded has raised nothing.
_TOLD = (
    ("carefolio.identity.accounts", "AccountError"),
    ("carefolio.extracts.agreements", "AgreementError"),
    ("carefolio.emis.errors", "ExtractError"),
    ("carefolio.identity.registry", "RegistryError"),
    ("carefolio.identity.sender_settings", "SettingsError"),
    ("carefolio.local.installation", "InstallationError"),
    ("carefolio.local.postgres", "PostgresError"),
    ("carefolio.local.archive", "ArchiveError"),
    ("carefolio.terminology.concepts", "TerminologyError"),
    ("carefolio.commands.terminal", "UsageError"),
)


def make_app(wanted: str) -> typer.Typer:
    """All commands, or where it is one of them, the one that is wanted."""
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        # Its tracebacks would show what variables hold.
        pretty_exceptions_enable=False,
        help="Administer a Carefolio installation.",
    )
    # A single command would be the program itself, without a name.
    app.callback()(lambda: None)
    names = [wanted] if wanted in _GROUPS | _COMMANDS else [*_GROUPS, *_COMMANDS]
    for name in names:
        if name in _GROUPS:
            app.add_typer(getattr(import_module(f"carefolio.commands.{_GROUPS[name]}"), f"{name}_app"), name=name)
        else:
            app.command(name)(getattr(import_module(f"carefolio.commands.{_COMMANDS[name]}"), name))
    app.command()(migrate)
    return app


def migrate() -> None:
    """Bring the database to the newest schema; safe while the previous revision serves."""
    from carefolio.cloud import migrations
    from carefolio.commands.terminal import enter
    from carefolio.terminology import store

    enter()
    revision = migrations.migrate()
    store.install()
    typer.echo(f"schema {revision}")


def main() -> None:
    """The entry point: an error is one sentence, and the exit status 1."""
    try:
        make_app(sys.argv[1] if len(sys.argv) > 1 else "")()
    except BrokenPipeError:
        sys.exit(1)
    except Exception as error:
        if isinstance(error, _told()):
            sys.exit(f"carefolio: {error}")
        from carefolio.cloud import database

        if isinstance(error, database.UNAVAILABLE):
            sys.exit("carefolio: the database does not answer: is scripts/up running?")
        raise


def _told() -> tuple[type[Exception], ...]:
    return tuple(getattr(sys.modules[module], name) for module, name in _TOLD if module in sys.modules)


if __name__ == "__main__":
    main()
