"""Carers: invited by e-mail, with or without a record of their own; what they may do in the patient's name."""

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
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
