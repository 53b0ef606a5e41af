"""Search by every parameter of FHIR R4, and resources that apps write."""

from alembic import op

revision = "0003"
down_revision = "0002"

STATEMENTS = (
    # What keys find, these tell exactly: texts of strings ("parameter value"), ranges of dates and numbers.
    "ALTER TABLE resource ADD COLUMN texts text[] NOT NULL DEFAULT '{}'",
    "ALTER TABLE resource ADD COLUMN ranges nummultirange NOT NULL DEFAULT '{}'",
    # What an app wrote last is not made again from messages.
    "ALTER TABLE resource ADD COLUMN by_app boolean NOT NULL DEFAULT false",
    # Apps register identifiers too.
    "ALTER TABLE patient_identifier ALTER COLUMN message_id DROP NOT NULL",
    # Histories of a type and of the whole server, the newest first.
    "CREATE INDEX resource_history_type ON resource_history (type, valid_from DESC)",
    "CREATE INDEX resource_updated ON resource USING brin (last_updated)",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
