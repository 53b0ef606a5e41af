"""The mailbox of this machine: the letters that a mail server would have sent."""

from __future__ import annotations

import re
from email import policy
from email.parser import BytesParser
from pathlib import Path

from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route, Router

from carefolio.cloud.settings import settings

_MOST = 50
_LINK = re.compile(r"(http://localhost:\d+/[^\s<]*)")


def _letters() -> list[dict[str, str]]:
    folder = settings().mail_dir
    files = sorted((folder or Path("/nowhere")).glob("*.eml"), reverse=True)[:_MOST]
    return [_letter(file) for file in files]


def _letter(file: Path) -> dict[str, str]:
    message = BytesParser(policy=policy.default).parsebytes(file.read_bytes())
    return {"to": str(message["To"]), "subject": str(message["Subject"]), "date": str(message["Date"]),
            "body": str(message.get_content())}  # fmt: skip


async def _page(request: Request) -> Response:
    """GET /mailbox; as JSON for tests and for people with curl."""
    letters = _letters()
    if "json" in request.headers.get("accept", ""):
        return JSONResponse(letters)
    shown = Markup("")
    for letter in letters:
        body = Markup(_LINK.sub(r'<a href="\1">\1</a>', str(escape(letter["body"]))))  # noqa: S704 - escaped
        shown += Markup("<h2>{}</h2><p class=hint>To {}, {}</p><pre>{}</pre>").format(
            letter["subject"], letter["to"], letter["date"], body
        )
    return HTMLResponse(
        Markup(
            '<!doctype html><html lang="en-GB"><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width"><title>Mailbox</title>'
            '<link rel="stylesheet" href="/login/static/carefolio.css">'
            '<div class="stand-in">Mailbox of this machine: nothing was sent to anybody</div>'
            "<main><h1>Mailbox</h1>{}</main>"
        ).format(shown or Markup("<p>No letter yet.</p>"))
    )


mailbox = Router([Route("/mailbox", _page)])
