"""An SFTP server over one folder, read-only, for one user with one key: the demonstration's stand-in for EMIS's.

paramiko's server side; OpenSSH's own takes part in the tests.
"""

from __future__ import annotations

import io
import os
import socket
import threading
from pathlib import Path
from typing import Any

import paramiko

USER = "carefolio"


class _Door(paramiko.ServerInterface):  # type: ignore[misc]
    def __init__(self, allowed: paramiko.PKey) -> None:
        self._allowed = allowed

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        known = username == USER and key.asbytes() == self._allowed.asbytes()
        return int(paramiko.AUTH_SUCCESSFUL if known else paramiko.AUTH_FAILED)

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_channel_request(self, kind: str, chanid: int) -> int:
        if kind == "session":
            return int(paramiko.OPEN_SUCCEEDED)
        return int(paramiko.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED)


class _Folder(paramiko.SFTPServerInterface):  # type: ignore[misc]
    def __init__(self, server: Any, *_: Any, root: Path) -> None:
        super().__init__(server)
        self._root = root

    def _real(self, path: str) -> Path:
        # Below the root, whatever dots a client sends.
        return self._root / os.path.normpath("/" + path).lstrip("/")

    def list_folder(self, path: str) -> Any:
        try:
            entries = sorted(self._real(path).iterdir())
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)
        return [paramiko.SFTPAttributes.from_stat(entry.stat(), entry.name) for entry in entries]

    def stat(self, path: str) -> Any:
        try:
            return paramiko.SFTPAttributes.from_stat(self._real(path).stat())
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)

    lstat = stat

    def open(self, path: str, flags: int, attr: Any) -> Any:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
            return paramiko.SFTP_PERMISSION_DENIED
        try:
            file = self._real(path).open("rb")
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)
        handle = paramiko.SFTPHandle(flags)
        handle.readfile = file
        return handle


def serve(root: Path, port: int, host_key: bytes, allowed: bytes) -> tuple[socket.socket, int]:
    """Serve a folder on 127.0.0.1 from threads of this process, until the socket is closed; returns it and its port."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", port))
    listening.listen(8)
    own = paramiko.Ed25519Key.from_private_key(io.StringIO(host_key.decode()))
    user = paramiko.Ed25519Key.from_private_key(io.StringIO(allowed.decode()))

    def answer(connection: socket.socket) -> None:
        transport = paramiko.Transport(connection)
        transport.add_server_key(own)
        transport.set_subsystem_handler("sftp", paramiko.SFTPServer, _Folder, root=root)
        try:
            transport.start_server(server=_Door(user))
            transport.join()
        except (paramiko.SSHException, EOFError, OSError):
            transport.close()

    def accept() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listening, int(listening.getsockname()[1])


def new_key() -> tuple[bytes, str]:
    """A new Ed25519 key in OpenSSH's PEM, and its public line."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    made = Ed25519PrivateKey.generate()
    pem = made.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    line = made.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return pem, line.decode()
