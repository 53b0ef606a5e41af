"""The record as it stood is searched like the present one; search parameters of one's own; writes end themselves."""

from alembic import op

revision = "0004"
down_revision = "0003"

STATEMENTS = (
    "ALTER TABLE resource_history ADD COLUMN keys bigint[] NOT NULL DEFAULT '{}'",
    "ALTER TABLE resource_history ADD COLUMN date_from timestamptz",
    "ALTER TABLE resource_history ADD COLUMN date_to timestamptz",
    "ALTER TABLE resource_history ADD COLUMN texts text[] NOT NULL DEFAULT '{}'",
    "ALTER TABLE resource_history ADD COLUMN ranges nummultirange NOT NULL DEFAULT '{}'",
    "CREATE INDEX resource_history_keys ON resource_history USING gin (keys)",
    # What waits to be sorted into the index is read by every search: measured, the default of 4 MB made searches that
    # follow writes three times slower, and writes are no slower with less.
    "ALTER INDEX resource_keys SET (gin_pending_list_limit = 128)",
    "ALTER INDEX resource_history_keys SET (gin_pending_list_limit = 128)",
    # Patients by date of birth, and other types by their main date, where no patient is named.
    "CREATE INDEX resource_date ON resource (type, date_from) WHERE date_from IS NOT NULL",
    # A SearchParameter resource of an organisation, as it is indexed. indexed_to is how far the present record is done.
    """
    CREATE TABLE search_parameter (
        id uuid PRIMARY KEY,
        organisation_id uuid NOT NULL REFERENCES organisation,
        code text NOT NULL,
        base text[] NOT NULL,
        type text NOT NULL,
        expression text NOT NULL,
        target text[] NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        indexed_to uuid,
        indexed_at timestamptz,
        UNIQUE (organisation_id, code)
    )
    """,
    # Ends a statement that found that it must not be (carefolio.record.write).
    """
    CREATE FUNCTION abort_write(code text) RETURNS int LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION USING ERRCODE = code, MESSAGE = 'the write is not to be'; END $$
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
