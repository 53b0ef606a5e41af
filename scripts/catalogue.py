"""Print a gettext template of every text that the portal says by itself."""

from __future__ import annotations

import json
import re
from pathlib import Path

from carefolio.doors.portal import frame, language
from carefolio.view import telling
from carefolio.view.sections import SECTIONS
from carefolio.view.telling import words

PAGES = Path(frame.__file__).parent / "pages"


def main() -> None:
    found: dict[str, str] = {}
    for page in sorted(PAGES.glob("*.html")):
        for text in language.texts(page.read_text()):
            found.setdefault(text, page.name)
    for each in SECTIONS.values():
        found.setdefault(each.title, "sections")
        found.setdefault(each.empty, "sections")
    for text in (*frame.NOTES.values(), *frame.LABELS.values()):
        found.setdefault(text, "frame")
    for text in (*words(), *re.findall(r'\.add\("([^"]+)"', Path(telling.__file__).read_text())):
        found.setdefault(text, "telling")
    print('msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=UTF-8\\n"\n')
    for text, place in found.items():
        print(f'#: {place}\nmsgid {json.dumps(text, ensure_ascii=False)}\nmsgstr ""\n')


if __name__ == "__main__":
    main()
