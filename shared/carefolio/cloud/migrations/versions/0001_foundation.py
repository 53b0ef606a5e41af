"""Organisations, senders, clients, messages, the record, its audit trail and the outbox."""

from alembic import op

revision = "0001"
down_revision = None

STATEMENTS = (
    # Who takes part.
    """
    CREATE TABLE organisation (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        ods_code text NOT NULL UNIQUE,
        name text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    """
    CREATE TABLE team (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        organisation_id uuid NOT NULL REFERENCES organisation,
        name text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        UNIQUE (organisation_id, name)
    )
    """,
    """
    CREATE TABLE sender (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        name text NOT NULL UNIQUE,
        username text NOT NULL UNIQUE,
        password_hash text NOT NULL,
        organisation_id uuid NOT NULL REFERENCES organisation,
        team_id uuid REFERENCES team,
        partner boolean NOT NULL DEFAULT false,
        networks cidr[] NOT NULL,
        auto_create boolean NOT NULL DEFAULT false,
        created_at timestamptz NOT NULL DEFAULT now(),
        CHECK (NOT (partner AND team_id IS NOT NULL))
    )
    """,
    # The organisations that a partner may send for, by what it writes in MSH-4.
    """
    CREATE TABLE sender_alias (
        sender_id uuid NOT NULL REFERENCES sender ON DELETE CASCADE,
        alias text NOT NULL,
        organisation_id uuid NOT NULL REFERENCES organisation,
        PRIMARY KEY (sender_id, alias)
    )
    """,
    """
    CREATE TABLE client (
        id text PRIMARY KEY,
        name text NOT NULL,
        organisation_id uuid NOT NULL REFERENCES organisation,
        secret_hash text,
        jwks text,
        scope text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        CHECK (num_nonnulls(secret_hash, jwks) = 1)
    )
    """,
    # Client assertions are good for one use (RFC 7523 section 3, jti).
    """
    CREATE TABLE client_assertion (
        client_id text NOT NULL REFERENCES client ON DELETE CASCADE,
        jti text NOT NULL,
        expires_at timestamptz NOT NULL,
        PRIMARY KEY (client_id, jti)
    )
    """,
    # The public halves of the keys that sign tokens; the private ones are secrets.
    """
    CREATE TABLE signing_key (
        kid text PRIMARY KEY,
        jwk text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    # What came in. seq is the order of receipt; raw is never changed.
    """
    CREATE TABLE message (
        id uuid PRIMARY KEY,
        seq bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
        sender_id uuid NOT NULL REFERENCES sender,
        organisation_id uuid NOT NULL REFERENCES organisation,
        team_id uuid REFERENCES team,
        control_id text NOT NULL,
        digest bytea NOT NULL,
        message_type text NOT NULL,
        received_at timestamptz NOT NULL,
        remote_address inet,
        raw bytea NOT NULL,
        ack_code text NOT NULL CHECK (ack_code IN ('AA', 'AE', 'AR')),
        ack bytea NOT NULL,
        status text NOT NULL
            CHECK (status IN ('received', 'applied', 'held', 'failed', 'unsupported', 'refused')),
        reason text,
        notes text[] NOT NULL DEFAULT '{}',
        control_id_reused boolean NOT NULL DEFAULT false,
        attempts int NOT NULL DEFAULT 0,
        patient_id uuid,
        settled_at timestamptz
    )
    """,
    "CREATE UNIQUE INDEX message_once ON message (sender_id, control_id, digest) WHERE ack_code = 'AA'",
    "CREATE INDEX message_waiting ON message (status, seq) WHERE status <> 'applied'",
    "CREATE INDEX message_patient ON message (patient_id, seq)",
    # A record, and the person whose it is: two records of one person are joined here, and nothing moves.
    """
    CREATE TABLE record (
        id uuid PRIMARY KEY,
        person_id uuid NOT NULL,
        created_at timestamptz NOT NULL
    )
    """,
    "CREATE INDEX record_person ON record (person_id)",
    # An identifier names one record. owner is the organisation for local numbers and all zeroes for national ones.
    """
    CREATE TABLE patient_identifier (
        owner uuid NOT NULL,
        system text NOT NULL,
        value text NOT NULL,
        patient_id uuid NOT NULL REFERENCES record,
        message_id uuid NOT NULL REFERENCES message,
        PRIMARY KEY (owner, system, value)
    )
    """,
    "CREATE INDEX patient_identifier_patient ON patient_identifier (patient_id)",
    # Identifiers that a held message waits for.
    """
    CREATE TABLE message_waits (
        message_id uuid NOT NULL REFERENCES message,
        owner uuid NOT NULL,
        system text NOT NULL,
        value text NOT NULL,
        PRIMARY KEY (owner, system, value, message_id)
    )
    """,
    # The current version of every resource, with what search needs in the row.
    """
    CREATE TABLE resource (
        id uuid PRIMARY KEY,
        type text NOT NULL,
        version int NOT NULL,
        last_updated timestamptz NOT NULL,
        patient_id uuid,
        organisations uuid[] NOT NULL,
        team_id uuid,
        label text NOT NULL DEFAULT 'general',
        message_id uuid,
        place text,
        seq bigint NOT NULL,
        source_time timestamptz NOT NULL,
        digest bytea NOT NULL,
        content text NOT NULL,
        keys bigint[] NOT NULL,
        date_from timestamptz,
        date_to timestamptz
    )
    """,
    "CREATE INDEX resource_patient ON resource (patient_id, type, date_from DESC)",
    "CREATE INDEX resource_type ON resource (type, last_updated, id)",
    "CREATE INDEX resource_keys ON resource USING gin (keys)",
    # Every version that was replaced, with the time for which it was the record.
    """
    CREATE TABLE resource_history (
        id uuid NOT NULL,
        version int NOT NULL,
        type text NOT NULL,
        valid_from timestamptz NOT NULL,
        valid_to timestamptz NOT NULL,
        patient_id uuid,
        organisations uuid[] NOT NULL,
        team_id uuid,
        label text NOT NULL,
        message_id uuid,
        place text,
        seq bigint NOT NULL,
        content text NOT NULL,
        PRIMARY KEY (id, version)
    )
    """,
    "CREATE INDEX resource_history_patient ON resource_history (patient_id, valid_from)",
    # Who did what to whose record. One line for what one message wrote: "type/id/version" each.
    """
    CREATE TABLE audit (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        at timestamptz NOT NULL DEFAULT now(),
        actor text NOT NULL,
        organisation_id uuid,
        action text NOT NULL,
        patient_id uuid,
        resource_type text,
        resource_id uuid,
        message_id uuid,
        query text,
        written text[]
    )
    """,
    "CREATE INDEX audit_patient ON audit (patient_id, at)",
    """
    CREATE TABLE outbox (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        topic text NOT NULL,
        ordering_key text NOT NULL,
        data bytea NOT NULL,
        attributes text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now()
    )
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
