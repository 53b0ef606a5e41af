"""The patient decides: who a record is shared with, labels of teams, frozen records; roles."""

from alembic import op

revision = "0008"
down_revision = "0007"

STATEMENTS = (
    # Who sees how much of a record besides its patient. implied: a team that contributed to it, with the team's own
    # defaults; explicit: the patient's word, which stands over that (no labels: he said no); glass: broken by grantee.
    """
    CREATE TABLE sharing (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        record_id uuid NOT NULL REFERENCES record,
        grantee uuid NOT NULL,
        role text NOT NULL CHECK (role IN ('team', 'professional', 'carer')),
        kind text NOT NULL CHECK (kind IN ('explicit', 'implied', 'glass')),
        labels text[] NOT NULL,
        confidential boolean NOT NULL DEFAULT false,
        contributed boolean NOT NULL DEFAULT false,
        created_at timestamptz NOT NULL DEFAULT now(),
        created_by text NOT NULL,
        ends_at timestamptz NOT NULL DEFAULT 'infinity',
        ended_at timestamptz,
        ended_by text,
        reason text,
        session_id bytea
    )
    """,
    "CREATE UNIQUE INDEX sharing_once ON sharing (record_id, grantee) WHERE ended_at IS NULL AND kind <> 'glass'",
    "CREATE INDEX sharing_record ON sharing (record_id, grantee) WHERE ended_at IS NULL",
    "CREATE INDEX sharing_grantee ON sharing (grantee, record_id) WHERE ended_at IS NULL",
    "CREATE INDEX sharing_history ON sharing (record_id, created_at)",
    # sharing_off: only what each team itself contributed; frozen: nothing to anybody, the patient too.
    """
    ALTER TABLE record
        ADD COLUMN sharing_off_at timestamptz,
        ADD COLUMN frozen_at timestamptz,
        ADD COLUMN frozen_by text,
        ADD COLUMN frozen_reason text
    """,
    "CREATE INDEX record_sharing_off ON record (person_id) WHERE sharing_off_at IS NOT NULL",
    "CREATE INDEX record_frozen ON record (person_id) WHERE frozen_at IS NOT NULL",
    # label: of what the team contributes where no specialty says another; labels: what it sees of its patients.
    """
    ALTER TABLE team
        ADD COLUMN label text NOT NULL DEFAULT 'general',
        ADD COLUMN labels text[] NOT NULL DEFAULT '{general}'
    """,
    # A patient's word on the label of what a team contributes to his record.
    """
    CREATE TABLE team_label (
        record_id uuid NOT NULL REFERENCES record,
        team_id uuid NOT NULL REFERENCES team,
        label text NOT NULL,
        set_by text NOT NULL,
        set_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (record_id, team_id)
    )
    """,
    # A patient's word on the label of one item: no message and no feed changes it.
    """
    CREATE TABLE item_label (
        resource_id uuid PRIMARY KEY,
        record_id uuid NOT NULL REFERENCES record,
        label text NOT NULL,
        set_by text NOT NULL,
        set_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    # Restricted by who wrote it (meta.security R): not for carers and, unless the patient says so, not for others.
    "ALTER TABLE resource ADD COLUMN confidential boolean NOT NULL DEFAULT false",
    "ALTER TABLE resource_history ADD COLUMN confidential boolean NOT NULL DEFAULT false",
    # What not everybody sees who sees the record: few, so that most records are known to have none.
    """
    CREATE INDEX resource_guarded ON resource (patient_id)
        WHERE label <> 'general' OR confidential OR available_from IS NOT NULL
    """,
    "ALTER TABLE account ADD COLUMN roles text[] NOT NULL DEFAULT '{}'",
    "ALTER TABLE account_team ADD COLUMN coordinator boolean NOT NULL DEFAULT false",
    "CREATE INDEX account_team_team ON account_team (team_id)",
    # The trail is appended to, and nothing else; what was sealed of it (carefolio.record.seals).
    """
    CREATE FUNCTION audit_is_kept() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'the audit trail is only appended to'; END $$
    """,
    """
    CREATE TRIGGER audit_is_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
        FOR EACH STATEMENT EXECUTE FUNCTION audit_is_kept()
    """,
    """
    CREATE TABLE audit_seal (
        number bigint PRIMARY KEY,
        since bigint NOT NULL,
        upto bigint NOT NULL,
        lines int NOT NULL,
        root bytea NOT NULL,
        sealed_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    """
    CREATE TABLE audit_mark (
        at timestamptz NOT NULL,
        last_id bigint NOT NULL,
        next_xact xid8 NOT NULL
    )
    """,
    # A request that may be repeated, and what it was answered (REST, Idempotency-Key).
    """
    CREATE TABLE repeatable (
        key bytea PRIMARY KEY,
        request bytea NOT NULL,
        status int,
        answer bytea,
        created_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    "CREATE INDEX repeatable_old ON repeatable (created_at)",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
