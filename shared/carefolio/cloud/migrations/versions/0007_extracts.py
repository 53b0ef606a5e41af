"""EMIS extracts: agreements, their batches and files, the practices' rows as they stand, and what waits."""

from alembic import op

revision = "0007"
down_revision = "0006"

STATEMENTS = (
    # How an extract is fetched. Keys and passwords are secrets, not here.
    """
    CREATE TABLE agreement (
        id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        name text NOT NULL UNIQUE,
        guid uuid NOT NULL UNIQUE,
        host text NOT NULL,
        port int NOT NULL,
        host_keys text[] NOT NULL,
        username text NOT NULL,
        path text NOT NULL,
        schedule text NOT NULL,
        practices text[] NOT NULL DEFAULT '{}',
        signers text[] NOT NULL DEFAULT '{}',
        roll_off text NOT NULL CHECK (roll_off IN ('keep', 'remove')),
        stale_hours int NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        tried_at timestamptz NOT NULL DEFAULT now(),
        fetched_at timestamptz,
        trouble text,
        ended_at timestamptz
    )
    """,
    # A batch is known by its timestamp; number is the order in which batches are loaded.
    """
    CREATE TABLE extract_batch (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        number int GENERATED ALWAYS AS IDENTITY UNIQUE,
        agreement_id int NOT NULL REFERENCES agreement,
        stamp text NOT NULL,
        kind text NOT NULL CHECK (kind IN ('bulk', 'delta', '')),
        status text NOT NULL CHECK (status IN ('seen', 'landed', 'loading', 'loaded', 'failed')),
        stage text,
        reason text,
        retries int NOT NULL DEFAULT 0,
        alerts text[] NOT NULL DEFAULT '{}',
        seen_at timestamptz NOT NULL DEFAULT now(),
        landed_at timestamptz,
        verified_at timestamptz,
        loaded_at timestamptz,
        report jsonb,
        UNIQUE (agreement_id, stamp)
    )
    """,
    """
    CREATE TABLE extract_file (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        number int GENERATED ALWAYS AS IDENTITY UNIQUE,
        batch_id uuid NOT NULL REFERENCES extract_batch,
        table_name text NOT NULL,
        path text NOT NULL,
        remote_size bigint NOT NULL,
        status text NOT NULL CHECK (status IN ('seen', 'fetched', 'verified', 'failed')),
        object text,
        size bigint,
        sha256 bytea,
        plain_size bigint,
        plain_sha256 bytea,
        signed_by text,
        rows int,
        counts jsonb,
        extra text[] NOT NULL DEFAULT '{}',
        attempts int NOT NULL DEFAULT 0,
        reason text,
        seen_at timestamptz NOT NULL DEFAULT now(),
        fetched_at timestamptz,
        verified_at timestamptz,
        UNIQUE (batch_id, table_name)
    )
    """,
    # What is to be done for a batch, each in one transaction of its own.
    """
    CREATE TABLE extract_step (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        batch_id uuid NOT NULL REFERENCES extract_batch,
        stage text NOT NULL,
        subject jsonb NOT NULL,
        attempts int NOT NULL DEFAULT 0,
        result jsonb,
        done_at timestamptz
    )
    """,
    "CREATE INDEX extract_step_batch ON extract_step (batch_id, stage)",
    "CREATE INDEX extract_step_open ON extract_step (batch_id) WHERE done_at IS NULL",
    # A practice as the agreement's sharing file has it; the one of all zeroes stands for what is no practice's.
    """
    CREATE TABLE extract_practice (
        number int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        agreement_id int NOT NULL REFERENCES agreement,
        guid uuid NOT NULL,
        organisation_id uuid REFERENCES organisation,
        ods_code text NOT NULL DEFAULT '',
        name text NOT NULL DEFAULT '',
        activated boolean NOT NULL DEFAULT false,
        disabled boolean NOT NULL DEFAULT false,
        deleted boolean NOT NULL DEFAULT false,
        loaded_batch int,
        UNIQUE (agreement_id, guid)
    )
    """,
    # The practices' rows as they stand after the last batch. state: 0 it is so, 1 deleted, 2 a slot that was cleared.
    """
    CREATE TABLE extract_row (
        practice int NOT NULL,
        patient uuid NOT NULL,
        kind smallint NOT NULL,
        id uuid NOT NULL,
        parent uuid,
        batch int NOT NULL,
        file int NOT NULL,
        number int NOT NULL,
        processing bigint NOT NULL,
        state smallint NOT NULL,
        row text NOT NULL,
        PRIMARY KEY (practice, patient, kind, id)
    )
    """,
    "CREATE INDEX extract_row_parent ON extract_row (practice, parent) WHERE parent IS NOT NULL",
    # Slots change patients (kind 9: carefolio.emis.chunks.NUMBERS).
    "CREATE INDEX extract_row_slot ON extract_row (practice, id) WHERE kind = 9",
    """
    CREATE TABLE extract_code (
        agreement_id int NOT NULL REFERENCES agreement,
        drug boolean NOT NULL,
        id bigint NOT NULL,
        batch int NOT NULL,
        row text NOT NULL,
        PRIMARY KEY (agreement_id, drug, id)
    )
    """,
    # The rows that a delta touched, until it is loaded.
    """
    CREATE TABLE extract_change (
        batch int NOT NULL,
        practice int NOT NULL,
        patient uuid NOT NULL,
        kind smallint NOT NULL,
        id uuid NOT NULL
    )
    """,
    "CREATE INDEX extract_change_patient ON extract_change (batch, practice, patient)",
    # A practice's patient, and whose record that is.
    """
    CREATE TABLE extract_patient (
        practice int NOT NULL,
        patient uuid NOT NULL,
        record_id uuid REFERENCES record,
        status text NOT NULL CHECK (status IN ('loaded', 'ended', 'parked', 'dummy')),
        reason text,
        doubt text,
        since timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (practice, patient)
    )
    """,
    "CREATE INDEX extract_patient_record ON extract_patient (record_id)",
    # Rows and patients (row_id of all zeroes) that could not be applied, until they can or a person dismisses them.
    """
    CREATE TABLE extract_parked (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        practice int NOT NULL,
        patient uuid NOT NULL,
        kind smallint NOT NULL,
        row_id uuid NOT NULL,
        file int NOT NULL,
        number int NOT NULL,
        reason text NOT NULL,
        waits_for bigint,
        drug boolean NOT NULL DEFAULT false,
        doubt text,
        since timestamptz NOT NULL DEFAULT now(),
        dismissed_at timestamptz,
        dismissed_by text,
        dismissed_reason text,
        UNIQUE (practice, patient, kind, row_id)
    )
    """,
    "CREATE INDEX extract_parked_code ON extract_parked (waits_for) WHERE waits_for IS NOT NULL",
    # Concepts of the refsets that the NHS names sensitive, as an operator has loaded them.
    """
    CREATE TABLE sensitive_concept (
        concept bigint PRIMARY KEY,
        refset bigint NOT NULL,
        label text NOT NULL
    )
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
