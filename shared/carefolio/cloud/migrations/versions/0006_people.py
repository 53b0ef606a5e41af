"""People: accounts, their factors and sessions, the apps they allow, the providers they come from."""

from alembic import op

revision = "0006"
down_revision = "0005"

STATEMENTS = (
    # A patient's account opens one person's record, a professional's what his organisation may see.
    """
    CREATE TABLE account (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        kind text NOT NULL CHECK (kind IN ('patient', 'professional')),
        name text NOT NULL,
        email text,
        email_key text UNIQUE,
        email_verified_at timestamptz,
        record_id uuid REFERENCES record,
        organisation_id uuid REFERENCES organisation,
        practitioner_id uuid,
        password_hash text,
        totp_sealed bytea,
        totp_step bigint NOT NULL DEFAULT 0,
        must_enrol boolean NOT NULL DEFAULT false,
        created_at timestamptz NOT NULL DEFAULT now(),
        ended_at timestamptz,
        CHECK ((kind = 'patient') = (record_id IS NOT NULL)),
        CHECK ((kind = 'professional') = (organisation_id IS NOT NULL))
    )
    """,
    "CREATE UNIQUE INDEX account_record ON account (record_id) WHERE ended_at IS NULL",
    """
    CREATE TABLE account_team (
        account_id uuid NOT NULL REFERENCES account,
        team_id uuid NOT NULL REFERENCES team,
        PRIMARY KEY (account_id, team_id)
    )
    """,
    """
    CREATE TABLE passkey (
        credential_id bytea PRIMARY KEY,
        account_id uuid NOT NULL REFERENCES account,
        public_key bytea NOT NULL,
        sign_count bigint NOT NULL,
        name text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        used_at timestamptz
    )
    """,
    "CREATE INDEX passkey_account ON passkey (account_id)",
    # Who signs somebody in besides us: NHS login, CIS2, an organisation's own.
    """
    CREATE TABLE provider (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        name text NOT NULL UNIQUE,
        kind text NOT NULL CHECK (kind IN ('nhs-login', 'oidc', 'cis2', 'saml')),
        title text NOT NULL,
        issuer text NOT NULL,
        client_id text NOT NULL,
        key_sealed bytea,
        organisation_id uuid REFERENCES organisation,
        team_id uuid REFERENCES team,
        domains text[] NOT NULL DEFAULT '{}',
        settings text NOT NULL DEFAULT '{}',
        created_at timestamptz NOT NULL DEFAULT now(),
        ended_at timestamptz
    )
    """,
    """
    CREATE TABLE provider_identity (
        provider_id uuid NOT NULL REFERENCES provider,
        subject text NOT NULL,
        account_id uuid NOT NULL REFERENCES account,
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (provider_id, subject)
    )
    """,
    "CREATE INDEX provider_identity_account ON provider_identity (account_id)",
    # A sign-in on its way through a provider; it belongs to the browser that began it, and is good once.
    """
    CREATE TABLE provider_sign_in (
        state bytea PRIMARY KEY,
        provider_id uuid NOT NULL REFERENCES provider,
        visitor bytea NOT NULL,
        sealed bytea NOT NULL,
        expires_at timestamptz NOT NULL
    )
    """,
    # id is the digest of the cookie. stage: a second factor is awaited, one must be added, or it is open.
    """
    CREATE TABLE session (
        id bytea PRIMARY KEY,
        number uuid NOT NULL UNIQUE DEFAULT gen_random_uuid(),
        account_id uuid NOT NULL REFERENCES account,
        stage text NOT NULL CHECK (stage IN ('second', 'enrol', 'open')),
        level text NOT NULL CHECK (level IN ('none', 'weak', 'strong')),
        methods text[] NOT NULL,
        provider_id uuid REFERENCES provider,
        in_app boolean NOT NULL DEFAULT false,
        patient_id uuid,
        challenge bytea,
        code_digest bytea,
        code_expires_at timestamptz,
        agent text NOT NULL DEFAULT '',
        address inet,
        created_at timestamptz NOT NULL DEFAULT now(),
        authenticated_at timestamptz NOT NULL DEFAULT now(),
        seen_at timestamptz NOT NULL DEFAULT now(),
        ended_at timestamptz
    )
    """,
    "CREATE INDEX session_account ON session (account_id) WHERE ended_at IS NULL",
    # What is sent once and good once: links in letters, hand-overs, launches, registration tokens.
    """
    CREATE TABLE one_time (
        digest bytea PRIMARY KEY,
        purpose text NOT NULL,
        account_id uuid REFERENCES account,
        facts text NOT NULL DEFAULT '{}',
        created_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz NOT NULL,
        used_at timestamptz
    )
    """,
    "CREATE INDEX one_time_account ON one_time (account_id, purpose)",
    """
    CREATE TABLE invitation (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        digest bytea NOT NULL UNIQUE,
        kind text NOT NULL CHECK (kind IN ('patient', 'professional')),
        record_id uuid REFERENCES record,
        organisation_id uuid REFERENCES organisation,
        teams uuid[] NOT NULL DEFAULT '{}',
        name text NOT NULL DEFAULT '',
        email text,
        tries int NOT NULL DEFAULT 0,
        created_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz NOT NULL,
        used_at timestamptz
    )
    """,
    # Mail to be sent; sealed, and gone when it is sent.
    """
    CREATE TABLE letter (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        kind text NOT NULL,
        sealed bytea,
        created_at timestamptz NOT NULL DEFAULT now(),
        sent_at timestamptz
    )
    """,
    """
    CREATE TABLE throttle (
        key bytea PRIMARY KEY,
        attempts int NOT NULL,
        last_at timestamptz NOT NULL,
        blocked_until timestamptz NOT NULL
    )
    """,
    """
    CREATE TABLE security_event (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        at timestamptz NOT NULL DEFAULT now(),
        kind text NOT NULL,
        account_id uuid,
        client_id text,
        address inet,
        detail text
    )
    """,
    "CREATE INDEX security_event_at ON security_event (at)",
    "CREATE INDEX security_event_account ON security_event (account_id, at)",
    # Apps.
    "ALTER TABLE client DROP CONSTRAINT client_check",
    """
    ALTER TABLE client
        ADD COLUMN public boolean NOT NULL DEFAULT false,
        ADD COLUMN redirect_uris text[] NOT NULL DEFAULT '{}',
        ADD COLUMN grants text[] NOT NULL DEFAULT '{client_credentials}',
        ADD COLUMN jwks_uri text,
        ADD COLUMN launch_uri text,
        ADD COLUMN created_by text NOT NULL DEFAULT '',
        ADD CONSTRAINT client_credential
            CHECK (num_nonnulls(secret_hash, jwks, jwks_uri) = CASE WHEN public THEN 0 ELSE 1 END)
    """,
    # What a person allowed an app: the family of all tokens that come of it.
    """
    CREATE TABLE app_grant (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        account_id uuid NOT NULL REFERENCES account,
        client_id text NOT NULL REFERENCES client,
        scope text NOT NULL,
        patient_id uuid,
        session_id bytea,
        nonce text,
        methods text[] NOT NULL,
        level text NOT NULL,
        authenticated_at timestamptz NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz NOT NULL,
        used_at timestamptz,
        ended_at timestamptz
    )
    """,
    "CREATE INDEX app_grant_account ON app_grant (account_id, client_id)",
    "CREATE INDEX app_grant_ended ON app_grant (ended_at) WHERE ended_at IS NOT NULL",
    """
    CREATE TABLE authorization_code (
        digest bytea PRIMARY KEY,
        grant_id uuid NOT NULL REFERENCES app_grant ON DELETE CASCADE,
        redirect_uri text NOT NULL,
        challenge text,
        expires_at timestamptz NOT NULL,
        used_at timestamptz
    )
    """,
    """
    CREATE TABLE refresh_token (
        digest bytea PRIMARY KEY,
        grant_id uuid NOT NULL REFERENCES app_grant ON DELETE CASCADE,
        created_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz NOT NULL,
        used_at timestamptz
    )
    """,
    """
    CREATE TABLE device_code (
        digest bytea PRIMARY KEY,
        user_code text NOT NULL UNIQUE,
        client_id text NOT NULL REFERENCES client,
        scope text NOT NULL,
        grant_id uuid REFERENCES app_grant ON DELETE CASCADE,
        refused boolean NOT NULL DEFAULT false,
        expires_at timestamptz NOT NULL,
        polled_at timestamptz,
        used_at timestamptz
    )
    """,
    # An authorization request that waits for its person (and one that was pushed: RFC 9126).
    """
    CREATE TABLE authorization_request (
        digest bytea PRIMARY KEY,
        client_id text NOT NULL REFERENCES client,
        parameters text NOT NULL,
        expires_at timestamptz NOT NULL
    )
    """,
    # Who a hospital system's user is here, for hand-overs.
    """
    CREATE TABLE hand_over_pair (
        client_id text NOT NULL REFERENCES client,
        username text NOT NULL,
        account_id uuid NOT NULL REFERENCES account,
        PRIMARY KEY (client_id, username)
    )
    """,
    # A key is published before it signs and as long as what it signed may live.
    """
    ALTER TABLE signing_key ADD COLUMN retired_at timestamptz
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
