"""The reader of the hot path: segments by position, split only as deep as somebody looks.

HL7 v2.8.2 chapter 2.6 and 2.7 (delimiters, escape sequences, repetition). Real feeds end segments with CR, LF or
CRLF, break lines inside a field, and escape carelessly; all of it is read as found, and ``Message.encode`` gives
back exactly what came.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from carefolio.hl7.errors import DATA_TYPE, REQUIRED_FIELD_MISSING, SEGMENT_SEQUENCE, HL7Error, Place

MAX_BYTES = 20 * 1024 * 1024

# HL7 table 0211 to Python's codecs; a message whose bytes do not fit what it claims is tried as UTF-8, then
# as Windows-1252, which is what the senders that lie about it really use.
_CHARACTER_SETS = {
    "ASCII": "ascii",
    "8859/1": "iso8859-1",
    "8859/2": "iso8859-2",
    "8859/3": "iso8859-3",
    "8859/4": "iso8859-4",
    "8859/5": "iso8859-5",
    "8859/6": "iso8859-6",
    "8859/7": "iso8859-7",
    "8859/8": "iso8859-8",
    "8859/9": "iso8859-9",
    "8859/15": "iso8859-15",
    "UNICODE UTF-8": "utf-8",
    "UTF-8": "utf-8",
    "WINDOWS-1252": "cp1252",
    "CP1252": "cp1252",
}

BOM = b"\xef\xbb\xbf"
_LINE = re.compile(r"([^\r\n]*)(\r\n|\r|\n|\Z)")
_ESCAPES = {"H": "", "N": "", ".br": "\n", ".sp": "\n", ".fi": "", ".nf": "", ".ce": "\n"}
_HEX = re.compile(r"X(?:[0-9A-Fa-f]{2})+\Z")


class Delimiters(NamedTuple):
    """MSH-1 and MSH-2. ``escape`` is empty where the sender declares none."""

    field: str = "|"
    component: str = "^"
    repetition: str = "~"
    escape: str = "\\"
    subcomponent: str = "&"


class Repetition:
    """One repetition of a field; components and sub-components count from 1 and are unescaped on demand."""

    __slots__ = ("_components", "_looked_at", "delimiters", "place", "text")

    def __init__(
        self, text: str, delimiters: Delimiters, place: Place, looked_at: set[tuple[int, int, int, int]] | None = None
    ) -> None:
        self.text = text
        self.delimiters = delimiters
        self.place = place
        self._components: list[str] | None = None
        self._looked_at = looked_at

    def forget(self, component: int = 0) -> None:
        """What was looked at in this repetition (or one component of it) could not be used after all."""
        if self._looked_at:
            mine = (self.place.field, self.place.repetition or 1)
            self._looked_at -= {mark for mark in self._looked_at if mark[:2] == mine and component in (0, mark[2])}

    @property
    def components(self) -> list[str]:
        """The components as found, still escaped."""
        if self._components is None:
            self._components = self.text.split(self.delimiters.component)
        return self._components

    def get(self, component: int = 1, subcomponent: int = 1) -> str:
        """The unescaped value, '' where there is none; HL7's null (two quotation marks) comes back as ``""``."""
        components = self.components
        if component > len(components):
            return ""
        if self._looked_at is not None:
            self._looked_at.add((self.place.field, self.place.repetition or 1, component, subcomponent))
        text = components[component - 1]
        separator = self.delimiters.subcomponent
        if separator in text:
            parts = text.split(separator)
            if subcomponent > len(parts):
                return ""
            text = parts[subcomponent - 1]
        elif subcomponent != 1:
            return ""
        return unescape(text, self.delimiters)

    def whole(self) -> str:
        """The repetition as one unescaped text: for ST, TX and FT, where components have no meaning."""
        if self._looked_at is not None:
            self._looked_at.add((self.place.field, self.place.repetition or 1, 0, 0))
        return unescape(self.text, self.delimiters)

    def __bool__(self) -> bool:
        return bool(self.text.strip(self.delimiters.component + self.delimiters.subcomponent + " "))


class Segment:
    """One segment. ``occurrence`` counts segments of the same name in the message, from 1.

    ``looked_at``, where it is a set, collects (field, repetition, component, sub-component) of every value that
    somebody asked for; component 0 is the whole repetition.
    """

    __slots__ = ("_fields", "delimiters", "looked_at", "name", "occurrence", "terminator", "text")

    def __init__(self, name: str, text: str, terminator: str, occurrence: int, delimiters: Delimiters) -> None:
        self.name = name
        self.text = text
        self.terminator = terminator
        self.occurrence = occurrence
        self.delimiters = delimiters
        self.looked_at: set[tuple[int, int, int, int]] | None = None
        self._fields: list[str] | None = None

    @property
    def fields(self) -> list[str]:
        """Field texts as found; index 0 is the segment's name, so index n is field n (MSH-1 included)."""
        if self._fields is None:
            fields = self.text.split(self.delimiters.field)
            if self.name in ("MSH", "FHS", "BHS"):
                fields.insert(1, self.delimiters.field)
            self._fields = fields
        return self._fields

    def field(self, number: int) -> str:
        """The field as found, '' where the segment is shorter."""
        fields = self.fields
        return fields[number] if number < len(fields) else ""

    def get(self, number: int, component: int = 1, subcomponent: int = 1) -> str:
        """The unescaped value in the field's first repetition."""
        fields = self._fields or self.fields
        text = fields[number] if number < len(fields) else ""
        if not text:
            return ""
        if self.looked_at is not None:
            self.looked_at.add((number, 1, component, subcomponent))
        # The hottest lines of the product: Repetition.get without making one.
        _, separator, repeat, escape, subseparator = self.delimiters
        if repeat in text:
            text = text[: text.index(repeat)]
        if separator in text:
            parts = text.split(separator, component)
            text = parts[component - 1] if component <= len(parts) else ""
        elif component != 1:
            return ""
        if subseparator in text:
            parts = text.split(subseparator, subcomponent)
            text = parts[subcomponent - 1] if subcomponent <= len(parts) else ""
        elif subcomponent != 1:
            return ""
        return unescape(text, self.delimiters) if escape and escape in text else text

    def repetitions(self, number: int) -> list[Repetition]:
        """The field's populated repetitions, each knowing its place; HL7's null is left out."""
        text = self.field(number)
        if not text or text == '""':
            return []
        delimiters = self.delimiters
        parts = text.split(delimiters.repetition)
        several = len(parts) > 1
        found = []
        for index, part in enumerate(parts, 1):
            place = Place(self.name, self.occurrence, number, index if several else 0)
            repetition = Repetition(part, delimiters, place, self.looked_at)
            if repetition:
                found.append(repetition)
        return found

    def is_null(self, number: int) -> bool:
        """Whether the sender asks to erase the field (chapter 2.5.3: two quotation marks)."""
        return self.field(number) == '""'

    def place(self, field: int = 0, repetition: int = 0, component: int = 0) -> Place:
        return Place(self.name, self.occurrence, field, repetition, component)


class Message:
    """A read message. Never empty: its first segment is MSH."""

    __slots__ = ("character_set", "delimiters", "header", "preamble", "segments")

    def __init__(self, segments: list[Segment], character_set: str, preamble: str) -> None:
        self.segments = segments
        self.header = segments[0]
        self.delimiters = self.header.delimiters
        self.character_set = character_set
        self.preamble = preamble

    def all(self, name: str) -> Iterator[Segment]:
        return (segment for segment in self.segments if segment.name == name)

    def first(self, name: str) -> Segment | None:
        return next(self.all(name), None)

    @property
    def code(self) -> str:
        """MSH-9.1, such as ORU."""
        return self.header.get(9, 1).strip()

    @property
    def event(self) -> str:
        """MSH-9.2, such as R01; where a sender leaves it out, from MSH-9.3 (ORU_R01), then EVN-1."""
        event = self.header.get(9, 2).strip() or self.header.get(9, 3).strip().partition("_")[2]
        if not event and (evn := self.first("EVN")):
            event = evn.get(1).strip()
        return event

    @property
    def type(self) -> str:
        return f"{self.code}^{self.event}" if self.event else self.code

    @property
    def control_id(self) -> str:
        return self.header.get(10).strip()

    def encode(self) -> bytes:
        """The message as bytes, identical to what was read."""
        text = self.preamble + "".join(segment.text + segment.terminator for segment in self.segments)
        return text.encode(self.character_set)


def unescape(text: str, delimiters: Delimiters) -> str:
    """Resolve escape sequences (chapter 2.7); what is no known sequence stays as found."""
    escape = delimiters.escape
    if not escape or escape not in text:
        return text
    parts = text.split(escape)
    out = [parts[0]]
    index = 1
    last = len(parts) - 1
    while index <= last:
        part = parts[index]
        replacement = _escape_value(part, delimiters) if index < last else None
        if replacement is None:
            out.append(escape + part)
            index += 1
        else:
            out.append(replacement)
            out.append(parts[index + 1])
            index += 2
    return "".join(out)


def _escape_value(code: str, delimiters: Delimiters) -> str | None:
    if code == "F":
        return delimiters.field
    if code == "S":
        return delimiters.component
    if code == "T":
        return delimiters.subcomponent
    if code == "R":
        return delimiters.repetition
    if code == "E":
        return delimiters.escape
    if code in _ESCAPES:
        return _ESCAPES[code]
    if _HEX.match(code):
        octets = bytes.fromhex(code[1:])
        found = octets.decode("utf-8") if _is_utf8(octets) else octets.decode("cp1252", "replace")
        # A control character is no text: the sequence stays as it was sent.
        return None if any(letter < " " and letter not in "\t\r\n" for letter in found) else found
    if code[:3] in (".sp", ".sk", ".in", ".ti"):
        return "\n" if code.startswith(".sp") else " "
    return None


def _is_utf8(octets: bytes) -> bool:
    try:
        octets.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def codec_of(declared: str) -> str | None:
    """Python's codec for a character set of HL7 table 0211."""
    return _CHARACTER_SETS.get(declared.strip().upper())


def decode(raw: bytes, declared: str) -> tuple[str, str]:
    """Text and codec: a byte order mark, the declared character set (MSH-18), UTF-8, Windows-1252, Latin-1."""
    candidates = ["utf-8", "cp1252", "iso8859-1"]
    codec = codec_of(declared)
    if codec and not raw.startswith(BOM):
        candidates.insert(0, codec)
    for candidate in candidates:
        try:
            return raw.decode(candidate), candidate
        except UnicodeDecodeError:
            continue
    raise AssertionError("iso8859-1 decodes any bytes")


def declared_character_set(raw: bytes) -> str:
    """MSH-18's first repetition, from the bytes of the first line alone."""
    start = raw.find(b"MSH")
    head = raw[start : start + 4096]
    line = head.partition(b"\r")[0].partition(b"\n")[0]
    if len(line) < 4:
        return ""
    fields = line.split(line[3:4])
    return fields[17].split(b"~")[0].decode("ascii", "replace") if len(fields) > 17 else ""


def read_delimiters(header: str) -> Delimiters:
    """Delimiters from the text of an MSH, FHS or BHS segment.

    Raises HL7Error where they are missing, repeated or letters.
    """
    name = header[:3]
    if len(header) < 5:
        raise HL7Error(REQUIRED_FIELD_MISSING, Place(name, 1, 2), "encoding characters are missing")
    field = header[3]
    encoding = header[4:].split(field, 1)[0]
    # A sender's own escaping sometimes doubles the backslash.
    encoding = encoding.replace("\\\\", "\\")
    if not encoding:
        raise HL7Error(REQUIRED_FIELD_MISSING, Place(name, 1, 2), "encoding characters are missing")
    component = encoding[0]
    repetition = encoding[1] if len(encoding) > 1 else "~"
    if len(encoding) == 3:
        # Three characters leave the escape character out ("^~&"): the one that is meant is the sub-component's.
        escape, subcomponent = ("\\", "&") if encoding[2] == "\\" else ("", encoding[2])
    else:
        escape = encoding[2] if len(encoding) > 2 else "\\"
        subcomponent = encoding[3] if len(encoding) > 3 else "&"
    used = [c for c in (field, component, repetition, escape, subcomponent) if c]
    if len(set(used)) != len(used) or any(c.isalnum() or c in "\r\n" for c in used):
        raise HL7Error(DATA_TYPE, Place(name, 1, 2), "the five delimiters must differ and be no letters or digits")
    return Delimiters(field, component, repetition, escape, subcomponent)


def read(raw: bytes, character_set: str = "") -> Message:
    """Read one message of at most MAX_BYTES; ``character_set`` (table 0211) is of those that declare none.

    Raises HL7Error where no MSH segment begins it, where its delimiters are unusable, or a line cannot be placed.
    """
    if len(raw) > MAX_BYTES:
        raise HL7Error(DATA_TYPE, Place("MSH"), f"the message is larger than {MAX_BYTES} bytes")
    text, codec = decode(raw, declared_character_set(raw) or character_set)
    start = 0
    while start < len(text) and text[start] in "\ufeff\x0b \t\r\n":
        start += 1
    if text[start : start + 3] != "MSH":
        raise HL7Error(SEGMENT_SEQUENCE, Place("MSH"), "a message begins with an MSH segment")
    if "\x00" in text:
        raise HL7Error(DATA_TYPE, Place("MSH"), "the message holds NUL characters")
    segments = _segments(text[start:])
    return Message(segments, codec, text[:start])


def _segments(text: str) -> list[Segment]:
    lines = _LINE.findall(text)
    delimiters = read_delimiters(lines[0][0])
    separator = delimiters.field
    segments: list[Segment] = []
    counts: dict[str, int] = {}
    pieces: list[str] = []  # of the current segment, when lines had to be glued
    for body, terminator in lines:
        name = body[:3]
        if body[3:4] in (separator, "") and _is_name(name):
            count = counts[name] = counts.get(name, 0) + 1
            if pieces:
                _glue(segments, pieces)
            segments.append(Segment(name, body, terminator, count, delimiters))
        elif body or terminator:
            # A line break inside a field, an empty line, or the end block of MLLP: it belongs to the segment before.
            pieces.append(body + terminator)
    if pieces:
        _glue(segments, pieces)
    return segments


def _glue(segments: list[Segment], pieces: list[str]) -> None:
    last = segments[-1]
    rest = "".join(pieces)
    pieces.clear()
    body = rest.rstrip("\r\n\x1c\x0b \t")
    if body:
        last.text += last.terminator + body
        last.terminator = rest[len(body) :]
    else:
        last.terminator += rest


@lru_cache(maxsize=1024)
def _is_name(name: str) -> bool:
    return len(name) == 3 and name.isascii() and name.isalnum() and name[0].isalpha() and name == name.upper()
