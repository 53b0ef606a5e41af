"""OpenPGP by the machine's own gpg: keys of ours and of a sender, made for the test."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from carefolio.emis.errors import ExtractError
from carefolio.emis.openpgp import Keyring

pytestmark = pytest.mark.skipif(not shutil.which("gpg"), reason="gpg is not on this machine")
PLAIN = b'"ObservationGuid"\r\n' + b'"{11111111-2222-3333-4444-555555555555}"\r\n' * 20_000


@dataclass
class Sender:
    """The other side: gpg, with keys of its own."""

    home: Path

    def gpg(self, *arguments: str, stdin: bytes = b"") -> bytes:
        command = ["gpg", "--homedir", str(self.home), "--batch", "--yes", "--trust-model", "always",
                   "--pinentry-mode", "loopback", "--passphrase", "", *arguments]  # fmt: skip
        return subprocess.run(command, input=stdin, capture_output=True, check=True).stdout

    def key(self, name: str) -> tuple[str, str, str]:
        """Fingerprint, private and public key of a new pair."""
        self.gpg("--quick-gen-key", name, "default", "default", "never")
        listed = self.gpg("--with-colons", "--list-keys", name).decode()
        fingerprint = next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr"))
        return (fingerprint, self.gpg("--armor", "--export-secret-keys", fingerprint).decode(),
                self.gpg("--armor", "--export", fingerprint).decode())  # fmt: skip


@dataclass
class Keys:
    sender: Sender
    ours: tuple[str, str, str]
    older: tuple[str, str, str]
    theirs: tuple[str, str, str]
    stranger: tuple[str, str, str]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    home = tmp_path_factory.mktemp("g")
    home.chmod(0o700)
    sender = Sender(home)
    yield Keys(sender, *(sender.key(f"{name}@example.org") for name in ("ours", "older", "theirs", "stranger")))
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)


@pytest.fixture
def keyring(keys: Keys, tmp_path: Path) -> Iterator[Keyring]:
    made = Keyring(tmp_path / "k")
    for key in (keys.ours[1], keys.older[1], keys.theirs[2]):
        made.add(key)
    yield made
    subprocess.run(["gpgconf", "--homedir", str(tmp_path / "k"), "--kill", "all"], check=False)


def decrypted(keyring: Keyring, content: bytes, **options: object) -> tuple[bytes, str | None]:
    taken: list[bytes] = []
    vouched = keyring.decrypt(io.BytesIO(content), taken.append, "Admin_Patient", **options)  # type: ignore[arg-type]
    return b"".join(taken), vouched.signed_by


def test_a_file_for_any_of_our_keys_is_decrypted(keys: Keys, keyring: Keyring) -> None:
    for key in (keys.ours, keys.older):
        content = keys.sender.gpg("--encrypt", "--recipient", key[0], stdin=PLAIN)
        assert decrypted(keyring, content) == (PLAIN, None)


def test_a_signature_is_verified(keys: Keys, keyring: Keyring) -> None:
    ours, theirs = keys.ours[0], keys.theirs[0]
    signed = keys.sender.gpg("--encrypt", "--sign", "--local-user", theirs, "--recipient", ours, stdin=PLAIN)
    assert decrypted(keyring, signed, signers=frozenset({theirs})) == (PLAIN, theirs)
    strange = keys.sender.gpg("--encrypt", "--sign", "--local-user", keys.stranger[0], "--recipient", ours, stdin=PLAIN)
    unsigned = keys.sender.gpg("--encrypt", "--recipient", ours, stdin=PLAIN)
    for content in (strange, unsigned):
        with pytest.raises(ExtractError) as error:
            decrypted(keyring, content, signers=frozenset({theirs}))
        assert "sign" in error.value.reason


def test_what_is_cut_changed_or_not_ours_is_refused(keys: Keys, keyring: Keyring) -> None:
    good = keys.sender.gpg("--encrypt", "--recipient", keys.ours[0], stdin=PLAIN)
    changed = bytearray(good)
    changed[-40] ^= 1
    strange = keys.sender.gpg("--encrypt", "--recipient", keys.stranger[0], stdin=PLAIN)
    without_integrity = keys.sender.gpg(
        "--rfc2440", "--disable-mdc", "--encrypt", "--recipient", keys.ours[0], stdin=PLAIN
    )
    for content in (good[: len(good) // 2], good[:-1], bytes(changed), strange, without_integrity, b"rubbish", b""):
        with pytest.raises(ExtractError) as error:
            decrypted(keyring, content)
        assert error.value.place == "Admin_Patient"
        assert "11111111" not in str(error.value)


def test_what_is_no_key_is_refused(keyring: Keyring) -> None:
    with pytest.raises(ExtractError):
        keyring.add("no key")
