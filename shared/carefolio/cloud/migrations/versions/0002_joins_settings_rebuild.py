"""Records of one person are joined, senders have settings, codes are mapped, and a record can be rebuilt."""

from alembic import op

revision = "0002"
down_revision = "0001"

STATEMENTS = (
    # A sender's settings are one JSON document (carefolio.identity.sender_settings); every change is a version.
    "ALTER TABLE sender ADD COLUMN settings text NOT NULL DEFAULT '{}'",
    "ALTER TABLE sender ADD COLUMN settings_version int NOT NULL DEFAULT 0",
    """UPDATE sender SET settings = '{"auto_create": true}' WHERE auto_create""",
    "ALTER TABLE sender DROP COLUMN auto_create",
    """
    CREATE TABLE sender_settings (
        sender_id uuid NOT NULL REFERENCES sender,
        version int NOT NULL,
        settings text NOT NULL,
        actor text NOT NULL,
        at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (sender_id, version)
    )
    """,
    # An organisation's own codes, and what they mean; without a target it is work for a person.
    """
    CREATE TABLE local_code (
        organisation_id uuid NOT NULL REFERENCES organisation,
        system text NOT NULL,
        code text NOT NULL,
        display text NOT NULL,
        message_id uuid,
        seen_at timestamptz NOT NULL DEFAULT now(),
        target_system text,
        target_code text,
        target_display text,
        solved_by text,
        solved_at timestamptz,
        PRIMARY KEY (organisation_id, system, code)
    )
    """,
    # Grows with every code that is solved, so that a process knows when what it remembers is old.
    "ALTER TABLE organisation ADD COLUMN codes_version int NOT NULL DEFAULT 0",
    # The order in which the record was changed, by messages and by people.
    "CREATE SEQUENCE change_seq",
    "ALTER TABLE message ADD COLUMN applied_seq bigint",
    "UPDATE message SET applied_seq = seq WHERE status = 'applied'",
    "SELECT setval('change_seq', coalesce((SELECT max(seq) FROM message), 0) + 1)",
    # Messages about more than one patient; what happened to a message on its way; a person's word about it.
    "ALTER TABLE message ADD COLUMN other_patients uuid[] NOT NULL DEFAULT '{}'",
    "CREATE INDEX message_other_patients ON message USING gin (other_patients) WHERE other_patients <> '{}'",
    "ALTER TABLE message ADD COLUMN life jsonb NOT NULL DEFAULT '[]'",
    "ALTER TABLE message ADD COLUMN moved_to uuid",
    "CREATE INDEX message_moved ON message (moved_to) WHERE moved_to IS NOT NULL",
    "ALTER TABLE message ADD COLUMN doubt text",
    "ALTER TABLE message DROP CONSTRAINT message_status_check",
    """
    ALTER TABLE message ADD CONSTRAINT message_status_check
        CHECK (status IN ('received', 'applied', 'held', 'failed', 'unsupported', 'refused', 'rejected'))
    """,
    # What people decided; together with the messages it shapes the record, in the order of seq.
    """
    CREATE TABLE decision (
        id uuid PRIMARY KEY,
        seq bigint NOT NULL DEFAULT nextval('change_seq'),
        at timestamptz NOT NULL DEFAULT now(),
        actor text NOT NULL,
        kind text NOT NULL,
        message_id uuid,
        patients uuid[] NOT NULL DEFAULT '{}',
        doubt text,
        details text NOT NULL DEFAULT '{}'
    )
    """,
    "CREATE INDEX decision_patients ON decision USING gin (patients)",
    "CREATE INDEX decision_doubt ON decision (doubt) WHERE doubt IS NOT NULL",
    # Two records of one person. person_id of a record follows from the links that are not undone.
    """
    CREATE TABLE record_link (
        id uuid PRIMARY KEY,
        survivor uuid NOT NULL REFERENCES record,
        other uuid NOT NULL REFERENCES record,
        kind text NOT NULL CHECK (kind IN ('merge', 'link')),
        message_id uuid,
        actor text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        undone_at timestamptz,
        undone_by text,
        undone_message_id uuid,
        CHECK (survivor <> other)
    )
    """,
    "CREATE UNIQUE INDEX record_link_once ON record_link (survivor, other) WHERE undone_at IS NULL",
    "CREATE INDEX record_link_other ON record_link (other)",
    # A key that a sender has changed (a visit's number): the id that would be derived from it, and the one it has.
    """
    CREATE TABLE resource_alias (
        id uuid PRIMARY KEY,
        target uuid NOT NULL
    )
    """,
    # An e-mail address sits on one record only.
    """
    CREATE TABLE patient_email (
        email text PRIMARY KEY,
        patient_id uuid NOT NULL REFERENCES record
    )
    """,
    "CREATE INDEX patient_email_patient ON patient_email (patient_id)",
    # When the patient may see it, where that is not at once.
    "ALTER TABLE resource ADD COLUMN available_from timestamptz",
    "ALTER TABLE resource_history ADD COLUMN available_from timestamptz",
    # A deletion is a version without content, valid until the resource comes back.
    "ALTER TABLE resource_history ALTER COLUMN content DROP NOT NULL",
    "CREATE INDEX resource_history_gone ON resource_history (id) WHERE valid_to = 'infinity'",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
