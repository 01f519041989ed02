"""How many ranks a component of RLinf has, from `cluster.component_placement`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_MOST_ACCELERATORS = 100_000
_RANGE = re.compile(r"(\d{1,7})(?:-(\d{1,7}))?")


def placement_of(config: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """The placement that a configuration holds; {} where it has none."""
    cluster = config.get("cluster")
    placement = cluster.get("component_placement") if isinstance(cluster, dict) else None
    return placement if isinstance(placement, dict) else {}


def components_of(config: Mapping[Any, Any]) -> list[str]:
    """The components that it places, each once."""
    names = [name.strip() for key in placement_of(config) for name in str(key).split(",")]
    return list(dict.fromkeys(names))


def placed_ranks(
    placement: Mapping[Any, Any], component: str, everything: int | None
) -> tuple[int | None, str]:
    """The ranks of a component, and a note where they are not known.

    Args:
        placement: `actor,rollout: 0-7`, `actor: all`, or `actor: 0-3:0-7` (accelerators:processes).
        everything: all accelerators of the cluster, where known.
    """
    said = _said_of(placement, component)
    if said is None:
        return None, ""
    told = f"cluster.component_placement of {component} is {said!r}"
    if said == "all":
        why = "" if everything else f"{told}, and the number of accelerators per node is not set"
        return everything, why
    count = _count(str(said))
    return count, "" if count else f"{told}: not understood"


def accelerators_of(placement: Mapping[Any, Any], component: str) -> tuple[int, ...]:
    """The accelerators that a component is placed on, by their numbers in the cluster."""
    found: set[int] = set()
    for part in str(_said_of(placement, component)).split(","):
        match = _RANGE.fullmatch(part.partition(":")[0].strip())
        last = int(match[2] or match[1]) if match else -1
        if match is None or last - int(match[1]) + len(found) > _MOST_ACCELERATORS:
            return ()
        found |= set(range(int(match[1]), last + 1))
    return tuple(sorted(found))


def _said_of(placement: Mapping[Any, Any], component: str) -> Any:
    for names, said in placement.items():
        if component in (name.strip() for name in str(names).split(",")):
            return said.get("placement") if isinstance(said, dict) else said
    return None


def _count(text: str) -> int | None:
    total = 0
    for part in text.split(","):
        # An accelerator without a list of processes has one.
        processes = part.rpartition(":")[2].strip()
        match = _RANGE.fullmatch(processes)
        if match is None:
            return None
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            return None
        total += last - first + 1
    return total
