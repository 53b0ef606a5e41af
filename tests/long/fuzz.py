"""What tests/long/test_fuzz.py runs: atheris leads random bytes through every branch of reader and mapper."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["carefolio.hl7", "carefolio.mapping"]):
    from carefolio.hl7 import HL7Error, read
    from carefolio.mapping import Source
    from carefolio.mapping.explain import explain
    from carefolio.mapping.files import map_bytes
    from carefolio.mapping.serialise import dumps

_HEADS = (
    b"",
    b"MSH|^~\\&|A|B|||20261101||ORU^R01|1|P|2.5\r",
    b"MSH|^~\\&|A|B|||20261101||ADT^A40|1|P|2.5\rPID|1||X^^^A^MR\r",
)


def one(data: bytes) -> None:
    """Documented errors are answers; any other exception is a find."""
    raw = _HEADS[data[0] % len(_HEADS)] + data[1:] if data else data
    try:
        dumps(map_bytes(raw, "RTEST"))
        message = read(raw)
        assert message.encode() == raw or raw.startswith(b"\xef\xbb\xbf") or not message.segments
        explain(message, Source("RTEST"))
    except HL7Error:
        return


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
