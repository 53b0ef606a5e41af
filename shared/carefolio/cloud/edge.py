"""Who the load balancer lets through to the hospitals' door: the union of the senders' networks, kept in Cloud Armor.

Terraform makes the policy, which refuses everybody; the rules that allow are ours, from _FIRST on, ten networks to each
(https://cloud.google.com/compute/docs/reference/rest/v1/securityPolicies). The door itself looks again at each sender's
own list (carefolio.identity.senders): this keeps the others from even asking.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from typing import Any

from carefolio.cloud import google
from carefolio.cloud.settings import Network, settings

_COMPUTE = "https://compute.googleapis.com/compute/v1"
_FIRST, _LAST = 1000, 1199
_EACH = 10
_POLL = 2.0


class EdgeError(Exception):
    """More networks than the policy has room for, or a change that it refuses."""


def keep(networks: Iterable[Network]) -> int:
    """Have the policy allow these networks and no others, and return how many rules were changed. Blocks.

    Rules are added before any is removed. A hospital whose network moves from one rule to the next while both are
    changed may be refused for seconds; it sends again. Without a policy (one machine) there is nothing to do. Raises
    EdgeError and OSError.
    """
    wanted = settings()
    if not wanted.hl7_policy:
        return 0
    policy = f"{_COMPUTE}/projects/{wanted.project}/global/securityPolicies/{wanted.hl7_policy}"
    there = {
        rule["priority"]: set(rule["match"]["config"]["srcIpRanges"])
        for rule in google.call(policy)["rules"]
        if _FIRST <= rule["priority"] <= _LAST
    }
    rules = _rules(networks)
    changed = 0
    for priority, ranges in rules.items():
        if there.get(priority) == set(ranges):
            continue
        how = f"patchRule?priority={priority}" if priority in there else "addRule"
        _change(f"{policy}/{how}", _rule(priority, ranges))
        changed += 1
    for priority in sorted(set(there) - set(rules)):
        _change(f"{policy}/removeRule?priority={priority}", {})
        changed += 1
    return changed


def _change(url: str, body: dict[str, Any]) -> None:
    """One change, when it is done: the policy takes no other meanwhile. Raises EdgeError and OSError."""
    operation = google.call(url, body)
    for _ in range(30):
        if operation.get("status") == "DONE":
            break
        name = operation["name"]
        operation = google.call(f"{_COMPUTE}/projects/{settings().project}/global/operations/{name}")
        time.sleep(_POLL)
    else:
        raise EdgeError("a rule of the policy is not changed after a minute")
    if "error" in operation:
        raise EdgeError("a rule of the policy was refused")


def _rules(networks: Iterable[Network]) -> dict[int, list[str]]:
    """By priority the ranges: the same networks make the same rules, in whatever order they come."""
    all_of_them = set(networks)
    old = collapse_addresses(each for each in all_of_them if isinstance(each, IPv4Network))
    new = collapse_addresses(each for each in all_of_them if isinstance(each, IPv6Network))
    ranges = [*map(str, old), *map(str, new)]
    if len(ranges) > _EACH * (_LAST - _FIRST + 1):
        raise EdgeError(f"{len(ranges)} networks of senders: the policy has room for {_EACH * (_LAST - _FIRST + 1)}")
    return {_FIRST + number // _EACH: ranges[number : number + _EACH] for number in range(0, len(ranges), _EACH)}


def _rule(priority: int, ranges: list[str]) -> dict[str, Any]:
    return {
        "priority": priority,
        "action": "allow",
        "description": "Senders' networks (kept by operations)",
        "match": {"versionedExpr": "SRC_IPS_V1", "config": {"srcIpRanges": ranges}},
    }
