"""Groups whose members are what a search finds: in whose name it is asked, and when it was."""

from alembic import op

revision = "0015"
down_revision = "0014"

STATEMENTS = (
    """
    CREATE TABLE cohort (
        group_id uuid PRIMARY KEY,
        reader jsonb NOT NULL,
        filters jsonb NOT NULL,
        refreshed_at timestamptz NOT NULL DEFAULT now()
    )
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
