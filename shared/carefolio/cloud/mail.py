"""Mail goes out by SMTP, or into a folder on one machine."""

from __future__ import annotations

import asyncio
import smtplib
import ssl
import time
import uuid
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from urllib.parse import unquote, urlsplit

from carefolio.cloud import secrets
from carefolio.cloud.settings import settings

PASSWORD = "smtp-password"  # noqa: S105 - the secret's name
_SECONDS = 15


class MailError(Exception):
    """The mail server cannot be reached or did not take the letter; ``reason`` is for a log."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


async def send(address: str, subject: str, body: str) -> None:
    """Send a plain text. Raises MailError."""
    message = EmailMessage()
    wanted = settings()
    try:
        message["From"], message["To"], message["Subject"] = wanted.mail_from, address, subject
    except ValueError:
        raise MailError("the address cannot be written to") from None
    message["Date"], message["Message-ID"] = (
        formatdate(),
        make_msgid(domain=wanted.mail_from.rpartition("@")[2].rstrip(">")),
    )
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(body)
    await asyncio.to_thread(_deliver if wanted.smtp_url else _keep, message)


def _deliver(message: EmailMessage) -> None:
    """By ``smtp://user@host:port`` (STARTTLS, always) or ``smtps://``; the password is a secret."""
    parts = urlsplit(settings().smtp_url)
    host, context = parts.hostname or "", ssl.create_default_context()
    loopback = host in ("localhost", "127.0.0.1")
    try:
        server: smtplib.SMTP
        if parts.scheme == "smtps":
            server = smtplib.SMTP_SSL(host, parts.port or 465, timeout=_SECONDS, context=context)
        else:
            server = smtplib.SMTP(host, parts.port or 587, timeout=_SECONDS)
        with server:
            if parts.scheme != "smtps" and not loopback:
                server.starttls(context=context)
            if parts.username:
                server.login(unquote(parts.username), secrets.read(PASSWORD).decode().strip())
            server.send_message(message)
    except (OSError, smtplib.SMTPException, secrets.MissingSecretError) as error:
        raise MailError(type(error).__name__) from None


def _keep(message: EmailMessage) -> None:
    folder = settings().mail_dir
    if folder is None:
        raise MailError("neither SMTP_URL nor MAIL_DIR is set")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = folder / f"{time.time_ns()}-{uuid.uuid4().hex[:8]}.eml"
    waiting = file.with_suffix(".part")
    waiting.write_bytes(message.as_bytes())
    waiting.rename(file)
