"""SFTP servers for tests: OpenSSH's own where the machine has it, the product's small one, and a line that breaks."""

from __future__ import annotations

import contextlib
import getpass
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from carefolio.local import sftp_server
from tests.conftest import free_port

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"


@dataclass
class Server:
    port: int
    host_key: str
    user: str
    key: bytes


@contextlib.contextmanager
def small(root: Path) -> Iterator[Server]:
    host, public = sftp_server.new_key()
    user, _ = sftp_server.new_key()
    listening, port = sftp_server.serve(root, 0, host, user)
    yield Server(port, public, sftp_server.USER, user)
    listening.close()


@contextlib.contextmanager
def openssh(root: Path, home: Path) -> Iterator[Server]:
    """sshd for one user, as this machine's own account."""
    home.mkdir(mode=0o700, parents=True)
    host, public = sftp_server.new_key()
    user, user_public = sftp_server.new_key()
    for name, content in (("host", host), ("allowed", user_public.encode() + b"\n")):
        (home / name).touch(mode=0o600)
        (home / name).write_bytes(content)
    port = free_port()
    (home / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {home}/host\nAuthorizedKeysFile {home}/allowed\n"
        f"PidFile {home}/pid\nStrictModes no\nPermitRootLogin yes\nUsePAM no\nSubsystem sftp internal-sftp\n"
        f"ForceCommand internal-sftp -d {root}\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(home / "sshd_config")], stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield Server(port, public, getpass.getuser(), user)
    finally:
        process.terminate()
        process.wait()


@dataclass
class Line:
    """A TCP line to a server that ends, or falls silent, after so many bytes from it. None: it holds."""

    target: int
    cut_after: int | None = None
    silent_after: int | None = None
    port: int = 0
    _open: list[socket.socket] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._listening = socket.socket()
        self._listening.bind(("127.0.0.1", 0))
        self._listening.listen(8)
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.target))
            self._open += [client, server]
            threading.Thread(target=self._pump, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, True), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while block := source.recv(16384):
                passed += len(block)
                if counted and self.silent_after is not None and passed > self.silent_after:
                    time.sleep(60)
                    return
                if counted and self.cut_after is not None and passed > self.cut_after:
                    break
                sink.sendall(block)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for each in (self._listening, *self._open):
            with contextlib.suppress(OSError):
                each.close()
