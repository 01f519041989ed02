"""Where missing ranks are, as this host and its observer see them, and the finding about it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping

import msgspec

from distwatch.agent.initialization.arrival_messages import Whereabouts
from distwatch.observer_socket import ask_observer
from distwatch.runfolder import RunFolder, host_name, is_alive
from distwatch.state.codes import family_of
from distwatch.state.finding import Evidence, Finding
from distwatch.state.quantities import seconds
from distwatch.state.rank_sets import format_ranks
from distwatch.state.statuses import status_of
from distwatch.state.steps import INIT
from distwatch.state.verdict import ReportedStatus, Verdict

log = logging.getLogger("distwatch")
ASK_WITHIN_S = 3.0
JUDGED_WITHIN_S = 10.0
"""How long an observer that is there may take to say why, since it looks at a crowded host more slowly."""
_AGAIN_S = 0.25
_LISTED = 8
_NEAREST = {"here": 0, "alive": 1, "ended": 2, "unseen": 3, "unknown": 4}
_CODES = {"ended": "rendezvous.rank_died", "unseen": "rendezvous.rank_never_started"}
_ADVICE = {
    "here": "Look at the stacks: every rank has arrived, but torch is still waiting.",
    "unknown": "Look for the missing ranks on the other hosts.",
}


def look_for(missing: Iterable[int], folder: RunFolder | None) -> dict[int, Whereabouts]:
    """What this host knows about missing ranks, from its observer or else the run's start records."""
    host = host_name()
    if folder is None:
        why = Whereabouts(
            host=host, status="unknown", text=f"not observed: distwatch is off on {host}"
        )
        return dict.fromkeys(missing, why)
    verdict = ask_verdict(folder, ASK_WITHIN_S)
    if verdict is not None:
        return places_in(verdict, missing)
    return {rank: _place_by_record(rank, folder, host) for rank in missing}


def places_in(verdict: Verdict, missing: Iterable[int]) -> dict[int, Whereabouts]:
    """Where this host's observer saw missing ranks when it judged."""
    host = host_name()
    seen = {status.global_rank: status for status in verdict.rank_statuses}
    return {rank: _place_of(seen.get(rank), host) for rank in missing}


def ask_verdict(folder: RunFolder, timeout_s: float) -> Verdict | None:
    """The current verdict of this node's observer, with stacks; None where no observer answers.

    Blocks for at most `timeout_s`.
    """
    return _ask(folder, timeout_s)[0]


def ask_until(
    folder: RunFolder,
    explains: Callable[[Verdict], object],
    within_s: float = JUDGED_WITHIN_S,
    is_over: Callable[[], bool] = lambda: False,
) -> tuple[Verdict | None, bool]:
    """The observer's newest verdict, asked for again until it explains; and whether an observer is there.

    On a crowded host the observer answers late, or has judged before each rank's deadline has passed.

    Args:
        is_over: whether nobody needs the answer any more.
    """
    until, newest = time.monotonic() + within_s, None
    while True:
        verdict, is_there = _ask(folder, ASK_WITHIN_S)
        newest = verdict or newest
        done = verdict is not None and explains(verdict)
        if done or not is_there or is_over() or time.monotonic() >= until:
            return newest, is_there
        time.sleep(_AGAIN_S)


def _ask(folder: RunFolder, timeout_s: float) -> tuple[Verdict | None, bool]:
    """The verdict, and whether an observer is there: it may be there and too slow to answer."""
    try:
        answer = ask_observer(folder, {"want": "verdict"}, timeout_s)
        return msgspec.msgpack.decode(answer, type=Verdict), True
    except (OSError, ValueError, msgspec.DecodeError) as error:
        log.info("distwatch: the observer gave no verdict: %s", error)
        return None, isinstance(error, TimeoutError)


def explaining(verdict: Verdict | None, missing: Iterable[int] | None = None) -> Finding | None:
    """The observer's first finding about why a world does not form; with `missing`, about those ranks."""
    for finding in verdict.findings if verdict else ():
        fits = missing is None or set(finding.culprit_ranks) <= set(missing)
        if finding.blocks and family_of(finding.code).forms_world and fits:
            return finding
    return None


def nearest(places: Iterable[Whereabouts]) -> Whereabouts:
    """One place from several hosts' views: where it was seen, else which hosts looked without seeing it."""
    ordered = sorted(places, key=lambda place: _NEAREST[place.status])
    if not ordered:
        return Whereabouts(host="", status="unknown", text="not observed: no host answered in time")
    first = ordered[0]
    if first.status != "unseen":
        return first
    hosts = sorted({place.host for place in ordered if place.status == "unseen"})
    return _unseen(first.host, ", ".join(hosts[:_LISTED]))


def finding_of_absence(
    missing: tuple[int, ...],
    arrived: tuple[int, ...],
    world_size: int,
    places: Mapping[int, Whereabouts],
    waited_s: float,
) -> Finding:
    """A finding from what is known here: it blames the ranks with the clearest status."""
    status = min((places[rank].status for rank in missing), key=lambda s: _NEAREST[s])
    culprits = tuple(rank for rank in missing if places[rank].status == status)
    told = "; ".join(f"rank {rank}: {places[rank].text}" for rank in missing[:_LISTED])
    more = f" (and {len(missing) - _LISTED} more)" if len(missing) > _LISTED else ""
    return Finding(
        code=_CODES.get(status, "rendezvous.rank_missing"),
        severity="crash" if status == "ended" else "hang",
        culprit_ranks=culprits,
        waiting_ranks=arrived,
        summary=f"{len(arrived)} of {world_size} ranks arrived within {seconds(waited_s)}; "
        f"missing: {format_ranks(missing)}. {told}{more}",
        advice=_ADVICE.get(status, ""),
        evidence=tuple(
            Evidence("proc", f"rank {rank}: {places[rank].text}", rank)
            for rank in missing[:_LISTED]
        ),
        confidence=0.6 if status in ("unseen", "unknown") else 0.9,
    )


def _place_of(status: ReportedStatus | None, host: str) -> Whereabouts:
    if status is None or status.pid is None:
        return _unseen(host, host)
    where = f" at {status.where}" if status.where else ""
    doing = f": {status.doing}" if status.doing else ""
    text = f"{status.word}{where}{doing} (pid {status.pid} on {status.host or host})"
    host = status.host or host
    if status_of(status.word).ended:
        return Whereabouts(host=host, status="ended", text=text)
    return Whereabouts(
        host=host, status="here" if status.word == INIT.status else "alive", text=text
    )


def _place_by_record(rank: int, folder: RunFolder, host: str) -> Whereabouts:
    records = [
        start
        for start in folder.starts()
        if start.get("RANK") == str(rank) and start.get("role") == "rank"
    ]
    for start in records:
        pid, ticks = int(start.get("pid", 0)), int(start.get("ticks", 0))
        if start.get("host") == host and is_alive(pid, ticks):
            text = f"alive, but has not arrived (pid {pid} on {host}; no observer, so no stack)"
            return Whereabouts(host=host, status="alive", text=text)
    if records:
        pid = int(records[-1].get("pid", 0))
        text = f"its process has ended (pid {pid} on {records[-1].get('host', '?')})"
        return Whereabouts(host=host, status="ended", text=text)
    return _unseen(host, host)


def _unseen(host: str, hosts: str) -> Whereabouts:
    return Whereabouts(host=host, status="unseen", text=f"no process of this rank on {hosts}")
