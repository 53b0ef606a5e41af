"""Rows of a CSV file, bound by the header's names: columns come and go, in any order, and some were once misspelt."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import BinaryIO

from carefolio.emis.errors import ExtractError
from carefolio.emis.tables import Table, aliases

# Qualifiers holds XML of up to 8,000 letters; nothing is longer by right.
_LONGEST_VALUE = 131_072
_MOST_COLUMNS = 200
# Text is decoded in blocks of 8 kB.
_NOT_UTF8 = "not UTF-8, here or in the 8 kB that follow"
csv.field_size_limit(_LONGEST_VALUE)

Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """How a file's columns stand to the table's. ``extra`` are those that we do not know: kept, and told."""

    table: Table
    columns: tuple[str, ...]
    extra: tuple[str, ...]
    absent: tuple[str, ...]


def read_header(table: Table, names: Sequence[str]) -> Header:
    """Bind a header. Raises ExtractError for one that lacks what is needed, or says a column twice."""
    if len(names) > _MOST_COLUMNS:
        raise ExtractError(table.name, f"more than {_MOST_COLUMNS} columns")
    known = {column.casefold(): column for column in table.columns}
    columns = []
    for name in names:
        plain = name.strip().casefold()
        columns.append(known.get(plain) or known.get(aliases().get(plain, "").casefold()) or name.strip())
    if missing := table.required - set(columns):
        raise ExtractError(table.name, f"the header lacks {', '.join(sorted(missing))}")
    if twice := {name for name in columns if columns.count(name) > 1}:
        # Only our own names are told: what stands there may be anything.
        named = sorted(twice & set(table.columns)) or ["a column that is not known"]
        raise ExtractError(table.name, f"the header has {', '.join(named)} twice")
    extra = tuple(name for name in columns if name not in table.columns)
    return Header(table, tuple(columns), extra, tuple(name for name in table.columns if name not in columns))


class Rows:
    """The rows of one file: tuples of the table's columns, in its order, '' for null and for a column that is absent.

    Raises ExtractError with the row (the header is row 1, as a spreadsheet counts) for what is no row of the header's.
    """

    def __init__(self, table: Table, lines: Iterable[str]) -> None:
        self._reader = csv.reader(lines, strict=True)
        self.number = 1
        try:
            names = next(self._reader, None)
        except csv.Error as error:
            raise ExtractError(f"{table.name} row 1", _described(error)) from None
        except UnicodeDecodeError:
            raise ExtractError(f"{table.name} row 1", _NOT_UTF8) from None
        if not names:
            raise ExtractError(table.name, "the file is empty: it has not even a header")
        self.header = read_header(table, names)
        self._pick = self._picker()

    def _picker(self) -> Callable[[list[str]], Row]:
        columns = self.header.columns
        places = [columns.index(name) if name in columns else len(columns) for name in self.header.table.columns]
        get: Callable[[list[str]], Row] = itemgetter(*places)
        if not self.header.absent:
            return get

        def with_absent(values: list[str]) -> Row:
            values.append("")
            return get(values)

        return with_absent

    def __iter__(self) -> Iterator[Row]:
        wide, pick, name = len(self.header.columns), self._pick, self.header.table.name
        try:
            for values in self._reader:
                self.number += 1
                if len(values) != wide:
                    if not values:
                        # An empty line at the end of the file.
                        continue
                    raise ExtractError(f"{name} row {self.number}", f"{len(values)} values for {wide} columns")
                yield pick(values)
        except csv.Error as error:
            raise ExtractError(f"{name} row {self.number + 1}", _described(error)) from None
        except UnicodeDecodeError:
            raise ExtractError(f"{name} row {self.number + 1}", _NOT_UTF8) from None


def _described(error: csv.Error) -> str:
    """What the reader says, without what it read."""
    text = str(error)
    return "a value is longer than any that is known" if "field larger" in text else text


def text_of(binary: BinaryIO) -> io.TextIOWrapper:
    """A file's text: UTF-8 with or without a byte order mark; line ends stay what they are inside quotes."""
    return io.TextIOWrapper(binary, encoding="utf-8-sig", newline="")
