"""A record as a PDF to read, print and give to somebody: what, when, from whom; nothing that the reader may not see."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import Any

from carefolio.view import telling
from carefolio.view.sections import Section
from carefolio.view.telling import LONDON, Told

_FONT, _BOLD = "OpenSans", "OpenSans-Bold"


@dataclass(frozen=True, slots=True)
class Line:
    """An item, and who sent it."""

    told: Told
    source: str


@dataclass(frozen=True, slots=True)
class Part:
    """A section with its items, the newest first; ``more``: older ones are left out."""

    section: Section
    lines: Sequence[Line]
    more: bool = False


def make(patient: telling.Resource, parts: Iterable[Part], *, made_for: str, now: datetime) -> bytes:
    """The PDF (A4) of a patient's record, by whom it was asked for. Blocks: a long record takes seconds."""
    from reportlab.lib.pagesizes import A4
    from reportlab.lib.units import mm
    from reportlab.platypus import HRFlowable, KeepTogether, Paragraph, SimpleDocTemplate, Spacer

    styles = _styles()
    who = telling.person(patient)
    made = io.BytesIO()
    stamp = telling.moment(now.astimezone(LONDON).isoformat())
    document = SimpleDocTemplate(
        made, pagesize=A4, leftMargin=18 * mm, rightMargin=18 * mm, topMargin=22 * mm, bottomMargin=20 * mm,
        title=f"Health record of {who['name']}", author="Carefolio", subject="Health record", lang="en-GB",
    )  # fmt: skip
    story: list[Any] = [
        Paragraph("Health record", styles["title"]),
        Paragraph(escape(who["name"]), styles["name"]),
    ]
    for title, name in (("Date of birth", "born"), ("NHS number", "nhs_number"), ("Address", "address"),
                        ("Telephone", "telephone"), ("E-mail", "email"), ("GP practice", "practice")):  # fmt: skip
        if who[name]:
            story.append(Paragraph(f"{title}: {escape(who[name])}", styles["line"]))
    story += [
        Spacer(1, 3 * mm),
        Paragraph(f"Made for {escape(made_for)} on {stamp}. It shows what Carefolio had then, and this reader sees:"
                  " the newest is in Carefolio itself.", styles["small"]),
    ]  # fmt: skip
    for part in parts:
        story += [
            Spacer(1, 5 * mm),
            Paragraph(escape(part.section.title), styles["section"]),
            HRFlowable(width="100%", thickness=0.8, color="#00665a"),
        ]
        if not part.lines:
            story.append(Paragraph("Nothing.", styles["line"]))
        for line in part.lines:
            block = list(_block(line, styles))
            # What is long goes over pages.
            story += [KeepTogether(block)] if len(line.told.text) < 1500 else block
        if part.more:
            story.append(Paragraph("Older ones are not printed here.", styles["small"]))
    foot = f"{who['name']}, born {who['born']}{', NHS number ' + who['nhs_number'] if who['nhs_number'] else ''}"

    def margin(canvas: Any, page: Any) -> None:
        canvas.saveState()
        canvas.setFont(_FONT, 8)
        canvas.drawString(18 * mm, 12 * mm, foot[:110])
        canvas.drawRightString(A4[0] - 18 * mm, 12 * mm, f"page {page.page}")
        canvas.restoreState()

    document.build(story, onFirstPage=margin, onLaterPages=margin)
    return made.getvalue()


def _block(line: Line, styles: Any) -> Iterable[Any]:
    from reportlab.platypus import Paragraph

    told = line.told
    head = f"<b>{escape(_short(told.title))}</b>"
    if told.value:
        head += f"  {escape(_short(told.value))}"
    if told.flag:
        head += f"  <b>({escape(told.flag)})</b>"
    if told.status:
        head += f"  [{escape(told.status)}]"
    yield Paragraph(head, styles["item"])
    said = [telling.moment(told.when) if told.when else "", f"usual: {told.usual}" if told.usual else ""]
    said += [f"from {line.source}" if line.source else "", *(f"{name}: {value}" for name, value in told.facts)]
    for piece in _pieces(" · ".join(filter(None, said))):
        yield Paragraph(escape(piece), styles["small"])
    for paragraph in told.text.split("\n"):
        for piece in _pieces(paragraph):
            yield Paragraph(escape(piece), styles["text"])


_LONGEST_PIECE, _LONGEST_WORD = 2000, 60


def _short(text: str) -> str:
    return next(iter(_pieces(text)), "")


def _pieces(text: str) -> Iterable[str]:
    """A paragraph in pieces that can be set in a moment: reportlab takes minutes for a word of a page."""
    plain = re.sub(rf"(\S{{{_LONGEST_WORD}}})(?=\S)", r"\1 ", text.strip())
    return (plain[at : at + _LONGEST_PIECE] for at in range(0, len(plain), _LONGEST_PIECE))


def _styles() -> Any:
    from reportlab.lib.styles import ParagraphStyle

    _register()
    base = ParagraphStyle("base", fontName=_FONT, fontSize=10, leading=14, splitLongWords=True)

    def style(name: str, **more: Any) -> ParagraphStyle:
        return ParagraphStyle(name, parent=base, **more)

    return {
        "title": style("title", fontSize=12, textColor="#00665a"),
        "name": style("name", fontName=_BOLD, fontSize=20, leading=26),
        "section": style("section", fontName=_BOLD, fontSize=14, leading=20),
        "item": style("item", spaceBefore=5),
        "line": style("line"),
        "text": style("text", leftIndent=10),
        "small": style("small", fontSize=8.5, leading=12, textColor="#425563"),
    }


def _register() -> None:
    """Open Sans: it has the letters of all of Europe's languages; the PDF carries what it uses of it."""
    from importlib import resources

    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.ttfonts import TTFont

    if _FONT in pdfmetrics.getRegisteredFontNames():
        return
    folder = resources.files("ttf_opensans") / "ttf"
    for name in (_FONT, _BOLD):
        file = "OpenSans-Regular.ttf" if name == _FONT else "OpenSans-Bold.ttf"
        with resources.as_file(folder / file) as path:
            pdfmetrics.registerFont(TTFont(name, str(path)))
    pdfmetrics.registerFontFamily(_FONT, normal=_FONT, bold=_BOLD, italic=_FONT, boldItalic=_BOLD)
