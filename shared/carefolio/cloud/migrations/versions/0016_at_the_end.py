"""A subscription ends with the grant that it was made with; a large system is attached when all else is there."""

from alembic import op

revision = "0016"
down_revision = "0015"

# A database may have some of it from an earlier form of 0013 and 0014.
STATEMENTS = (
    "ALTER TABLE subscription ADD COLUMN IF NOT EXISTS grant_id uuid",
    "DROP FUNCTION IF EXISTS end_concepts",
    """
    CREATE OR REPLACE FUNCTION index_concepts(system int) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp SET maintenance_work_mem = '256MB' AS $$
    DECLARE
        made text := 'concept_' || system;
    BEGIN
        EXECUTE format('CREATE INDEX ON %I (system_id, code)', made);
        EXECUTE format('CREATE INDEX ON %I (system_id, number)', made);
        EXECUTE format('CREATE INDEX ON %I USING gin (above)', made);
        EXECUTE format('CREATE INDEX ON %I USING gin (words)', made);
        EXECUTE format('ANALYZE %I', made);
    END $$
    """,
    """
    CREATE OR REPLACE FUNCTION attach_concepts(system int) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
    BEGIN
        EXECUTE format('ALTER TABLE concept ATTACH PARTITION %I FOR VALUES IN (%s)', 'concept_' || system, system);
    END $$
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
