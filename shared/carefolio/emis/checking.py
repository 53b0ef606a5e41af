"""A folder of an extract, looked through without loading it: which batches, whole or not, what their files hold."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from carefolio.emis.batches import Batch, batches
from carefolio.emis.errors import ExtractError
from carefolio.emis.names import FileName, read_name
from carefolio.emis.openpgp import Keyring
from carefolio.emis.rows import Rows, text_of
from carefolio.emis.tables import tables


@dataclass(frozen=True, slots=True)
class Checked:
    """One file: ``rows`` without the header, columns that we do not know, and what is wrong ('' for nothing)."""

    table: str
    rows: int
    extra: tuple[str, ...]
    signed_by: str | None
    wrong: str


def found_in(folder: Path) -> list[tuple[str, FileName]]:
    """Every file below a folder whose name is an extract's, with its path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(str(path), name) for path in files if (name := read_name(path.name))]


def batches_in(folder: Path, agreement: uuid.UUID | None = None) -> list[Batch]:
    """The batches in a folder, of one agreement. Raises ExtractError where there is none, or several."""
    names = found_in(folder)
    agreements = {name.agreement for _, name in names}
    if not names:
        raise ExtractError(folder.name, "there is no file of an extract")
    if agreement is None and len(agreements) > 1:
        raise ExtractError(folder.name, f"there are files of {len(agreements)} agreements: name one")
    wanted = agreement or agreements.pop()
    return batches([(path, name) for path, name in names if name.agreement == wanted], wanted)


def check(batch: Batch, keyring: Keyring | None = None, passphrase: str = "") -> Iterator[Checked]:
    """Read every file of a batch to its end, in the order of the tables."""
    for table in tables():
        if table in batch.files:
            yield _checked(table, Path(batch.files[table]), keyring, passphrase)


def _checked(table: str, path: Path, keyring: Keyring | None, passphrase: str) -> Checked:
    signed_by = None
    try:
        with path.open("rb") as file:
            if path.suffix != ".gpg":
                return _read(table, file, None)
            if keyring is None:
                raise ExtractError(table, "it is encrypted: give a key")
            # Nothing of a file is believed before its end has vouched for it.
            with tempfile.TemporaryFile() as plain:
                signed_by = keyring.decrypt(file, plain.write, table, passphrase=passphrase).signed_by
                plain.seek(0)
                return _read(table, cast(BinaryIO, plain), signed_by)
    except ExtractError as error:
        return Checked(table, 0, (), signed_by, str(error))
    except OSError as error:
        return Checked(table, 0, (), signed_by, error.strerror or "it cannot be read")


def _read(table: str, file: BinaryIO, signed_by: str | None) -> Checked:
    rows = Rows(tables()[table], text_of(file))
    return Checked(table, sum(1 for _ in rows), rows.header.extra, signed_by, "")
