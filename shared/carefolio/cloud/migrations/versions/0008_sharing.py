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
        session_number uuid
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
    "CREATE INDEX record_frozen ON record (id) WHERE frozen_at IS NOT NULL",
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
    "ALTER TABLE account ADD COLUMN roles text[] NOT NULL DEFAULT '{}'",
    "ALTER TABLE account_team ADD COLUMN coordinator boolean NOT NULL DEFAULT false",
    "CREATE INDEX account_team_team ON account_team (team_id)",
    # The second lock: what is in a resource is told to a reader by these alone, and they know the rule by themselves
    # (carefolio.record.access has it in every SELECT). One call for a page. (Plans made anew took most of their time.)
    # A system:
    """
    CREATE FUNCTION open_contents(ids uuid[], versions int[], organisation uuid)
    RETURNS TABLE (id uuid, version int, content text)
    LANGUAGE sql STABLE SECURITY DEFINER ROWS 50 SET plan_cache_mode = force_generic_plan AS $$
        SELECT r.id, r.version, r.content FROM unnest($1, $2) AS asked (id, version)
        JOIN public.resource r ON r.id = asked.id AND r.version = asked.version
        LEFT JOIN public.record ON record.id = r.patient_id
        WHERE r.organisations @> ARRAY[$3] AND record.frozen_at IS NULL
        UNION ALL
        SELECT h.id, h.version, h.content FROM unnest($1, $2) AS asked (id, version)
        JOIN public.resource_history h ON h.id = asked.id AND h.version = asked.version
        LEFT JOIN public.record ON record.id = h.patient_id
        WHERE h.organisations @> ARRAY[$3] AND record.frozen_at IS NULL
    $$
    """,
    # And a person, whose facts are looked up once for each patient.
    """
    CREATE FUNCTION open_contents(ids uuid[], versions int[], organisation uuid, own uuid, account uuid)
    RETURNS TABLE (id uuid, version int, content text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 50 SET plan_cache_mode = force_generic_plan AS $$
    DECLARE
        v record;
        of_patient uuid;
        facts record;
        teams uuid[];
        grantees uuid[];
        his boolean;
        due boolean;
        opens boolean;
    BEGIN
        SELECT array_remove(array_agg(t.team_id), NULL), array_remove(array_agg(t.team_id), NULL) || a.id
        INTO teams, grantees FROM public.account a LEFT JOIN public.account_team t ON t.account_id = a.id
        WHERE a.id = $5 AND a.ended_at IS NULL GROUP BY a.id;
        FOR v IN
            SELECT r.id, r.version, r.content, r.patient_id, r.type, r.organisations, r.team_id, r.label,
                   r.confidential, r.available_from
            FROM unnest($1, $2) AS asked (id, version)
            JOIN public.resource r ON r.id = asked.id AND r.version = asked.version
            UNION ALL
            SELECT h.id, h.version, h.content, h.patient_id, h.type, h.organisations, h.team_id, h.label,
                   h.confidential, h.available_from
            FROM unnest($1, $2) AS asked (id, version)
            JOIN public.resource_history h ON h.id = asked.id AND h.version = asked.version
        LOOP
            due := v.available_from IS NULL OR v.available_from <= now();
            IF v.patient_id IS NULL THEN
                opens := v.organisations @> ARRAY[$3] OR v.type = ANY('{Device, HealthcareService, Location,
                    Medication, Organization, Practitioner, PractitionerRole, CareTeam}');
            ELSE
                IF v.patient_id IS DISTINCT FROM of_patient THEN
                    of_patient := v.patient_id;
                    SELECT mine.person_id, mine.frozen_at IS NOT NULL AS frozen, mine.sharing_off_at IS NOT NULL AS off,
                           EXISTS (SELECT FROM public.record o WHERE o.id = $4 AND o.person_id = mine.person_id) AS own,
                           shared.*
                    INTO facts FROM public.record mine LEFT JOIN LATERAL (
                        SELECT bool_or(s.contributed) AS contributed,
                               bool_or(counts AND cardinality(s.labels) > 0) AS some,
                               array_agg(l) FILTER (WHERE counts AND s.role <> 'carer') AS labels,
                               array_agg(l) FILTER (WHERE counts AND s.role <> 'carer' AND s.confidential)
                                   AS restricted,
                               array_agg(l) FILTER (WHERE counts AND s.role = 'carer') AS cared
                        FROM (
                            SELECT given.*, given.ends_at > now() AND CASE given.kind
                                WHEN 'glass' THEN EXISTS (
                                    SELECT FROM public.session o WHERE o.number = given.session_number
                                    AND o.ended_at IS NULL AND o.seen_at > now() - interval '30 minutes'
                                    AND o.created_at > now() - interval '12 hours'
                                )
                                WHEN 'implied' THEN NOT EXISTS (
                                    SELECT FROM public.record every
                                    JOIN public.sharing word ON word.record_id = every.id
                                    WHERE every.person_id = mine.person_id AND word.grantee = given.grantee
                                    AND word.kind = 'explicit' AND word.ended_at IS NULL
                                )
                                ELSE given.role <> 'carer' OR NOT EXISTS (
                                    SELECT FROM public.record kin
                                    JOIN public.resource grown ON grown.id = kin.id AND grown.type = 'Patient'
                                    WHERE kin.person_id = mine.person_id
                                    AND given.created_at < grown.date_from + interval '16 years'
                                    AND grown.date_from <= now() - interval '16 years'
                                ) END AS counts
                            FROM public.record known JOIN public.sharing given ON given.record_id = known.id
                            WHERE known.person_id = mine.person_id AND given.grantee = ANY(grantees)
                              AND given.ended_at IS NULL
                        ) s LEFT JOIN LATERAL unnest(s.labels) AS l ON true
                    ) shared ON true WHERE mine.id = v.patient_id;
                END IF;
                IF facts.frozen THEN
                    opens := false;
                ELSIF facts.own THEN
                    opens := due;
                ELSE
                    his := $4 IS NULL AND v.organisations @> ARRAY[$3] AND (
                        v.team_id IS NULL OR v.team_id = ANY(teams)
                        OR NOT EXISTS (SELECT FROM public.team WHERE team.id = v.team_id AND organisation_id = $3)
                    );
                    opens := his OR v.type = 'Patient' AND facts.contributed OR NOT facts.off AND (
                        v.type = 'Patient' AND facts.some
                        OR v.label = ANY(CASE WHEN v.confidential THEN facts.restricted ELSE facts.labels END)
                        OR v.label = ANY(facts.cared) AND due AND NOT v.confidential AND (
                            v.label <> 'sexual-health' OR NOT EXISTS (
                                SELECT FROM public.record kin
                                JOIN public.resource child ON child.id = kin.id AND child.type = 'Patient'
                                WHERE kin.person_id = facts.person_id AND age(now(), child.date_from) >= '11 years'
                                AND age(now(), child.date_from) < '16 years'
                            )
                        )
                    );
                END IF;
            END IF;
            IF opens THEN
                id := v.id;
                version := v.version;
                content := v.content;
                RETURN NEXT;
            END IF;
        END LOOP;
    END $$
    """,
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
    "CREATE INDEX audit_at ON audit USING brin (at)",
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
