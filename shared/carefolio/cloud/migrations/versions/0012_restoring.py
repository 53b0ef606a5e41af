"""Whether an app or a feed wrote a version, where that is known: who restores a record has to."""

from alembic import op

revision = "0012"
down_revision = "0011"

# A database may have it from an earlier form of 0010.
STATEMENTS = ("ALTER TABLE resource_history ADD COLUMN IF NOT EXISTS by_app boolean",)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
