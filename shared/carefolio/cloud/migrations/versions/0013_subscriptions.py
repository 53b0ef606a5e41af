"""Subscriptions of apps: what changed, who wants to know of what, and what each of them is to be told."""

from alembic import op

revision = "0013"
down_revision = "0012"

STATEMENTS = (
    # What a Subscription resource asks for. ``listening``: events are collected for it, delivered or not yet;
    # ``waits``: its reader sees results when their patient does.
    """
    CREATE TABLE subscription (
        id uuid PRIMARY KEY,
        logical_id text NOT NULL,
        webhook_id uuid REFERENCES webhook,
        lane smallint NOT NULL,
        organisation_id uuid,
        waits boolean NOT NULL,
        reader jsonb NOT NULL,
        topic text,
        filters jsonb NOT NULL,
        decided text[] NOT NULL,
        channel jsonb NOT NULL,
        headers_sealed bytea NOT NULL,
        status text NOT NULL CHECK (status IN ('requested', 'active', 'error', 'off')),
        error text,
        listening boolean NOT NULL DEFAULT false,
        events bigint NOT NULL DEFAULT 0,
        delivered bigint NOT NULL DEFAULT 0,
        failures int NOT NULL DEFAULT 0,
        failing_since timestamptz,
        paused_until timestamptz,
        last_at timestamptz,
        ends_at timestamptz,
        created_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    "CREATE INDEX subscription_listening ON subscription (id) WHERE listening",
    "CREATE INDEX subscription_lane ON subscription (webhook_id, lane) WHERE status <> 'off'",
    # By which keys of the search index (record.search_index) it could be concerned; 0 is whatever it has. Of the types
    # in ``decided`` that is all that is asked.
    """
    CREATE TABLE subscription_interest (
        type text NOT NULL,
        key bigint NOT NULL,
        subscription_id uuid NOT NULL REFERENCES subscription ON DELETE CASCADE,
        PRIMARY KEY (type, key, subscription_id)
    )
    """,
    "CREATE INDEX subscription_interest_of ON subscription_interest (subscription_id)",
    """
    CREATE TABLE subscription_event (
        subscription_id uuid NOT NULL REFERENCES subscription ON DELETE CASCADE,
        number bigint NOT NULL,
        at timestamptz NOT NULL,
        type text NOT NULL,
        resource_id uuid NOT NULL,
        version int NOT NULL,
        change text NOT NULL CHECK (change IN ('create', 'update', 'delete')),
        PRIMARY KEY (subscription_id, number)
    )
    """,
    "CREATE INDEX subscription_event_at ON subscription_event (at)",
    # Versions that nobody has compared with the subscriptions yet; ``due_at``: with those that wait, from then on.
    """
    CREATE TABLE record_change (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        at timestamptz NOT NULL DEFAULT clock_timestamp(),
        ids uuid[] NOT NULL,
        versions int[] NOT NULL,
        due_at timestamptz
    )
    """,
    "CREATE INDEX record_change_due ON record_change (due_at) WHERE due_at IS NOT NULL",
    "CREATE INDEX record_change_waiting ON record_change (id) WHERE due_at IS NULL",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
