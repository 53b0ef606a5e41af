"""What operators ask of the running system."""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"

STATEMENTS = (
    # Profiles that were asked for (carefolio.cloud.profiling).
    """
    CREATE TABLE profile (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        function text NOT NULL,
        seconds int NOT NULL,
        asked_by text NOT NULL,
        asked_at timestamptz NOT NULL DEFAULT now(),
        begun_at timestamptz,
        file text,
        failed text
    )
    """,
    "CREATE INDEX profile_waiting ON profile (function, asked_at) WHERE begun_at IS NULL",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
