"""An installation on one machine: its folder, and the environment that its processes share."""

from __future__ import annotations

import json
import os
import secrets as random
from dataclasses import dataclass
from pathlib import Path

from carefolio.cloud import secrets
from carefolio.cloud.settings import settings
from carefolio.identity import sealed, tokens
from carefolio.local.postgres import Postgres

REPOSITORY = Path(__file__).resolve().parents[3]
PUSH_KEY = "push-key"
_PUSH_KEYS = "push-keys.json"


class InstallationError(Exception):
    """One clear sentence for a person at a terminal, with the way out."""


@dataclass(frozen=True, slots=True)
class Installation:
    """The folder ``home`` (CAREFOLIO_HOME) and the port of the one public door."""

    home: Path
    port: int

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    @property
    def postgres(self) -> Postgres:
        return Postgres(self.home)

    @property
    def internal_socket(self) -> Path:
        """Where functions that only the queue and the clock may call are served: no port of the machine."""
        return self.postgres.socket_folder / "internal"

    @property
    def archives(self) -> Path | None:
        """Where the way back is kept (ARCHIVE_DIR), on another disk than the home; None where none is."""
        folder = os.environ.get("ARCHIVE_DIR")
        return Path(folder).expanduser().resolve() if folder else None

    @property
    def practice_is_there(self) -> bool:
        """Whether the demonstration has a general practice (it needs gpg)."""
        return (self.home / "practice" / "practice.json").exists()

    def log(self, name: str) -> Path:
        return self.home / "log" / f"{name}.log"

    def enter(self) -> None:
        """Point this process, and those that it starts, at the installation; what is set already stays."""
        for name, value in self.environment().items():
            if name != "DATABASE_URL" or not os.environ.get("CLOUD_SQL_INSTANCE"):
                os.environ.setdefault(name, value)
        settings.cache_clear()

    def environment(self) -> dict[str, str]:
        """The settings (carefolio.cloud.settings) of its processes."""
        # What was proved of recovery lies beside the backups.
        proofs = {"OFFSITE_URL": str(self.archives)} if self.archives else {}
        return proofs | {
            "DATABASE_URL": self.postgres.url,
            "ENVIRONMENT": "local",
            "PUBLIC_URL": self.url,
            "PDS_URL": f"{self.url}/stand-in/pds/FHIR/R4",
            "PDS_TOKEN_URL": f"{self.url}/stand-in/pds/token",
            "PDS_CLIENT_ID": "carefolio",
            "ALSO_AT": f"http://127.0.0.1:{self.port}",
            "SECRETS_DIR": str(self.home / "secrets"),
            "IMPORT_HOSTS": "localhost 127.0.0.1",
            "PUSH_ISSUER": "https://dispatcher.local",
            "PUSH_AUDIENCE": "https://internal.local",
            "PUSH_SERVICE_ACCOUNT": "dispatcher@local",
            "MAIL_DIR": str(self.home / "mail"),
            "FILES_URL": str(self.home / "files"),
            "PUSH_KEYS": str(self.home / "secrets" / _PUSH_KEYS),
        }

    def make_secrets(self) -> None:
        """Make the keys that an installation needs, where they are not there yet."""
        folder = settings().secrets_dir
        if not (folder / "ordering-key").exists():
            secrets.write("ordering-key", random.token_bytes(32))
        if not (folder / tokens.SECRET).exists():
            secrets.write(tokens.SECRET, tokens.new_signing_keys())
        if not (folder / sealed.SECRET).exists():
            secrets.write(sealed.SECRET, sealed.new_key())
        # Only here: it brings along all that signs people in, which no other command needs.
        from carefolio.local import stand_in

        stand_in.make_keys()
        if not (folder / PUSH_KEY).exists():
            key = tokens.new_signing_key()
            public = {name: value for name, value in json.loads(key).items() if name != "d"}
            secrets.write(_PUSH_KEYS, json.dumps({"keys": [public]}).encode())
            secrets.write(PUSH_KEY, key)


def installation() -> Installation:
    """The one that the environment names: CAREFOLIO_HOME (else ``.local`` beside the code) and PORT (8080)."""
    home = os.environ.get("CAREFOLIO_HOME")
    port = os.environ.get("PORT") or "8080"
    if not port.isdigit() or not 1 <= int(port) <= 65535:
        raise InstallationError("PORT must be a number from 1 to 65535.")
    return Installation((Path(home) if home else REPOSITORY / ".local").expanduser().resolve(), int(port))
