"""Schema changes, applied in order; each is safe while the previous revision of the code still serves."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg

from carefolio.cloud import database
from carefolio.cloud.settings import settings

HERE = Path(__file__).parent
# What a function's user may do; Cloud SQL puts every user that comes by IAM into a role of its own name.
_ROLE = "carefolio_function"
# Who owns the tables: nobody who comes, since a database that is restored in another project has other users.
_OWNER = "carefolio_owner"
_BY_IAM = "cloudsqliamserviceaccount"
_SUPERUSER = "cloudsqlsuperuser"


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
    if settings().cloud_sql_instance:
        asyncio.run(_allow())
    return newest()


async def connect() -> database.Connection:
    """A connection for migrations: in the cloud as the tables' owner."""
    connection = await database.connect()
    if settings().cloud_sql_instance:
        await become_owner(connection)
    return connection


async def become_owner(connection: database.Connection) -> None:
    """Be the tables' owner from now on, whoever the session's user is: as one that may make roles (Cloud SQL's own)."""
    await connection.execute(f"SET ROLE {_SUPERUSER}")
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", _OWNER):
        await connection.execute(f"CREATE ROLE {_OWNER} NOLOGIN")
        await connection.execute(f"GRANT ALL ON SCHEMA public TO {_OWNER}")
    user = await connection.fetchval("SELECT quote_ident(session_user)")
    await connection.execute(f"GRANT {_OWNER} TO {user}")
    await connection.execute(f"SET ROLE {_OWNER}")


async def _allow() -> None:
    connection = await database.connect()
    try:
        await allow(connection)
    finally:
        await connection.close()


async def allow(connection: database.Connection) -> None:
    """Let the functions' users read and write what the tables hold, and change no table: after every migration."""
    # What a role may make is not inherited: who migrates has to be the role that may.
    if await connection.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", _SUPERUSER):
        await connection.execute(f"SET ROLE {_SUPERUSER}")
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", _ROLE):
        await connection.execute(f"CREATE ROLE {_ROLE} NOLOGIN")
    users = await connection.fetch(
        """
        SELECT quote_ident(member.rolname) AS name FROM pg_auth_members
        JOIN pg_roles member ON member.oid = pg_auth_members.member
        JOIN pg_roles role ON role.oid = pg_auth_members.roleid
        WHERE role.rolname = $1 AND member.rolname <> session_user
        """,
        _BY_IAM,
    )
    for user in users:
        await connection.execute(f"GRANT {_ROLE} TO {user['name']}")
    await connection.execute("RESET ROLE")
    for what in (
        "USAGE ON SCHEMA public",
        "SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public",
        "USAGE ON ALL SEQUENCES IN SCHEMA public",
        # A bulk's rows are counted before they are planned with.
        "MAINTAIN ON TABLE extract_row",
    ):
        await connection.execute(f"GRANT {what} TO {_ROLE}")
    await connection.execute(f"REVOKE UPDATE, DELETE ON TABLE audit FROM {_ROLE}")
