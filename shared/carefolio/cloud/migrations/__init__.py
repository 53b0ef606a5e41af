"""Schema changes, applied in order; each is safe while the previous revision of the code still serves."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg

from carefolio.cloud import database

HERE = Path(__file__).parent


def newest() -> str:
    """The newest revision, from the files' names: ``0002_words.py`` is revision 0002."""
    return max(path.stem.split("_")[0] for path in (HERE / "versions").glob("[0-9]*.py"))


async def current() -> str:
    """The database's revision, '' for an empty one."""
    connection = await database.connect()
    try:
        return str(await connection.fetchval("SELECT version_num FROM alembic_version") or "")
    except asyncpg.UndefinedTableError:
        return ""
    finally:
        await connection.close()


def migrate() -> str:
    """Bring the database to the newest revision and return it. Alembic is loaded only where there is work."""
    if asyncio.run(current()) != newest():
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(HERE))
        command.upgrade(config, "head")
    return newest()
