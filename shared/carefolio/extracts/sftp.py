"""An SFTP server as EMIS runs one: slow, given to stalling, and with files that are still being written.

The host key is pinned. paramiko, with read-ahead and a large window: without them it waits for every 32 kB. All calls
block: run them in worker threads.
"""

from __future__ import annotations

import contextlib
import io
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import paramiko

    from carefolio.extracts.agreements import Agreement

_CONNECT_SECONDS = 30
# A server that says nothing for so long says nothing more (domain notes B3).
STALL_SECONDS = 120
_DEPTH = 8
_MOST_FILES = 100_000
_WINDOW = 64 * 1024 * 1024
_REQUEST = 255 * 1024
_AHEAD = 64


class FetchError(Exception):
    """The server could not be read; the text is for an operator. ``refused``: trying again would not help."""

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused


@dataclass(frozen=True, slots=True)
class Remote:
    """A file that lies there: path below the agreement's folder, size in bytes, time of its last change (seconds)."""

    path: str
    size: int
    changed: int


def host_key(line: str) -> tuple[str, str]:
    """(type, key) of a known_hosts line, with or without the host. Raises ValueError."""
    parts = line.split()
    for at, part in enumerate(parts[:-1]):
        if part.startswith(("ssh-", "ecdsa-")):
            return part, parts[at + 1]
    raise ValueError("a host key is a line as in known_hosts: ssh-ed25519 AAAA…")


def private_key(pem: bytes, passphrase: bytes = b"") -> paramiko.PKey:
    """An SSH key in PEM. Raises ValueError."""
    import paramiko

    kinds: tuple[Any, ...] = (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey)
    for kind in kinds:
        with contextlib.suppress(paramiko.SSHException, ValueError, UnicodeDecodeError, IndexError):
            made: paramiko.PKey = kind.from_private_key(
                io.StringIO(pem.decode() + "\n"), password=passphrase.decode() or None
            )
            return made
    raise ValueError("not an SSH private key that the passphrase opens")


class Session:
    """One connection, its folder that of the agreement."""

    def __init__(self, transport: paramiko.Transport, client: paramiko.SFTPClient) -> None:
        self._transport = transport
        self._client = client

    def listed(self) -> list[Remote]:
        """Every file below the folder. Raises FetchError."""
        with _told():
            start = self._client.normalize(".")
            found = list(self._walk(start, "", 0))
            self._client.chdir(start)
        return found

    def _walk(self, folder: str, below: str, depth: int) -> Iterator[Remote]:
        # Some of its versions list a path wrongly: go there first.
        self._client.chdir(folder)
        entries = self._client.listdir_attr(".")
        if len(entries) > _MOST_FILES:
            raise FetchError(f"more than {_MOST_FILES} files in one folder", refused=True)
        for entry in sorted(entries, key=lambda entry: entry.filename):
            path = f"{below}/{entry.filename}" if below else entry.filename
            if stat.S_ISDIR(entry.st_mode or 0):
                if depth < _DEPTH:
                    yield from self._walk(f"{folder}/{entry.filename}", path, depth + 1)
            else:
                yield Remote(path, int(entry.st_size or 0), int(entry.st_mtime or 0))

    def blocks(self, path: str, start: int, end: int) -> Iterator[bytes]:
        """The bytes of a file from ``start`` to ``end``. Raises FetchError where the server ends early or stalls."""
        with _told(), self._client.open(path, "rb") as file:
            file.MAX_REQUEST_SIZE = _REQUEST
            file.seek(start)
            file.prefetch(end, max_concurrent_requests=_AHEAD)
            at = start
            while at < end:
                # One answer's worth: more would be put together from several, which cost a third of the rate.
                block = file.read(min(_REQUEST, end - at))
                if not block:
                    raise FetchError("the file ended before its size")
                at += len(block)
                yield block

    def size(self, path: str) -> int:
        """How large a file is now."""
        with _told():
            return int(self._client.stat(path).st_size or 0)


@contextlib.contextmanager
def session(agreement: Agreement, key: bytes, passphrase: bytes, password: bytes) -> Iterator[Session]:
    """A session with the agreement's server. Raises FetchError; a host key that is not the pinned one is refused."""
    import paramiko

    try:
        connected = socket.create_connection((agreement.host, agreement.port), _CONNECT_SECONDS)
    except OSError as error:
        raise FetchError(
            f"no connection to {agreement.host}:{agreement.port}: {error.strerror or 'time-out'}"
        ) from None
    transport = paramiko.Transport(connected, default_window_size=_WINDOW, default_max_packet_size=_REQUEST)
    try:
        pinned = [host_key(line) for line in agreement.host_keys]
        options = transport.get_security_options()
        # Only what we hold a key for is offered, so that the server shows that one.
        options.key_types = [kind for kind in options.key_types if _family(kind) in {known for known, _ in pinned}]
        # One pass that enciphers and vouches, instead of a cipher and a checksum.
        options.ciphers = sorted(options.ciphers, key=lambda name: "gcm" not in name)
        transport.set_keepalive(30)
        with _told():
            transport.start_client(timeout=_CONNECT_SECONDS)
        shown = transport.get_remote_server_key()
        if (shown.get_name(), shown.get_base64()) not in pinned:
            raise FetchError("the server's host key is not the pinned one: nothing was sent to it", refused=True)
        try:
            if key:
                transport.auth_publickey(agreement.username, private_key(key, passphrase))
            else:
                transport.auth_password(agreement.username, password.decode())
        except paramiko.AuthenticationException:
            raise FetchError("the server does not let this user in", refused=True) from None
        with _told():
            client = paramiko.SFTPClient.from_transport(transport, window_size=_WINDOW, max_packet_size=_REQUEST)
            if client is None:
                raise FetchError("the server opens no SFTP session")
            channel = client.get_channel()
            if channel is not None:
                channel.settimeout(STALL_SECONDS)
            client.chdir(agreement.path)
        yield Session(transport, client)
    finally:
        transport.close()


def _family(kind: str) -> str:
    """rsa-sha2-512 is a signature by a key of type ssh-rsa."""
    return "ssh-rsa" if kind.startswith("rsa-sha2") else kind


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What goes wrong on the way, as one kind of error."""
    import paramiko

    try:
        yield
    except FetchError:
        raise
    except (TimeoutError, EOFError, ConnectionError) as error:
        reason = "the server stalled" if isinstance(error, TimeoutError) else "the server dropped the connection"
        raise FetchError(reason) from None
    except paramiko.ssh_exception.IncompatiblePeer:
        raise FetchError("the server has no host key of the pinned kind", refused=True) from None
    except paramiko.SSHException as error:
        raise FetchError(f"SSH: {type(error).__name__}") from None
    except OSError as error:
        raise FetchError(f"SFTP: {error.strerror or type(error).__name__}") from None
