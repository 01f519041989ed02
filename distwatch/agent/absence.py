"""Where the ranks are that did not come: what this host sees of them, and the finding of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from distwatch.agent.words import Place
from distwatch.runfolder import RunFolder, host_name, is_alive
from distwatch.state.finding import Evidence, Finding
from distwatch.state.rank_sets import format_ranks
from distwatch.state.verdict import RankStanding, Verdict

ASK_WITHIN_S = 3.0
_LISTED = 8
_WAITS_TOO = "initializing"
_ENDED = ("exited", "failed", "killed")
_NEAREST = {"here": 0, "alive": 1, "ended": 2, "unseen": 3, "unknown": 4}
_CODES = {
    "here": "rendezvous.rank_missing",
    "alive": "rendezvous.rank_missing",
    "ended": "rendezvous.rank_died",
    "unseen": "rendezvous.rank_never_started",
    "unknown": "rendezvous.rank_missing",
}
_ADVICE = {
    "here": "Look at the stacks: every rank has come, and torch still waits.",
    "alive": "Look at what that rank does before its initialization.",
    "ended": "Fix what ended that rank; the others only wait for it.",
    "unseen": "Start the missing ranks, or set WORLD_SIZE to the number that is started.",
    "unknown": "Look for the missing ranks on the other hosts.",
}


def look_for(
    missing: Iterable[int], folder: RunFolder | None
) -> tuple[dict[int, Place], Verdict | None]:
    """What this host sees of missing ranks: by its observer, else by the run's start records."""
    host = host_name()
    if folder is None:
        why = Place(
            host=host, standing="unknown", text=f"distwatch is off on {host}: nobody looked"
        )
        return dict.fromkeys(missing, why), None
    from distwatch.agent.observer_question import ask_verdict

    verdict = ask_verdict(folder, ASK_WITHIN_S)
    if verdict is not None:
        seen = {standing.global_rank: standing for standing in verdict.standings}
        return {rank: _place_of(seen.get(rank), host) for rank in missing}, verdict
    return {rank: _place_by_record(rank, folder, host) for rank in missing}, None


def nearest(places: Iterable[Place]) -> Place:
    """One place from several hosts' views: where it was seen; else that nobody saw it, and who looked."""
    ordered = sorted(places, key=lambda place: _NEAREST[place.standing])
    if not ordered:
        return Place(host="", standing="unknown", text="not observed: no host answered in time")
    first = ordered[0]
    if first.standing != "unseen":
        return first
    hosts = sorted({place.host for place in ordered if place.standing == "unseen"})
    text = f"no process of it was seen on {', '.join(hosts[:_LISTED])}"
    return Place(host=first.host, standing="unseen", text=text)


def finding_of_absence(
    missing: tuple[int, ...],
    arrived: tuple[int, ...],
    world_size: int,
    places: Mapping[int, Place],
    waited_s: float,
) -> Finding:
    """The finding of what is known here: of the ranks that are nearest, the others are told beside it."""
    standing = min((places[rank].standing for rank in missing), key=lambda s: _NEAREST[s])
    culprits = tuple(rank for rank in missing if places[rank].standing == standing)
    told = "; ".join(f"rank {rank}: {places[rank].text}" for rank in missing[:_LISTED])
    more = f" (and {len(missing) - _LISTED} more)" if len(missing) > _LISTED else ""
    return Finding(
        code=_CODES[standing],
        severity="crash" if standing == "ended" else "hang",
        culprit_ranks=culprits,
        waiting_ranks=arrived,
        summary=f"{len(arrived)} of {world_size} ranks came within {waited_s:.0f} s; "
        f"missing: {format_ranks(missing)}. {told}{more}",
        advice=_ADVICE[standing],
        evidence=tuple(
            Evidence(source="proc", global_rank=rank, text=f"rank {rank}: {places[rank].text}")
            for rank in missing[:_LISTED]
        ),
        confidence=0.6 if standing in ("unseen", "unknown") else 0.9,
    )


def _place_of(standing: RankStanding | None, host: str) -> Place:
    if standing is None or standing.pid is None:
        return Place(host=host, standing="unseen", text=f"no process of it was seen on {host}")
    where = f" at {standing.where}" if standing.where else ""
    doing = f": {standing.doing}" if standing.doing else ""
    text = f"{standing.word}{where}{doing} (pid {standing.pid} on {standing.host or host})"
    host = standing.host or host
    if standing.word in _ENDED:
        return Place(host=host, standing="ended", text=text)
    return Place(host=host, standing="here" if standing.word == _WAITS_TOO else "alive", text=text)


def _place_by_record(rank: int, folder: RunFolder, host: str) -> Place:
    records = [
        start
        for start in folder.starts()
        if start.get("RANK") == str(rank) and start.get("role") == "rank"
    ]
    for start in records:
        pid, ticks = int(start.get("pid", 0)), int(start.get("ticks", 0))
        if start.get("host") == host and is_alive(pid, ticks):
            text = f"alive, has not come here (pid {pid} on {host}; no observer, so no stack)"
            return Place(host=host, standing="alive", text=text)
    if records:
        pid = int(records[-1].get("pid", 0))
        text = f"its process has ended (pid {pid} on {records[-1].get('host', '?')})"
        return Place(host=host, standing="ended", text=text)
    return Place(host=host, standing="unseen", text=f"no process of it was seen on {host}")
