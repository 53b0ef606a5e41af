"""The SOAP envelope of the reference product's senders: operation ``acceptMessage``, the message in ``arg0``.

Domain rules A2: document/literal SOAP 1.1, namespace as below, the HL7 acknowledgement as the return value.
"""

from __future__ import annotations

from xml.parsers import expat
from xml.sax.saxutils import escape

from carefolio.hl7.reader import BOM, codec_of, declared_character_set

NAMESPACE = "http://wsssl.hl7api.patientsknowbest.com/"
OVERHEAD = 64 * 1024
_SOAP = "http://schemas.xmlsoap.org/soap/envelope/"


class EnvelopeError(Exception):
    """A body that is no acceptMessage envelope; the text says why."""


def unwrap(body: bytes) -> bytes:
    """The HL7 message in an envelope, in the character set that its MSH-18 declares.

    Raises EnvelopeError. Document types and entities are refused: an envelope has no use for them.
    """
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    path: list[str] = []
    found: list[str] = []
    seen = 0

    def start(name: str, _: dict[str, str]) -> None:
        nonlocal seen
        path.append(name)
        if len(path) > 20:
            raise EnvelopeError("the envelope is nested too deeply")
        seen += _is_argument(path)

    def end(_: str) -> None:
        path.pop()

    def text(content: str) -> None:
        if _is_argument(path):
            found.append(content)

    def doctype(*_: object) -> None:
        raise EnvelopeError("a document type is not accepted")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(body, True)
    except expat.ExpatError as error:
        raise EnvelopeError(f"not well-formed XML (line {error.lineno})") from None
    except (LookupError, ValueError):
        raise EnvelopeError("the XML's encoding is not known") from None
    if seen != 1:
        raise EnvelopeError(f"one arg0 in an acceptMessage of namespace {NAMESPACE} is expected")
    message = "".join(found).strip(" \t\n")
    codec = codec_of(declared_character_set(message[:4096].encode("utf-8", "replace"))) or "utf-8"
    try:
        return message.encode(codec)
    except UnicodeEncodeError:
        # What does not fit the declared set is marked as what it is, so that nothing is garbled.
        return BOM + message.encode()


def _is_argument(path: list[str]) -> bool:
    return (
        len(path) == 4
        and path[-1] in ("arg0", f"{NAMESPACE} arg0")
        and path[-2] == f"{NAMESPACE} acceptMessage"
        and path[-3].endswith(" Body")
        and path[-4].endswith(" Envelope")
    )


def wrap(ack: bytes) -> bytes:
    """The answer; carriage returns as character references, since XML would make line feeds of them."""
    text = escape(ack.decode(), {"\r": "&#13;"})
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><soap:Envelope xmlns:soap="{_SOAP}"><soap:Body>'
        f'<ns2:acceptMessageResponse xmlns:ns2="{NAMESPACE}"><return>{text}</return></ns2:acceptMessageResponse>'
        "</soap:Body></soap:Envelope>"
    ).encode()


def fault(reason: str) -> bytes:
    """A SOAP fault of the caller's making."""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><soap:Envelope xmlns:soap="{_SOAP}"><soap:Body><soap:Fault>'
        f"<faultcode>soap:Client</faultcode><faultstring>{escape(reason)}</faultstring>"
        "</soap:Fault></soap:Body></soap:Envelope>"
    ).encode()
