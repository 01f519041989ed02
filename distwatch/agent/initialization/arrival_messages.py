"""The messages that ranks leave in the store for each other while their world forms."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from distwatch.errors import InitFailed, InitTimeout, not_done
from distwatch.state.bounds import MOST_RANKS
from distwatch.state.events import InitPlanned
from distwatch.state.finding import Finding
from distwatch.state.group_creation import CreationProgress


class Arrived(msgspec.Struct, frozen=True, kw_only=True):
    """A rank has arrived, with this plan."""

    plan: InitPlanned
    host: str
    pid: int
    start_ticks: int
    command: str = ""


class Whereabouts(msgspec.Struct, frozen=True, kw_only=True):
    """Where a missing rank is, as seen from one host."""

    host: str
    status: Literal["here", "alive", "ended", "unseen", "unknown"]
    """here: it also waits, in a call of torch itself · unknown: not observed; `text` says why."""
    text: str


class TimedOut(msgspec.Struct, frozen=True, kw_only=True):
    """A deadline has passed. `places` is empty until every host has looked for the missing ranks."""

    deadline_s: float
    arrived: tuple[int, ...] = ()
    missing: tuple[int, ...] = ()
    places: dict[int, str] = {}


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why the world does not form."""

    step: str
    message: str
    finding: Finding | None = None
    timed_out: TimedOut | None = None
    final: bool = True
    """False while the hosts are still asked where the missing ranks are."""


View = dict[int, Whereabouts]
read_arrived = msgspec.msgpack.Decoder(Arrived).decode
read_failure = msgspec.msgpack.Decoder(Failure).decode
read_view = msgspec.msgpack.Decoder(View).decode
read_progress = msgspec.msgpack.Decoder(CreationProgress | None).decode
"""None: the rank cannot tell, since it runs without an agent."""
encode = msgspec.msgpack.Encoder().encode


def terms_of(plan: InitPlanned) -> bytes:
    """What all plans of a world must have in common; if it differs, all plans are compared."""
    level = plan.variables.get("TORCH_DISTRIBUTED_DEBUG", "").upper()
    return encode(
        (
            plan.world_size,
            plan.backend,
            plan.timeout_s,
            plan.framework,
            sorted(plan.sizes.items()),
            plan.order,
            sorted(plan.options.items()),
            level == "DETAIL",
            plan.versions.get("torch"),
        )
    )


def world_of(terms: bytes) -> int:
    """The world size in another rank's terms; 0 where it cannot be read."""
    try:
        world: Any = msgspec.msgpack.decode(terms, type=tuple[Any, ...])[0]
    except (msgspec.DecodeError, IndexError):
        return 0
    return min(world, MOST_RANKS) if isinstance(world, int) else 0


def error_of(failure: Failure) -> InitFailed:
    """The error to raise for a failure that some rank has reported."""
    if failure.timed_out is None:
        return InitFailed(failure.message, step=failure.step, finding=failure.finding)
    told = failure.timed_out
    return InitTimeout(
        failure.message or not_done(failure.step, told.deadline_s),
        step=failure.step,
        deadline_s=told.deadline_s,
        arrived=told.arrived,
        missing=told.missing,
        places=told.places,
        finding=failure.finding,
    )


def host_terms_of(plan: InitPlanned) -> bytes:
    """What the ranks of one host must have in common: their network interfaces."""
    return encode(sorted(item for item in plan.variables.items() if item[0].endswith("_IFNAME")))
