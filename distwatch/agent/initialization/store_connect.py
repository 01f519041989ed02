"""Connecting to the store, and the findings if that fails."""

from __future__ import annotations

import time
from collections.abc import Callable

from distwatch.agent.initialization.environment import Launched
from distwatch.state.advice import NO_ANSWER, RANK_0_HOST, UNRESOLVED
from distwatch.state.finding import Evidence, Finding
from distwatch.tcpstore import StoreClient, StoreUnreachable

ANSWER_WITHIN_S = 3.0
SILENCES = 3
"""A store may answer slowly while 10,000 clients connect at once."""
FIRST_PAUSE_S = 0.01
LONGEST_PAUSE_S = 0.5


def connect(
    host: str, port: int, within_s: float, tell: Callable[[str], None] = lambda _: None
) -> StoreClient:
    """Connects to the store as soon as it is there.

    Fails at once where waiting cannot help (another program answers); waits where a name does not
    resolve yet, nobody listens yet, or the host does not answer yet.

    Args:
        tell: called with the reason for waiting whenever it changes.

    Raises:
        StoreUnreachable: no connection within the deadline; with the last reason.
    """
    until = time.monotonic() + within_s
    pause_s, silences, told = FIRST_PAUSE_S, 0, ""
    while True:
        left_s = until - time.monotonic()
        try:
            # At least one attempt, even at the very end.
            return StoreClient.connect(
                host, port, timeout_s=max(0.05, min(ANSWER_WITHIN_S, left_s))
            )
        except StoreUnreachable as error:
            silences = silences + 1 if error.outcome == "silent" else 0
            if error.outcome == "foreign" or silences >= SILENCES:
                raise
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise
            if error.detail != told:
                told = error.detail
                tell(told)
        time.sleep(min(pause_s, left_s))
        pause_s = min(1.5 * pause_s, LONGEST_PAUSE_S)


def not_reached(launched: Launched, error: StoreUnreachable) -> Finding:
    """Why this rank cannot reach the store, as far as it can tell alone."""
    rank = launched.global_rank or 0
    taken = error.outcome in ("foreign", "silent")
    advice = {
        "unresolved": UNRESOLVED,
        "no_answer": NO_ANSWER,
        "refused": "Check MASTER_PORT, and that the process that hosts the store is running.",
        "silent": "See who listens there (ss -ltnp). Choose another MASTER_PORT, or end or resume that program.",
    }
    return Finding(
        code="rendezvous.port_taken" if taken else "rendezvous.store_unreachable",
        waiting_ranks=(rank,),
        summary=f"rank {rank} cannot connect to the TCPStore at {launched.endpoint}: {error.detail}",
        advice=advice.get(error.outcome, ""),
        evidence=(Evidence("store", f"{launched.endpoint}: {error.detail}", rank),),
        confidence=0.9 if error.outcome in ("unresolved", "foreign") else 0.7,
    )


def not_hosted(launched: Launched, words: str) -> Finding:
    """Why this rank cannot host the store."""
    rank = launched.global_rank or 0
    taken = "in use" in words or "EADDRINUSE" in words
    first = words.strip().splitlines()[0][:300] if words.strip() else "no reason given"
    if taken:
        summary = (
            f"rank {rank} cannot listen at {launched.endpoint}: another program uses that port"
        )
        advice = ""
    else:
        summary = f"rank {rank} cannot host the store at {launched.endpoint}: {first}"
        advice = RANK_0_HOST
    return Finding(
        code="rendezvous.port_taken" if taken else "rendezvous.store_unreachable",
        severity="crash",
        waiting_ranks=(rank,),
        summary=summary,
        advice=advice,
        evidence=(Evidence("store", first, rank),),
        confidence=0.8,
    )
