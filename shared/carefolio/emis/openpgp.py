"""OpenPGP: a file is decrypted as a stream, and vouched for at its end, not before.

gpg itself does it (python-gnupg), with several private keys at once, so that a key can be changed while files for the
old one still come. An integrity packet is required (gpg 2.2 refuses a file without one); a signature that is there must
be good.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from carefolio.emis.errors import ExtractError

if TYPE_CHECKING:
    from gnupg import GPG


@dataclass(frozen=True, slots=True)
class Vouched:
    """How a file that decrypted was vouched for: by a good signature, or by its integrity packet alone."""

    signed_by: str | None


class Keyring:
    """A folder of gpg's with our private keys and the sender's public ones."""

    def __init__(self, home: Path) -> None:
        import gnupg

        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._gpg: GPG = gnupg.GPG(gnupghome=str(home), options=["--batch", "--no-auto-key-retrieve"])

    def add(self, key: str) -> list[str]:
        """Import an armoured key; returns the fingerprints. Raises ExtractError."""
        done = self._gpg.import_keys(key)
        if not done.fingerprints:
            raise ExtractError("key", "not an OpenPGP key")
        return list(dict.fromkeys(done.fingerprints))

    def decrypt(
        self,
        file: BinaryIO,
        take: Callable[[bytes], Any],
        place: str,
        *,
        passphrase: str = "",
        signers: frozenset[str] = frozenset(),
    ) -> Vouched:
        """Hand the plain bytes to ``take`` as they come. Raises ExtractError, and then nothing of them may be used.

        ``signers`` are the fingerprints whose signature is taken; where there are none a signature is not asked for,
        and one that is there must still be good.
        """

        def on_data(chunk: bytes) -> bool:
            take(chunk)
            # The library is not to keep what we have taken.
            return False

        self._gpg.on_data = on_data
        try:
            done = self._gpg.decrypt_file(file, passphrase=passphrase or None, always_trust=True)
        finally:
            self._gpg.on_data = None
        said = done.stderr or ""
        if not done.ok or "GOODMDC" not in said or "DECRYPTION_OKAY" not in said:
            raise ExtractError(place, f"it cannot be decrypted: {_reason(done.status, said)}")
        if "BADSIG" in said or "ERRSIG" in said or "EXPSIG" in said or "REVKEYSIG" in said:
            raise ExtractError(place, "its signature is not good")
        signer = str(done.pubkey_fingerprint or done.fingerprint or "") if "GOODSIG" in said else ""
        if signers and signer not in signers:
            raise ExtractError(place, "it is not signed by the sender's key")
        return Vouched(signer or None)


def _reason(status: str, said: str) -> str:
    """gpg's own word for what was wrong, which quotes nothing of the file."""
    for mark, reason in (
        ("NO_SECKEY", "none of our keys opens it"),
        ("BAD_PASSPHRASE", "the passphrase is wrong"),
        # As gpg-agent says it: GPG_ERR_BAD_PASSPHRASE (11) of its own source (4 << 24).
        ("pkdecrypt_failed 67108875", "the passphrase is wrong"),
        ("MISSING_PASSPHRASE", "the key wants a passphrase"),
        ("BADMDC", "it was changed"),
        ("NODATA", "it is no OpenPGP file"),
    ):
        if mark in said:
            return reason
    return "it is cut short or changed" if not status or "ok" in status else status
