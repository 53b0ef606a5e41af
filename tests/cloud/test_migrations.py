"""In the cloud every function comes to the database as a user of its own, which owns nothing."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest
from tests.conftest import Running

from carefolio.cloud import migrations, secrets
from carefolio.cloud.settings import settings


async def test_a_function_may_use_the_tables_and_change_none(installation: Running) -> None:
    connection = await asyncpg.connect(installation.here.postgres.url)
    transaction = connection.transaction()
    await transaction.start()
    try:
        # As Cloud SQL makes them of a service account.
        await connection.execute("CREATE ROLE cloudsqlsuperuser NOLOGIN CREATEROLE")
        await connection.execute("CREATE ROLE cloudsqliamserviceaccount NOLOGIN")
        await connection.execute('CREATE ROLE "carefolio-hl7@example.iam" LOGIN IN ROLE cloudsqliamserviceaccount')
        for _ in range(2):
            await migrations.allow(connection)
        await connection.execute('SET ROLE "carefolio-hl7@example.iam"')
        await connection.fetchval("SELECT count(*) FROM resource")
        await connection.execute("ANALYZE extract_row")
        await connection.execute("CREATE TEMP TABLE own AS SELECT FROM resource WITH NO DATA")
        for change in ("DROP TABLE audit", "TRUNCATE audit", "DELETE FROM audit", "CREATE TABLE public.mine ()",
                       "ALTER TABLE account ADD COLUMN mine int"):  # fmt: skip
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                async with connection.transaction():
                    await connection.execute(change)
    finally:
        await transaction.rollback()
        await connection.close()


async def test_a_database_that_was_restored_elsewhere_has_an_owner(installation: Running) -> None:
    """Another project's user migrates what the first one made, and neither owns it."""
    connection = await asyncpg.connect(installation.here.postgres.url)
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute("CREATE ROLE cloudsqlsuperuser NOLOGIN CREATEROLE")
        await connection.execute("CREATE ROLE cloudsqliamserviceaccount NOLOGIN")
        await connection.execute("ALTER DATABASE carefolio OWNER TO cloudsqlsuperuser")
        for project in ("production", "rehearsal"):
            await connection.execute(f'CREATE ROLE "migrate@{project}.iam" LOGIN IN ROLE cloudsqlsuperuser')
            await connection.execute(f'CREATE ROLE "hl7@{project}.iam" LOGIN IN ROLE cloudsqliamserviceaccount')
        for project, statement in (("production", "CREATE TABLE made (id int)"),
                                   ("rehearsal", "ALTER TABLE made ADD COLUMN more int")):  # fmt: skip
            await connection.execute(f'SET SESSION AUTHORIZATION "migrate@{project}.iam"')
            await migrations.become_owner(connection)
            await connection.execute(statement)
            await connection.execute("RESET SESSION AUTHORIZATION")
        owner = await connection.fetchval("SELECT tableowner FROM pg_tables WHERE tablename = 'made'")
        assert owner == "carefolio_owner"
    finally:
        await transaction.rollback()
        await connection.close()


def test_a_mounted_secret_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secret Manager's volumes: one secret to a folder, its file named like it."""
    folder = tmp_path / "identity-key"
    folder.mkdir()
    (folder / "identity-key").write_bytes(b"secret")
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path))
    settings.cache_clear()
    try:
        assert secrets.read("identity-key") == b"secret"
    finally:
        settings.cache_clear()
