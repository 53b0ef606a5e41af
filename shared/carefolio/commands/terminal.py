"""What every command needs: an installation, a person's name, and one sentence where something cannot be."""

from __future__ import annotations

import asyncio
import getpass
import json
import sys
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from carefolio.cloud import closing, database, telemetry
from carefolio.cloud.settings import settings
from carefolio.local.installation import InstallationError, installation

T = TypeVar("T")
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Organisation = Annotated[str, typer.Option("--organisation", metavar="ODS-CODE", help="Whose it is.")]


class UsageError(Exception):
    """What the command was given is wrong; one sentence for the person who typed it."""


def read_file(file: Path) -> bytes:
    """A file's bytes, or those of standard input for ``-``. Raises UsageError."""
    try:
        return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from None


def read_uuid(text: str, what: str = "a message") -> uuid.UUID:
    """An id that was typed. Raises UsageError."""
    try:
        return uuid.UUID(text)
    except ValueError:
        raise UsageError(f"not the id of {what}: {text}") from None


def actor() -> str:
    """Who types, for the audit trail."""
    return f"administrator/{getpass.getuser()}"


def enter() -> None:
    """Point this process at the installation. Raises InstallationError where there is none."""
    here = installation()
    if not settings().database_url and not settings().cloud_sql_instance and not here.home.exists():
        raise InstallationError(f"There is no installation in {here.home}: run scripts/up, or set CAREFOLIO_HOME.")
    here.enter()


def run(work: Callable[[database.Pool], Awaitable[T]]) -> T:
    """Do a piece of work with the installation's database."""

    async def inside() -> T:
        try:
            return await work(await database.pool())
        finally:
            await closing.close_all()

    enter()
    telemetry.log_to(sys.stderr.buffer)
    return asyncio.run(inside())


def show(made: Any, as_json: bool) -> None:
    """Print what was made: JSON, or a line for each of its names."""
    if as_json:
        typer.echo(json.dumps(made, default=str, ensure_ascii=False))
        return
    for name, value in made.items():
        lines = value if isinstance(value, list) else [value]
        typer.echo(f"{name}: " + ", ".join(str(line) for line in lines))
