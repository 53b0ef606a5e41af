"""Work that is asked for now and done later: exports and what else takes longer than a request."""

from alembic import op

revision = "0011"
down_revision = "0010"

STATEMENTS = (
    # One shape for all of it (carefolio.record.jobs). reader: as whom it is done; asked: what for, by its kind.
    """
    CREATE TABLE job (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        kind text NOT NULL,
        request text NOT NULL,
        reader jsonb NOT NULL,
        asked jsonb NOT NULL,
        made_at timestamptz NOT NULL DEFAULT now(),
        ended_at timestamptz,
        expires_at timestamptz,
        status text NOT NULL DEFAULT 'waiting'
            CHECK (status IN ('waiting', 'working', 'done', 'failed', 'cancelled', 'expired')),
        answer jsonb,
        failed text
    )
    """,
    "CREATE INDEX job_reader ON job ((reader ->> 'actor'), made_at)",
    "CREATE INDEX job_living ON job (status, made_at) WHERE status IN ('waiting', 'working')",
    "CREATE INDEX job_expiring ON job (expires_at) WHERE status <> 'expired'",
    # Of which each part is one push, done once however often it is delivered. Number 0 plans the others.
    """
    CREATE TABLE job_part (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        job_id uuid NOT NULL REFERENCES job,
        number int NOT NULL,
        subject jsonb NOT NULL,
        attempts int NOT NULL DEFAULT 0,
        done_at timestamptz,
        result jsonb,
        UNIQUE (job_id, number)
    )
    """,
    "CREATE INDEX job_part_open ON job_part (job_id) WHERE done_at IS NULL",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
