"""Access tokens and clients that are ended before their time."""

from alembic import op

revision = "0005"
down_revision = "0004"

STATEMENTS = (
    # Until it would have expired anyway.
    """
    CREATE TABLE revoked_token (
        jti text PRIMARY KEY,
        expires_at timestamptz NOT NULL
    )
    """,
    "ALTER TABLE client ADD COLUMN ended_at timestamptz",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
