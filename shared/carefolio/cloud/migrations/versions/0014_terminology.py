"""Code systems, value sets, concept maps and profiles: what an operator loads, and what organisations post."""

from alembic import op

revision = "0014"
down_revision = "0013"

STATEMENTS = (
    # Without an organisation it is everybody's; ``resource_id`` where an app posted it. ``content`` has no concepts.
    """
    CREATE TABLE canonical (
        id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        kind text NOT NULL,
        url text NOT NULL,
        version text NOT NULL,
        organisation_id uuid REFERENCES organisation,
        resource_id uuid UNIQUE,
        source text NOT NULL,
        content jsonb NOT NULL,
        concepts int NOT NULL DEFAULT 0,
        ready boolean NOT NULL DEFAULT false,
        loaded_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    "CREATE INDEX canonical_url ON canonical (kind, url) WHERE ready",
    "CREATE INDEX canonical_source ON canonical (source)",
    # ``number`` is a concept's within its system; ``above`` are the numbers of all that it is a kind of (of reference
    # sets that it is in, negative); ``words`` are those of all its names.
    """
    CREATE TABLE concept (
        system_id int NOT NULL,
        code text NOT NULL,
        number int NOT NULL,
        display text NOT NULL,
        active boolean NOT NULL,
        parents int[] NOT NULL,
        above int[] NOT NULL,
        names jsonb,
        properties jsonb,
        words tsvector NOT NULL
    ) PARTITION BY LIST (system_id)
    """,
    # Small systems together; a large one has a table of its own, which is indexed when it is full, and goes at once.
    "CREATE TABLE concept_small PARTITION OF concept DEFAULT",
    "CREATE INDEX concept_small_code ON concept_small (system_id, code)",
    "CREATE INDEX concept_small_number ON concept_small (system_id, number)",
    """
    CREATE FUNCTION begin_concepts(system int) RETURNS text LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
    DECLARE
        made text := 'concept_' || system;
        grantee text;
    BEGIN
        EXECUTE format('CREATE TABLE %I (LIKE concept)', made);
        EXECUTE format('ALTER TABLE %I ADD CHECK (system_id = %s)', made, system);
        -- Whoever may write concepts may fill it.
        FOR grantee IN SELECT DISTINCT g.grantee FROM information_schema.role_table_grants g
                       WHERE g.table_schema = 'public' AND g.table_name = 'concept' AND g.privilege_type = 'INSERT'
        LOOP
            EXECUTE format('GRANT SELECT, INSERT ON %I TO %I', made, grantee);
        END LOOP;
        RETURN made;
    END $$
    """,
    """
    CREATE FUNCTION end_concepts(system int) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp SET maintenance_work_mem = '256MB' AS $$
    DECLARE
        made text := 'concept_' || system;
    BEGIN
        EXECUTE format('CREATE INDEX ON %I (system_id, code)', made);
        EXECUTE format('CREATE INDEX ON %I (system_id, number)', made);
        EXECUTE format('CREATE INDEX ON %I USING gin (above)', made);
        EXECUTE format('CREATE INDEX ON %I USING gin (words)', made);
        EXECUTE format('ANALYZE %I', made);
        EXECUTE format('ALTER TABLE concept ATTACH PARTITION %I FOR VALUES IN (%s)', made, system);
    END $$
    """,
    """
    CREATE FUNCTION drop_concepts(system int) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
    BEGIN
        EXECUTE format('DROP TABLE IF EXISTS %I', 'concept_' || system);
        DELETE FROM concept WHERE system_id = system;
    END $$
    """,
    """
    CREATE TABLE concept_map_element (
        map_id int NOT NULL REFERENCES canonical ON DELETE CASCADE,
        source_system text NOT NULL,
        source_code text NOT NULL,
        target_system text NOT NULL,
        target_code text NOT NULL,
        target_display text,
        equivalence text NOT NULL
    )
    """,
    "CREATE INDEX concept_map_element_source ON concept_map_element (map_id, source_code)",
    "CREATE INDEX concept_map_element_target ON concept_map_element (map_id, target_code)",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
