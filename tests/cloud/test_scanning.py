"""A virus scanner that speaks clamd's protocol."""

from __future__ import annotations

import asyncio
import struct

import pytest

from carefolio.cloud import scanning
from carefolio.cloud.settings import settings

_EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR" + rb"-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"


async def _clamd(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    assert await reader.readuntil(b"\0") == b"zINSTREAM\0"
    content = b""
    while size := struct.unpack("!I", await reader.readexactly(4))[0]:
        content += await reader.readexactly(size)
    writer.write(b"stream: Eicar-Test-Signature FOUND\0" if b"EICAR" in content else b"stream: OK\0")
    await writer.drain()
    writer.close()


async def test_what_the_scanner_finds_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clean, found, and a scanner that is not there; without one, files are taken as they are."""
    assert await scanning.is_clean(_EICAR)
    server = await asyncio.start_server(_clamd, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    monkeypatch.setenv("CLAMD_ADDRESS", f"127.0.0.1:{port}")
    settings.cache_clear()
    try:
        assert await scanning.is_clean(b"%PDF-1.4" + b"x" * 200_000)
        assert not await scanning.is_clean(b"a" * 70_000 + _EICAR)
        server.close()
        await server.wait_closed()
        with pytest.raises(scanning.ScanError):
            await scanning.is_clean(b"x")
    finally:
        monkeypatch.undo()
        settings.cache_clear()
