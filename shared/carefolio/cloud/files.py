"""Files in a bucket (``gs://…``) or in a folder, through fsspec; what is written is there whole or not at all.

``at`` is another place than that of FILES_URL: where copies and exports are kept. The calls block: run them in worker
threads.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, BinaryIO, cast

from carefolio.cloud.settings import settings

_BLOCK = 4 * 1024 * 1024


@lru_cache(maxsize=4)
def _place(url: str) -> tuple[Any, str]:
    import fsspec

    # Other instances write too: what was listed a moment ago is no answer.
    filesystem, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    return filesystem, root.rstrip("/")


def _here(at: str | None) -> tuple[Any, str]:
    return _place(at or settings().files_url)


@contextlib.contextmanager
def reader(name: str, at: str | None = None) -> Iterator[BinaryIO]:
    """The file of this name, read from its beginning. Raises FileNotFoundError."""
    filesystem, root = _here(at)
    with filesystem.open(f"{root}/{name}", "rb", block_size=_BLOCK) as file:
        yield cast(BinaryIO, file)


@contextlib.contextmanager
def writer(name: str, at: str | None = None) -> Iterator[BinaryIO]:
    """A file that gets its name when all of it is written; where writing fails there is none. Raises OSError."""
    filesystem, root = _here(at)
    path = f"{root}/{name}"
    if "file" not in _protocols(filesystem):
        # An object appears when it is closed.
        file = filesystem.open(path, "wb", block_size=_BLOCK)
        try:
            yield cast(BinaryIO, file)
        except BaseException:
            file.discard()
            raise
        file.close()
        return
    # Not in a bucket: it would be looked for, which is more than who may only add objects may do.
    filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
    meanwhile = f"{path}.{uuid.uuid4().hex}.part"
    try:
        with filesystem.open(meanwhile, "wb") as file:
            yield cast(BinaryIO, file)
        filesystem.mv(meanwhile, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            filesystem.rm(meanwhile)
        raise


def read(name: str, at: str | None = None) -> bytes:
    """All of a small file. Raises FileNotFoundError."""
    with reader(name, at) as file:
        return file.read()


def write(name: str, content: bytes, at: str | None = None) -> None:
    """A small file, whole or not at all. Raises OSError."""
    with writer(name, at) as file:
        file.write(content)


def _protocols(filesystem: Any) -> tuple[str, ...]:
    found = filesystem.protocol
    return (found,) if isinstance(found, str) else tuple(found)


def remove(name: str) -> None:
    """Remove a file, or a folder with all that is in it; one that is not there is no error."""
    filesystem, root = _here(None)
    for again in (True, True, True, False):
        try:
            filesystem.rm(f"{root}/{name}", recursive=True)
        except FileNotFoundError:
            return
        except OSError:
            # Somebody was still writing into the folder.
            if not again:
                raise
            time.sleep(0.1)


def names(folder: str, at: str | None = None) -> list[str]:
    """The names of the files that lie in a folder, in order."""
    filesystem, root = _here(at)
    try:
        found = filesystem.ls(f"{root}/{folder}", detail=False)
    except FileNotFoundError:
        return []
    return sorted(f"{folder}/{path.rpartition('/')[2]}" for path in found if not path.endswith(".part"))


def exists(name: str) -> bool:
    """Whether there is a file or a folder of this name."""
    filesystem, root = _here(None)
    return bool(filesystem.exists(f"{root}/{name}"))
