"""kill -9 at random moments under load: nothing that was acknowledged is lost, and nothing is applied twice.

The senders do what a hospital's interface engine does: they send again what was not answered.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from pathlib import Path

import asyncpg
import psutil
import pytest
from tests.conftest import Running, running
from tests.local.test_up import children, until

from carefolio.local import load

KILLS = 20
PATIENTS = 40
RESULTS = 3
TARGETS = ("serve public", "postgres", "serve internal", "serve dispatcher")


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_twenty_kills_lose_nothing_and_double_nothing(
    homes: Callable[[], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with running(homes(), "--no-demo", TRACE_SHARE="0") as made:
        made.cli("organisation", "add", "RKILL", "Hospital")
        options = ("--organisation", "RKILL", "--allow", "127.0.0.0/8", "--json")
        sender = json.loads(made.cli("sender", "add", "s", *options).stdout)
        secret = made.here.port, sender["username"], sender["password"]
        numbers = load.numbers()
        patients = [next(numbers) for _ in range(PATIENTS)]
        await load.post(*secret, [(f"R{number}", load.registration(number, f"R{number}")) for number in patients])
        acknowledged: set[str] = set()
        unanswered: dict[str, bytes] = {}
        for kill in range(KILLS):
            fresh = {f"K{kill}-{n}": load.report(random.choice(patients), f"K{kill}-{n}", RESULTS) for n in range(400)}
            wanted = unanswered | fresh
            posting = asyncio.create_task(load.post(*secret, wanted.items()))
            await asyncio.sleep(random.uniform(0.05, 0.6))
            # What died before may not have been started again yet.
            while not (victims := children(made, TARGETS[kill % len(TARGETS)])):
                await asyncio.sleep(0.05)
            victims[0].kill()
            posted = await posting
            acknowledged |= posted.acknowledged
            unanswered = {name: body for name, body in wanted.items() if name not in acknowledged}
            await until(made.url, 200)
        while unanswered:
            posted = await load.post(*secret, unanswered.items())
            acknowledged |= posted.acknowledged
            unanswered = {name: body for name, body in unanswered.items() if name not in acknowledged}
        assert len(acknowledged) == KILLS * 400
        lost, twice = await judge(made, acknowledged)
        with capsys.disabled():
            print(f"\n  {KILLS} kills, {len(acknowledged)} messages: lost {lost}, applied twice {twice}", end=" ")
        assert (lost, twice) == (0, 0)
        assert psutil.pid_exists(made.process.pid)


async def judge(made: Running, acknowledged: set[str]) -> tuple[int, int]:
    """How many acknowledged messages left no whole result, and how many left more than one."""
    connection = await asyncpg.connect(made.here.postgres.url)
    while await connection.fetchval("SELECT EXISTS (SELECT FROM message WHERE status = 'received')"):
        await asyncio.sleep(0.1)
    rows = await connection.fetch(
        """
        SELECT control_id, count(DISTINCT message.id) AS messages,
               count(*) FILTER (WHERE version LIKE 'Observation/%/1') AS created,
               count(*) FILTER (WHERE version LIKE 'Observation/%' AND version NOT LIKE '%/1') AS updated
        FROM message LEFT JOIN audit ON audit.message_id = message.id LEFT JOIN unnest(written) AS version ON true
        WHERE ack_code = 'AA' AND message.status = 'applied' AND control_id LIKE 'K%' GROUP BY 1
        """
    )
    found = {row["control_id"]: row for row in rows}
    current = await connection.fetchval("SELECT count(*) FROM resource WHERE type = 'Observation'")
    await connection.close()
    lost = sum(name not in found or found[name]["created"] < RESULTS for name in acknowledged)
    twice = sum(row["messages"] > 1 or row["created"] > RESULTS or row["updated"] > 0 for row in found.values())
    assert current == RESULTS * len(acknowledged)
    return lost, twice
