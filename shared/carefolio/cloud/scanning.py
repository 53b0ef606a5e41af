"""Files that people add are looked through by ClamAV, where one is set up (CLAMD_ADDRESS, host:port).

https://docs.clamav.net/manual/Usage/Scanning.html#clamd : INSTREAM, chunks with their length before them.
"""

from __future__ import annotations

import asyncio
import struct

from carefolio.cloud.settings import settings

_CHUNK = 64 * 1024
_SECONDS = 30


class ScanError(Exception):
    """The scanner does not answer: what it has not seen is not taken."""


async def is_clean(content: bytes) -> bool:
    """Whether the scanner finds nothing in a file; True where there is no scanner. Raises ScanError."""
    address = settings().clamd_address
    if not address:
        return True
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(_SECONDS):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"zINSTREAM\0")
            for at in range(0, len(content), _CHUNK):
                piece = content[at : at + _CHUNK]
                writer.write(struct.pack("!I", len(piece)) + piece)
                await writer.drain()
            writer.write(struct.pack("!I", 0))
            await writer.drain()
            said = await reader.readuntil(b"\0")
            writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        raise ScanError("the virus scanner does not answer: try again later") from None
    if said.rstrip(b"\0").endswith(b"OK"):
        return True
    if b"FOUND" in said:
        return False
    raise ScanError("the virus scanner could not look through the file: try again later")
