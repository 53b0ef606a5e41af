"""What has been shown of recovery, and when: small files beside the exports, which nobody can change or take away.

``exported``, ``restored`` (an export was brought up by itself and compared), ``rehearsed`` (disasters, with the times
that they took) and ``backed-up`` (one machine's own) are written by whoever did it; ``carefolio.recovery.promises``
looks at their age.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from carefolio.cloud import files
from carefolio.cloud.settings import settings

EXPORTED, RESTORED, REHEARSED, BACKED_UP = "exported", "restored", "rehearsed", "backed-up"
_FOLDER = "proofs"


@dataclass(frozen=True, slots=True)
class Proof:
    """``good``: it went as promised; ``figures``: what was measured, never data of a patient."""

    kind: str
    at: datetime
    good: bool
    figures: dict[str, Any] = field(default_factory=dict)


def keep(proof: Proof) -> str:
    """Write it and return its name; each moment's is a file of its own. Blocks; raises OSError."""
    name = f"{_FOLDER}/{proof.kind}/{proof.at.astimezone(UTC):%Y%m%dT%H%M%S%fZ}.json"
    files.write(name, json.dumps(asdict(proof), default=str, indent=1).encode(), settings().offsite_url)
    return name


def newest(kind: str) -> Proof | None:
    """The last of a kind, None where there is none. Blocks; raises OSError, and ValueError for what is no proof."""
    found = files.names(f"{_FOLDER}/{kind}", settings().offsite_url)
    if not found:
        return None
    told = json.loads(files.read(found[-1], settings().offsite_url))
    return Proof(told["kind"], datetime.fromisoformat(told["at"]), bool(told["good"]), told["figures"])
