"""Why a load does not move: what its threads do, what the kernel says, who holds the lock."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

import msgspec

from distwatch.diagnosis.facts.activity import activity_of, on_what
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.loads import LoadStatus
from distwatch.state.events import LockLooked
from distwatch.state.finding import Evidence
from distwatch.state.loads import Outstanding
from distwatch.state.model import Process
from distwatch.state.quantities import seconds
from distwatch.state.rank_sets import name_ranks
from distwatch.visible_text import shorten

GENERATION_CONFIG = "generation config"
OFFLOAD_REREAD = "offload re-read"
_REREAD = (
    "With offload_state_dict, transformers writes CPU weights into TMPDIR and reads all of them again after the "
    "last shard: leave offload_state_dict out, or set TMPDIR to a fast local disk."
)


_WITHOUT_FILES = {
    "model": "The model is built here, by its own constructors: look at the line above.",
    "device map": "The map follows from the model's sizes and each device's free memory: look at the line above; a "
    "device that does not answer (nvidia-smi) holds it.",
    "allocator warm-up": "Memory of the device is reserved here: a device that does not answer (nvidia-smi) holds it.",
    "smoke test": "The model's own forward runs here: look at the line above.",
    "tie": "Ties connect parameters that share memory, by the model's own code: look at the line above, and at what "
    "other threads of this rank do.",
    "dispatch": "accelerate moves modules to their devices here: look at the line above; a device that does not "
    "answer (nvidia-smi) or a hook of the model holds it.",
    "finalize": "Parameters are tied and missing ones initialized here, by the model's code: look at the line above.",
}
"""By the phase: what to do where it does not move."""
_IN_A_LOCK = "Look at what holds that lock: another thread of this rank, by its stack, or a library's import."


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """What blocks a load. `text` ends the sentence that names the phase; '' as `advice`: its code's advice."""

    code: str
    text: str
    advice: str = ""
    key: str = ""
    """The same for all ranks that one thing blocks; '' where the cause is this rank's own."""
    since_s: float = 0.0
    is_never_healthy: bool = False
    """Whether a healthy load is never in this state for more than some seconds."""
    culprits: tuple[int, ...] = ()
    """Culprits other than the load's own rank."""
    evidence: tuple[Evidence, ...] = ()
    confidence: float = 0.95


def cause_of(case: Case, rank: int, process: Process, load: LoadStatus) -> Cause:
    """The cause, from its pulse, its journal and the look from outside."""
    waits = [outstanding for outstanding in load.outstanding if outstanding.waiting != "file"]
    oldest = waits[0] if waits else None
    if oldest is not None and oldest.waiting == "lock":
        return _lock(case, rank, process, oldest)
    if oldest is not None:
        return _hub(case, process, load, oldest)
    file = next((outstanding.what for outstanding in load.outstanding), "")
    reason = _reason(case, process, load, file)
    if load.phase == GENERATION_CONFIG:
        return Cause(code="load.generation_config_stalled", text=reason)
    advice = _REREAD if load.phase == OFFLOAD_REREAD else ""
    if not advice and not _is_about_a_file(process, load, file):
        return _no_file(case, rank, process, load)
    # Ranks that stop in one checkpoint stop for one reason: its disk.
    key = f"{load.arguments.checkpoint}: {load.phase}" if load.arguments.checkpoint else ""
    return Cause(code="load.stalled", text=reason, advice=advice, key=key)


def _is_about_a_file(process: Process, load: LoadStatus, file: str) -> bool:
    """Whether anything shows that it reads: a file of the phase, of a thread, of the kernel, or D state."""
    sample = process.outside.sample
    in_kernel = sample is not None and (sample.state == "D" or sample.blocked_on.startswith("/"))
    return bool(load.file or file or in_kernel) or load.phase not in _WITHOUT_FILES


def _no_file(case: Case, rank: int, process: Process, load: LoadStatus) -> Cause:
    """Constructors, dispatch, ties and what follows the last shard read nothing: the stack says what holds them."""
    activity = activity_of(case.state, process)
    doing = f", {activity.doing}" if activity is not None else ""
    if case.job.was_frozen(process):
        doing = ", with the GIL held"
    place = case.where(rank)
    at = f" at {place}" if place else ""
    advice = _IN_A_LOCK if activity is not None and activity.kind == "lock" else ""
    return Cause(
        code="load.stalled",
        text=f"{doing}{at}; it reads no file in this phase",
        advice=advice or _WITHOUT_FILES[load.phase],
        confidence=0.9,
    )


def _reason(case: Case, process: Process, load: LoadStatus, file: str) -> str:
    known = f" on {file}" if file and file.rpartition("/")[2] != load.file else ""
    blocked_on = on_what(process) or known
    if case.job.kernel_state(process) == "D":
        return f", blocked in the kernel{blocked_on or _on_file(load)}"
    if case.job.was_frozen(process):
        held = f" while it waits{blocked_on}" if blocked_on else _on_file(load)
        return f", with the GIL held{held}"
    return f", waiting{blocked_on}" if blocked_on else ""


def _on_file(load: LoadStatus) -> str:
    return " in a read of that file" if load.file else ""


def _hub(case: Case, process: Process, load: LoadStatus, waits: Outstanding) -> Cause:
    since_s = case.job.age_s(process, waits.since_ns)
    url = waits.what.rpartition(" ")[2]
    host = urlsplit(url).netloc
    at = f" from {host}" if host else ""
    is_body = waits.waiting == "download"
    what = f"the body of {url or waits.what}" if is_body else f"an answer{at} to {waits.what}"
    again = f" (attempt {waits.attempts})" if waits.attempts > 1 else ""
    failed = f"; the last attempt: {waits.last_error}" if waits.last_error else ""
    text = f", waiting for {what}{again}{failed}"
    generation = load.phase == GENERATION_CONFIG
    return Cause(
        code="load.generation_config_stalled" if generation else "load.hub_unreachable",
        text=text,
        key=host,
        since_s=since_s,
        # The body of a large file takes its time: only a body that does not move is a sign.
        is_never_healthy=not is_body,
    )


def _lock(case: Case, rank: int, process: Process, waits: Outstanding) -> Cause:
    since_s = case.job.age_s(process, waits.since_ns)
    host = case.state.hosts.get(process.host)
    looked = host.locks.get(waits.what) if host else None
    if looked is None or looked.not_observed:
        why = looked.not_observed if looked else "nobody has looked yet"
        return Cause(
            code="load.stalled",
            text=f", waiting for the lock {waits.what} (its holder was not observed: {why})",
            advice="Find the process that holds that lock (`fuser -v FILE`, `lslocks`).",
            key=waits.what,
            since_s=since_s,
            confidence=0.7,
        )
    holders = [holder for holder in looked.holders if holder.alive]
    if not holders:
        return _nobody_holds(waits, looked, since_s)
    ranks = {p.pid: r for r, p in case.job.ranks.items() if p.host == process.host}
    by_rank = tuple(ranks[h.pid] for h in holders if h.pid in ranks and ranks[h.pid] != rank)
    named = name_ranks(by_rank) if by_rank else _named(looked)
    return Cause(
        code="load.stalled",
        text=f", waiting for the lock {waits.what}, which {named} holds",
        advice="Look at what that process does with the lock, and end it if it is left over from an earlier "
        "job; the load then continues by itself.",
        key=waits.what,
        since_s=since_s,
        culprits=by_rank,
        evidence=tuple(holder_evidence(rank, looked)),
    )


def _nobody_holds(waits: Outstanding, looked: LockLooked, since_s: float) -> Cause:
    age = f", last written {seconds(looked.age_s)} ago" if looked.age_s is not None else ""
    by = f"; its holder ({_named(looked)}) is gone" if looked.holders else ""
    elsewhere = looked.says_host
    text = f", waiting for the lock {waits.what}, which no process on this host holds{age}{by}"
    return Cause(
        code="load.lock_stale",
        text=text + (f"; it was made on {elsewhere}" if elsewhere else ""),
        key=waits.what,
        since_s=since_s,
        # A lock that another host or container holds in the kernel leaves no trace on this host.
        is_never_healthy=bool(looked.holders),
        confidence=0.95 if looked.holders else 0.7,
    )


def _named(looked: LockLooked) -> str:
    holder = looked.holders[0]
    command = f" ({shorten(' '.join(holder.command), 120)})" if holder.command else ""
    return f"pid {holder.pid}{command}" if holder.pid else "a process that this host cannot see"


def holder_evidence(rank: int, looked: LockLooked) -> Iterable[Evidence]:
    """Who holds a lock file."""
    for holder in looked.holders:
        command = shorten(" ".join(holder.command), 200)
        text = (
            f"{looked.path} is held by pid {holder.pid or '?'}{f': {command}' if command else ''}"
        )
        yield Evidence("proc", text, rank)
