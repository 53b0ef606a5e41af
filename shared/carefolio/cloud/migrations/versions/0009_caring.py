"""Carers, who act in a patient's name; what patients ask of organisations: corrections, answers to messages."""

from alembic import op

revision = "0009"
down_revision = "0008"

STATEMENTS = (
    # A carer may have neither a record nor an organisation.
    "ALTER TABLE account DROP CONSTRAINT account_kind_check",
    "ALTER TABLE account ADD CHECK (kind IN ('patient', 'professional', 'carer'))",
    # What a carer is invited to: of record_id these labels, until then; acts: to write in the patient's name too.
    "ALTER TABLE invitation DROP CONSTRAINT invitation_kind_check",
    """
    ALTER TABLE invitation
        ADD CHECK (kind IN ('patient', 'professional', 'carer')),
        ADD COLUMN labels text[] NOT NULL DEFAULT '{}',
        ADD COLUMN acts boolean NOT NULL DEFAULT false,
        ADD COLUMN until timestamptz,
        ADD COLUMN invited_by text NOT NULL DEFAULT ''
    """,
    "CREATE INDEX invitation_record ON invitation (record_id) WHERE used_at IS NULL",
    "ALTER TABLE sharing ADD COLUMN acts boolean NOT NULL DEFAULT false CHECK (role = 'carer' OR NOT acts)",
    # What a patient says is wrong in an item, and what the organisation that sent it says to that.
    """
    CREATE TABLE correction (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        record_id uuid NOT NULL REFERENCES record,
        organisation_id uuid NOT NULL REFERENCES organisation,
        resource_type text NOT NULL,
        resource_id uuid NOT NULL,
        version int NOT NULL,
        text text NOT NULL,
        asked_by text NOT NULL,
        asked_at timestamptz NOT NULL DEFAULT now(),
        status text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'done', 'refused')),
        answer text,
        answered_by text,
        answered_at timestamptz
    )
    """,
    "CREATE INDEX correction_record ON correction (record_id, asked_at)",
    "CREATE INDEX correction_organisation ON correction (organisation_id, status, asked_at)",
    # Of a patient with a team; its messages are Communications in his record.
    """
    CREATE TABLE conversation (
        id uuid PRIMARY KEY,
        record_id uuid NOT NULL REFERENCES record,
        team_id uuid NOT NULL REFERENCES team,
        topic text NOT NULL,
        begun_at timestamptz NOT NULL DEFAULT now(),
        last_at timestamptz NOT NULL DEFAULT now(),
        waits_for text NOT NULL CHECK (waits_for IN ('team', 'patient')),
        ended_at timestamptz
    )
    """,
    # sender: who he was when he wrote; what a message says is in its Communication.
    """
    CREATE TABLE conversation_message (
        resource_id uuid PRIMARY KEY,
        conversation_id uuid NOT NULL REFERENCES conversation,
        sender text NOT NULL
    )
    """,
    "CREATE INDEX conversation_message_conversation ON conversation_message (conversation_id)",
    "CREATE INDEX conversation_record ON conversation (record_id, last_at)",
    "CREATE INDEX conversation_team ON conversation (team_id, last_at)",
    "CREATE INDEX audit_organisation ON audit (organisation_id, id)",
    # Where an organisation wants to be told of things, and what it is told of.
    """
    CREATE TABLE webhook (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        organisation_id uuid NOT NULL REFERENCES organisation,
        url text NOT NULL,
        events text[] NOT NULL,
        secret_sealed bytea NOT NULL,
        created_by text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        allowed_at timestamptz,
        allowed_by text,
        ended_at timestamptz,
        failures int NOT NULL DEFAULT 0,
        paused_until timestamptz,
        last_at timestamptz,
        last_result text
    )
    """,
    "CREATE INDEX webhook_organisation ON webhook (organisation_id) WHERE ended_at IS NULL",
    """
    CREATE TABLE webhook_event (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        webhook_id uuid NOT NULL REFERENCES webhook,
        kind text NOT NULL,
        subject text NOT NULL,
        at timestamptz NOT NULL DEFAULT now(),
        attempts int NOT NULL DEFAULT 0,
        delivered_at timestamptz
    )
    """,
    "CREATE INDEX webhook_event_waiting ON webhook_event (webhook_id, at) WHERE delivered_at IS NULL",
    "CREATE INDEX webhook_event_at ON webhook_event (at)",
    # What was taken out for good keeps its row, without what it said.
    "ALTER TABLE message DROP CONSTRAINT message_status_check",
    """
    ALTER TABLE message ADD CONSTRAINT message_status_check CHECK (status IN (
        'received', 'applied', 'held', 'failed', 'unsupported', 'refused', 'rejected', 'purged'))
    """,
    "CREATE INDEX decision_purges ON decision (at) WHERE kind = 'purge'",
    # What the national register said of a record's person.
    """
    CREATE TABLE trace (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        record_id uuid NOT NULL REFERENCES record,
        organisation_id uuid NOT NULL REFERENCES organisation,
        at timestamptz NOT NULL DEFAULT now(),
        outcome text NOT NULL,
        elements text[] NOT NULL,
        actor text NOT NULL
    )
    """,
    "CREATE INDEX trace_organisation ON trace (organisation_id, record_id, at)",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
