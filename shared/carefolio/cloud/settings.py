"""Settings, read from the environment once."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Settings:
    """``environment`` is local, test, staging or production; ``public_url`` has no slash at its end."""

    environment: str
    function: str
    public_url: str
    also_at: tuple[str, ...]
    database_url: str
    cloud_sql_instance: str
    database_user: str
    database_name: str
    pool_size: int
    project: str
    secrets_dir: Path
    trusted_proxies: tuple[Network, ...]
    push_issuer: str
    push_account: str
    push_audience: str
    push_keys: str
    referential_integrity: bool
    enforce_profiles: bool
    statement_seconds: int
    trace_share: float
    otlp_endpoint: str
    smtp_url: str
    mail_from: str
    mail_dir: Path | None
    files_url: str
    region: str
    function_url: str
    pds_url: str
    pds_token_url: str
    pds_client_id: str
    clamd_address: str
    hl7_policy: str
    copies_urls: tuple[str, ...]
    offsite_url: str
    backed_up: str
    import_hosts: frozenset[str]
    secret_replicas: tuple[tuple[str, str], ...]

    @property
    def production(self) -> bool:
        return self.environment == "production"

    @property
    def embedded(self) -> bool:
        """Whether messages go through the embedded queue instead of Pub/Sub."""
        return not self.project


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The process's settings.

    Raises ValueError naming the variable that is wrong.
    """
    env = os.environ
    return Settings(
        environment=env.get("ENVIRONMENT", "local"),
        # Which of the functions this process is; one machine has several in one.
        function=env.get("FUNCTION_TARGET", ""),
        public_url=env.get("PUBLIC_URL", "http://127.0.0.1:8080").rstrip("/"),
        also_at=tuple(each.rstrip("/") for each in env.get("ALSO_AT", "").split()),
        database_url=env.get("DATABASE_URL", ""),
        cloud_sql_instance=env.get("CLOUD_SQL_INSTANCE", ""),
        database_user=env.get("DATABASE_USER", ""),
        database_name=env.get("DATABASE_NAME", "carefolio"),
        pool_size=_number("POOL_SIZE", 10),
        project=env.get("GOOGLE_CLOUD_PROJECT", ""),
        secrets_dir=Path(env.get("SECRETS_DIR", "/secrets")),
        trusted_proxies=_networks("TRUSTED_PROXIES"),
        push_issuer=env.get("PUSH_ISSUER", "https://accounts.google.com"),
        push_account=env.get("PUSH_SERVICE_ACCOUNT", ""),
        push_audience=env.get("PUSH_AUDIENCE", ""),
        push_keys=env.get("PUSH_KEYS", "https://www.googleapis.com/oauth2/v3/certs"),
        referential_integrity=env.get("REFERENTIAL_INTEGRITY", "") == "true",
        enforce_profiles=env.get("ENFORCE_PROFILES", "") == "true",
        statement_seconds=_number("STATEMENT_SECONDS", 30),
        trace_share=float(env.get("TRACE_SHARE", "0")),
        otlp_endpoint=env.get("OTEL_EXPORTER_OTLP_ENDPOINT", ""),
        smtp_url=env.get("SMTP_URL", ""),
        mail_from=env.get("MAIL_FROM", "Carefolio <no-reply@carefolio.invalid>"),
        mail_dir=Path(env["MAIL_DIR"]) if env.get("MAIL_DIR") else None,
        files_url=env.get("FILES_URL", "/files"),
        region=env.get("REGION", "europe-west2"),
        # Where a function is called inside the cloud; {function} stands for its name.
        function_url=env.get("FUNCTION_URL", "http://internal"),
        # The national register of patients; empty where no agreement lets us ask.
        pds_url=env.get("PDS_URL", "").rstrip("/"),
        pds_token_url=env.get("PDS_TOKEN_URL", ""),
        pds_client_id=env.get("PDS_CLIENT_ID", ""),
        clamd_address=env.get("CLAMD_ADDRESS", ""),
        # The load balancer's policy for the hospitals' door.
        hl7_policy=env.get("HL7_POLICY", ""),
        # Where a copy of each message lies before it is acknowledged: in another region; where that is away, the next
        # of them. Empty: on one machine.
        copies_urls=tuple(each.rstrip("/") for each in env.get("COPIES_URL", "").split()),
        # Where exports of the database and what recovery has proved are kept; and the Cloud SQL instance exported.
        offsite_url=env.get("OFFSITE_URL", "").rstrip("/"),
        backed_up=env.get("BACKED_UP", ""),
        # From which hosts $import may fetch; nobody is called that the operator has not named.
        import_hosts=frozenset(env.get("IMPORT_HOSTS", "").lower().split()),
        # By region the key that locks secrets there, for those that are made at run time.
        secret_replicas=_pairs("SECRET_REPLICAS"),
    )


def _pairs(name: str) -> tuple[tuple[str, str], ...]:
    pairs = tuple(part.partition("=") for part in os.environ.get(name, "").split())
    if any(not middle for _, middle, _ in pairs):
        raise ValueError(f"{name} is REGION=KEY ...")
    return tuple((left, right) for left, _, right in pairs)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if text and not text.isdigit():
        raise ValueError(f"{name} must be a whole number")
    return int(text) if text else default


def _networks(name: str) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(part) for part in os.environ.get(name, "").replace(",", " ").split())
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
