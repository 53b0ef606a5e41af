"""The demonstration's general practice: its extract lies encrypted on a local SFTP server, and is pulled from there."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from carefolio.cloud import secrets
from carefolio.cloud.database import Pool
from carefolio.emis.errors import ExtractError
from carefolio.extracts import agreements
from carefolio.extracts.agreements import Wanted
from carefolio.local import practice
from carefolio.local.installation import Installation

AGREEMENT = "demonstration"
_FILE = "practice.json"
_SIZE = practice.Size(patients=12, observations=24)
_STAMPS = ("20261120020000", "20261121020000", "20261122020000")
_HOST_KEY, _USER_KEY = "demonstration-sftp-host", "demonstration-sftp-user"


@dataclass(frozen=True, slots=True)
class Keys:
    """An OpenPGP key pair, armoured."""

    private: str
    public: str
    fingerprint: str


def new_keys(home: Path, name: str, email: str) -> Keys:
    """Make a key in gpg's folder. Raises ExtractError where there is no gpg."""
    import gnupg

    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        gpg = gnupg.GPG(gnupghome=str(home))
    except OSError:
        raise ExtractError("gpg", "GnuPG is not installed (on Debian: apt-get install gnupg)") from None
    made = gpg.gen_key(
        gpg.gen_key_input(key_type="RSA", key_length=2048, name_real=name, name_email=email, no_protection=True)
    )
    if not made.fingerprint:
        raise ExtractError("gpg", "it made no key")
    private = gpg.export_keys(made.fingerprint, secret=True, passphrase="", expect_passphrase=False)
    return Keys(str(private), str(gpg.export_keys(made.fingerprint)), made.fingerprint)


def encrypter(home: Path, recipient: str, signer: str | None = None) -> Callable[[Path], Path]:
    """What encrypts a file as EMIS does: AES-256, SHA-256, with an integrity packet; signed where there is a signer."""

    def encrypt(path: Path) -> Path:
        out = path.with_name(path.name + ".gpg")
        signing = ["--sign", "--local-user", signer] if signer else []
        subprocess.run(
            ["gpg", "--homedir", str(home), "--batch", "--yes", "--quiet", "--trust-model", "always",
             "--cipher-algo", "AES256", "--digest-algo", "SHA256", *signing, "--recipient", recipient,
             "--output", str(out), "--encrypt", str(path)],
            check=True, capture_output=True,
        )  # fmt: skip
        return out

    return encrypt


def write_extract(folder: Path, size: practice.Size = _SIZE, *, share: float = 0.0) -> dict[str, Path]:
    """A bulk and two deltas in a folder each, encrypted and signed, with the keys beside them.

    Returns where the keys are: ``decrypt`` and ``verify``. Raises ExtractError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    keys = {"decrypt": folder / "decrypt.asc", "verify": folder / "verify.asc"}
    # gpg's sockets must have short paths.
    with tempfile.TemporaryDirectory(prefix="gpg-") as ring:
        home = Path(ring)
        ours = new_keys(home, "Carefolio", "extracts@example.org")
        theirs = new_keys(home, "Extract Services", "sender@example.org")
        keys["decrypt"].touch(mode=0o600)
        keys["decrypt"].write_text(ours.private)
        keys["verify"].write_text(theirs.public)
        encrypt = encrypter(home, ours.fingerprint, theirs.fingerprint)
        for night, stamp in enumerate(_STAMPS):
            rows = practice.delta(size, night, share) if night else practice.bulk(size)
            kind = "delta" if night else "bulk"
            below = folder / "sftp" / str(practice.AGREEMENT) / stamp
            practice.write_batch(below, kind, stamp, rows, processing=1 + night, encrypt=encrypt)
    return keys


def prepare(here: Installation) -> None:
    """Write the extract, and the keys of the SFTP server, where they are not there yet. Raises ExtractError."""
    folder = here.home / "practice"
    file = folder / _FILE
    if file.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    write_extract(folder)
    from carefolio.local import sftp_server

    host, public = sftp_server.new_key()
    user, _ = sftp_server.new_key()
    secrets.write(_HOST_KEY, host)
    secrets.write(_USER_KEY, user)
    listening, port = sftp_server.serve(folder / "sftp", 0, host, user)
    listening.close()
    file.write_text(json.dumps({"port": port, "host_key": public}))


def serve(here: Installation) -> bool:
    """Serve the extract from threads of this process; False where there is none, or its port is taken."""
    folder = here.home / "practice"
    if not (folder / _FILE).exists():
        return False
    from carefolio.local import sftp_server

    known = json.loads((folder / _FILE).read_text())
    try:
        sftp_server.serve(folder / "sftp", known["port"], secrets.read(_HOST_KEY), secrets.read(_USER_KEY))
    except OSError:
        return False
    return True


async def register(pool: Pool, here: Installation) -> None:
    """The agreement, as an operator would add it: fetched each minute, so that the clock brings it at once."""
    folder = here.home / "practice"
    known = json.loads((folder / _FILE).read_text())
    from carefolio.local import sftp_server

    wanted = Wanted(
        AGREEMENT,
        practice.AGREEMENT,
        host="127.0.0.1",
        port=known["port"],
        host_keys=[known["host_key"]],
        username=sftp_server.USER,
        ssh_key=secrets.read(_USER_KEY),
        decrypt_keys=[await asyncio.to_thread((folder / "decrypt.asc").read_bytes)],
        verify_keys=[await asyncio.to_thread((folder / "verify.asc").read_bytes)],
        schedule="* * * * *",
        stale_hours=1000,
    )
    await agreements.add(pool, wanted)
    # Due when the clock looks next: nobody waits a minute for a demonstration.
    await pool.execute("UPDATE agreement SET tried_at = tried_at - interval '1 minute' WHERE name = $1", wanted.name)


async def loaded(pool: Pool, within: float) -> bool:
    """Whether all of it is in the record, waiting so many seconds for it."""
    deadline = asyncio.get_running_loop().time() + within
    while asyncio.get_running_loop().time() < deadline:
        done = await pool.fetchval(
            "SELECT count(*) FROM extract_batch b JOIN agreement a ON a.id = b.agreement_id"
            " WHERE a.name = $1 AND b.status = 'loaded'",
            AGREEMENT,
        )
        if done == len(_STAMPS):
            return True
        await asyncio.sleep(0.2)
    return False
