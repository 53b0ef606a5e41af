"""Where an extract's files lie until they are loaded: encrypted as they came, in segments so that a cut can be resumed.

A segment is there whole or not at all, so what a broken connection leaves is a number of whole segments.
"""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from carefolio.cloud import files

SEGMENT = 32 * 1024 * 1024

Blocks = Callable[[int, int], Iterator[bytes]]


def folder_of(agreement: int, stamp: str, table: str, size: int) -> str:
    """Where a file lands; one that has another size now lands elsewhere, and is not mixed with what it was."""
    return f"extracts/{agreement}/{stamp}/{table}-{size}"


def land(folder: str, size: int, blocks: Blocks) -> bytes:
    """Bring a file of ``size`` bytes by ``blocks(start, end)``; returns its SHA-256. Blocks.

    What is there from an earlier try is not brought again. Raises what ``blocks`` raises, and OSError.
    """
    hashed = hashlib.sha256()
    for number, start in enumerate(range(0, max(size, 1), SEGMENT)):
        end = min(start + SEGMENT, size)
        name = f"{folder}/{number:05}"
        if files.exists(name):
            with files.reader(name) as landed:
                while block := landed.read(1024 * 1024):
                    hashed.update(block)
            continue
        with files.writer(name) as file:
            for block in blocks(start, end):
                hashed.update(block)
                file.write(block)
    return hashed.digest()


class Landed(io.RawIOBase):
    """A landed file of ``size`` bytes, read from its first to its last, segment after segment."""

    def __init__(self, folder: str, size: int) -> None:
        super().__init__()
        self._names = (f"{folder}/{number:05}" for number in itertools.count())
        self._left = size
        self._open: Any = None
        self._file: Any = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self._left <= 0:
                return 0
            if self._file is None:
                self._open = files.reader(next(self._names))
                self._file = self._open.__enter__()
            block = self._file.read(len(buffer))
            if block:
                buffer[: len(block)] = block
                self._left -= len(block)
                return len(block)
            self._done()

    def _done(self) -> None:
        if self._open is not None:
            self._open.__exit__(None, None, None)
        self._open = self._file = None

    def close(self) -> None:
        self._done()
        super().close()


def forget(folder: str) -> None:
    """Remove what has landed of a file. Blocks."""
    files.remove(folder)
