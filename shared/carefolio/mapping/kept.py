"""What has no native home is kept: an extension with its v2 position and value, on the segment's own resource."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from carefolio.hl7 import Message, Segment
from carefolio.hl7.reader import unescape
from carefolio.mapping import codes
from carefolio.mapping.model import Context, Entry

# Positions that say how the message is written, not what it says: delimiters, numbering, the type of OBX-5.
_SET_IDS = frozenset({
    "PID", "NK1", "PV1", "OBR", "OBX", "NTE", "DG1", "AL1", "IAM", "IN1", "GT1", "SPM", "TQ1", "TQ2", "FT1",
    "PR1", "AIS", "AIG", "AIL", "AIP", "RGS", "DB1", "TXA", "CTI", "SAC", "ARV", "UB1", "UB2", "DRG", "DSP",
    "QRI",
})  # fmt: skip
_GRAMMAR = {("MSH", 1), ("MSH", 2), ("OBX", 2)} | {(name, 1) for name in _SET_IDS}


# Codes that became a status of FHIR's: the sender's own is kept beside it, but for those that say exactly the same.
TRANSLATED: dict[tuple[str, int], frozenset[str]] = {
    ("OBX", 11): frozenset("FCPX"),
    ("OBR", 25): frozenset("FCPX"),
    ("PV1", 2): frozenset("IEO"),
    ("PID", 8): frozenset("MFOU"),
} | {
    (name, field): frozenset()
    for name, fields in {
        "ORC": (1, 5), "RXA": (20, 21), "MSA": (1,), "FT1": (6,), "TXA": (3, 17, 19), "PRB": (1,), "IAM": (2, 6),
        "SCH": (9, 10, 25), "NK1": (15,), "GT1": (9,), "IN1": (43,), "AL1": (2, 4), "PR1": (4,), "TQ1": (9,),
        "PV2": (11,), "OBR": (5,), "RQD": (5,), "EVN": (1,),
    }.items()
    for field in fields
}  # fmt: skip


_DELIMITERS = 2


class Leaf(NamedTuple):
    """One value that was sent, with its position; sub-component 1 where there is only one."""

    field: int
    repetition: int
    component: int
    subcomponent: int
    value: str

    def position(self, segment: Segment) -> str:
        """``PID-3(2).4``: repetitions after the first are numbered, a lone component is the field."""
        text = f"{segment.name}-{self.field}"
        if self.repetition > 1:
            text += f"({self.repetition})"
        return (
            text
            + (f".{self.component}" if self.component else "")
            + (f".{self.subcomponent}" if self.subcomponent > 1 else "")
        )


def is_grammar(segment: Segment, field: int) -> bool:
    """Whether a field says how the message is written, not what it says."""
    return (segment.name, field) in _GRAMMAR


def leaves(segment: Segment, *, grammar: bool = False) -> Iterator[Leaf]:
    """Every populated value of a segment, its grammar only where asked for; HL7's null says something of its own."""
    for field, text in enumerate(segment.fields):
        if field and text and (grammar or not is_grammar(segment, field)):
            yield from leaves_of(segment, field, text)


def leaves_of(segment: Segment, field: int, text: str) -> Iterator[Leaf]:
    """Every populated value of one field, whose text is given."""
    delimiters = segment.delimiters
    if text == '""':
        return
    if segment.name in ("MSH", "FHS", "BHS") and field <= _DELIMITERS:
        yield Leaf(field, 1, 0, 1, text)
        return
    for repetition, part in enumerate(text.split(delimiters.repetition), 1):
        components = part.split(delimiters.component)
        for component, inner in enumerate(components, 1):
            for subcomponent, leaf in enumerate(inner.split(delimiters.subcomponent), 1):
                value = unescape(leaf, delimiters).strip()
                if value and value != '""':
                    yield Leaf(field, repetition, component if len(components) > 1 else 0, subcomponent, value)


def is_mapped(segment: Segment, leaf: Leaf) -> bool:
    """Whether a converter used the value."""
    seen = segment.looked_at or set()
    exact = TRANSLATED.get((segment.name, leaf.field))
    if exact is not None and leaf.value.upper() not in exact:
        return False
    at = (leaf.field, leaf.repetition)
    return (*at, leaf.component or 1, leaf.subcomponent) in seen or (*at, 0, 0) in seen


def _unmapped(segment: Segment) -> Iterator[Leaf]:
    """The values that nothing used; fields of one plain value, which most are, by the short way."""
    delimiters = segment.delimiters
    seen = segment.looked_at or set()
    name = segment.name
    for field, text in enumerate(segment.fields):
        if not text or not field or (name, field) in _GRAMMAR:
            continue
        plain = not (delimiters.component in text or delimiters.repetition in text or delimiters.subcomponent in text)
        if plain and (field, 1, 1, 1) in seen and (name, field) not in TRANSLATED:
            continue
        yield from (leaf for leaf in leaves_of(segment, field, text) if not is_mapped(segment, leaf))


def keep(message: Message, context: Context, otherwise: Entry) -> None:
    """Put every value that nothing used into an extension of the resource that its segment belongs to."""
    of_entry: dict[int, dict[str, int]] = {}
    names = context.source.z_fields
    for segment in message.segments:
        owner = context.claims.get(id(segment), otherwise)
        unmapped = list(_unmapped(segment))
        if not unmapped:
            continue
        counts = of_entry.setdefault(id(owner), {})
        count = counts[segment.name] = counts.get(segment.name, 0) + 1
        extensions = owner.resource.setdefault("extension", [])
        for leaf in unmapped:
            position = leaf.position(segment)
            if count > 1:
                # More than one such segment on one resource: they are numbered too.
                position = f"{segment.name}({count}){position[len(segment.name) :]}"
            url = f"{codes.BASE}/v2/{position}"
            field = f"{segment.name}-{leaf.field}"
            if names and (named := names.get(field)):
                # The sender's own name for the field; which component, repetition or segment stays in it.
                rest = leaf.position(segment)[len(field) :] + (f"[{count}]" if count > 1 else "")
                url = f"{codes.BASE}/{codes.slug(context.source.ods_code)}/{named}{rest}"
            extensions.append({"url": url, "valueString": leaf.value})
