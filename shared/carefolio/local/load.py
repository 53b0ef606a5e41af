"""A hospital's feed for measuring and for proofs under load: generated messages, posted over many connections.

Plain sockets with keep-alive, because the client shares the machine with what it measures.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from carefolio.mapping.patient import nhs_number

_TESTS = (
    ("1022431000000105", "Haemoglobin estimation", "g/L", "115-165"),
    ("1022541000000102", "Total white cell count", "10*9/L", "4.0-11.0"),
    ("1022651000000100", "Platelet count", "10*9/L", "150-410"),
    ("1000661000000107", "Serum sodium level", "mmol/L", "133-146"),
    ("1000651000000109", "Serum potassium level", "mmol/L", "3.5-5.3"),
    ("1000731000000107", "Serum creatinine level", "umol/L", "45-84"),
    ("1022441000000101", "Haematocrit", "L/L", "0.36-0.46"),
    ("1022481000000109", "Mean corpuscular volume", "fL", "80-100"),
)


@dataclass(slots=True)
class Posted:
    """What came of a run: seconds per answer, the control ids that were acknowledged and when (seconds since 1970), and
    answers by status.
    """

    seconds: list[float] = field(default_factory=list)
    acknowledged: set[str] = field(default_factory=set)
    when: dict[str, float] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    broken: int = 0
    took: float = 0.0

    def count(self, status: str) -> None:
        self.statuses[status] = self.statuses.get(status, 0) + 1


def numbers() -> Iterator[str]:
    """NHS numbers from the range that is kept for tests (999…), without end or repetition."""
    start = random.randrange(10_000, 900_000)  # noqa: S311 - no secret
    for serial in range(start, 10_000_000):
        for check in "0123456789":
            if found := nhs_number(f"999{serial % 1_000_000:06d}{check}"):
                yield found


def registration(number: str, control_id: str) -> bytes:
    """An A28 that makes a record."""
    return "\r".join(
        (
            f"MSH|^~\\&|PAS|LOAD|CAREFOLIO|CAREFOLIO|20261101090000||ADT^A28|{control_id}|P|2.4",
            "EVN|A28|20261101090000",
            _pid(number),
            "",
        )
    ).encode()


def report(number: str, control_id: str, results: int = 4) -> bytes:
    """An ORU^R01 with so many results; every call is another order."""
    lines = [
        f"MSH|^~\\&|LAB|LOAD|CAREFOLIO|CAREFOLIO|20261102101500||ORU^R01|{control_id}|P|2.4",
        _pid(number),
        f"ORC|RE|P{control_id}|F{control_id}||CM",
        f"OBR|1|P{control_id}|F{control_id}|26604007^Full blood count^SNOMED CT|||20261102090000||||||||"
        "|C1^Farrow^Miriam^^^Dr||||||20261102101000||HM|F",
    ]
    for position in range(results):
        code, shown, unit, normal = _TESTS[position % len(_TESTS)]
        value = 10 + (hash((control_id, position)) % 900) / 10
        coded = f"{code}-{position}" if position >= len(_TESTS) else code
        lines.append(
            f"OBX|{position + 1}|NM|{coded}^{shown}^SNOMED CT||{value}|{unit}^{unit}^UCUM|{normal}"
            "|N|||F|||20261102090000"
        )
    return ("\r".join(lines) + "\r").encode()


def _pid(number: str) -> str:
    return (
        f"PID|1||{number}^^^NHS^NH{{status:01}}~L{number}^^^LOAD^MR||Fictional{number[-4:]}^Robin^^^Mx||19700101|F|||"
        "1 Test Street^^Whitcombe^Dorset^DT99 1AA^GBR"
    )


async def post(
    port: int, username: str, password: str, messages: Iterable[tuple[str, bytes]], connections: int = 16
) -> Posted:
    """Post (control id, message) pairs from one shared iterator over so many connections; broken ones are reopened.

    A message whose answer did not come is not posted again: that is the caller's decision.
    """
    posted = Posted()
    feed = iter(messages)
    authorization = base64.b64encode(f"{username}:{password}".encode()).decode()
    started = time.perf_counter()
    await asyncio.gather(*(_connection(port, authorization, feed, posted) for _ in range(connections)))
    posted.took = time.perf_counter() - started
    return posted


async def _connection(port: int, authorization: str, feed: Iterator[tuple[str, bytes]], posted: Posted) -> None:
    reader: asyncio.StreamReader | None = None
    writer: asyncio.StreamWriter | None = None
    for control_id, message in feed:
        head = (
            f"POST /hl7 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {authorization}\r\n"
            f"Content-Type: application/hl7-v2\r\nContent-Length: {len(message)}\r\n\r\n"
        )
        started = time.perf_counter()
        try:
            if reader is None or writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head.encode() + message)
            status, body = await _answer(reader)
        except (OSError, asyncio.IncompleteReadError, ValueError):
            posted.broken += 1
            if writer is not None:
                writer.close()
            reader = writer = None
            await asyncio.sleep(0.05)
            continue
        posted.seconds.append(time.perf_counter() - started)
        code = body.partition(b"\rMSA|")[2][:2].decode() or "no ACK"
        posted.count(f"{status} {code}" if status == 200 else str(status))
        if code == "AA":
            posted.acknowledged.add(control_id)
            posted.when[control_id] = time.time()
    if writer is not None:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def ask(port: int, requests: Sequence[bytes], seconds: float, connections: int = 16) -> list[float]:
    """Send whole HTTP requests over so many connections, round and round for so long; how long each answer took.

    Raises AssertionError for an answer that is no success.
    """
    feed = itertools.cycle(requests)
    ends = time.perf_counter() + seconds
    took: list[float] = []

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
        while time.perf_counter() < ends:
            started = time.perf_counter()
            writer.write(next(feed))
            status, body = await _answer(reader)
            assert 200 <= status < 300, (status, body[:300])
            took.append(time.perf_counter() - started)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    await asyncio.gather(*(connection() for _ in range(connections)))
    return took


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    lower = head.lower()
    start = lower.index(b"content-length:") + 15
    length = int(lower[start : lower.index(b"\r\n", start)])
    return int(head[9:12]), await reader.readexactly(length)
