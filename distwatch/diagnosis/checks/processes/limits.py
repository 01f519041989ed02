"""process.limit_reached: open files, memory, disk or /dev/shm of a rank are at their limit."""

from __future__ import annotations

from collections.abc import Iterable
from signal import SIGBUS

from distwatch.diagnosis.checks.processes.blocked_ranks import awaited_roots
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.children import children_of, died
from distwatch.diagnosis.facts.deaths import ending_signal
from distwatch.diagnosis.facts.exception_origins import began_with
from distwatch.diagnosis.facts.failures import error_line
from distwatch.diagnosis.facts.rank_status import short_site
from distwatch.diagnosis.facts.signals import end_evidence, first_line
from distwatch.state.events import Site
from distwatch.state.finding import Evidence, Finding
from distwatch.state.limits import first_limit, is_short_write, limit_in
from distwatch.state.model import Process
from distwatch.state.quantities import bytes_text

_SHM = "/dev/shm"
_OF_FILES = ("disk", "file size")
_NOTHING = 0.02
_ADVICE = {
    "open files": "Close what is opened again and again (groups: destroy_process_group(group); files, sockets), or "
    "raise the limit: `ulimit -n`, LimitNOFILE.",
    "/dev/shm": "Give the container more of it (`docker run --shm-size=16g`, an emptyDir of medium Memory), use "
    "fewer data workers, or torch.multiprocessing.set_sharing_strategy('file_system').",
    "memory": "Use less memory on that host (batch, workers, offload), or raise the limit (`ulimit -v`, the cgroup's).",
    "processes and threads": "Start fewer of them (OMP_NUM_THREADS, workers), or raise `ulimit -u` and "
    "the cgroup's pids.max.",
    "disk": "Free space on that file system, or write somewhere else.",
    "disk quota": "Free space, or ask for more quota on that file system.",
    "file size": "Raise `ulimit -f`.",
}


class LimitsReached:
    """A rank's exception, of any thread, says that a limit was reached: it ended the rank, or others wait."""

    def find(self, case: Case) -> Iterable[Finding]:
        roots = awaited_roots(case)
        for rank, process in sorted(case.job.ranks.items()):
            if rank in case.deaths.victims:
                continue  # a library may have raised another rank's error there
            said, site = error_line(process), process.exception.site if process.exception else None
            what = _ending_limit(process)
            ended = bool(what)
            if not ended and rank in roots:
                said, site = _unseen(process)
                what = limit_in(said)
            if what:
                yield self._finding(case, rank, what, said, site, ended=ended)
            elif (full := _full(case, process)) and (killed := _bus_error(case, process)):
                yield self._finding(
                    case,
                    rank,
                    _SHM,
                    f"{killed} got SIGBUS: {full}",
                    None,
                    ended=process.ended_ns is not None,
                )

    def _finding(
        self, case: Case, rank: int, what: str, said: str, site: Site | None, *, ended: bool
    ) -> Finding:
        process = case.job.ranks[rank]
        victims = (set(case.deaths.victims) if ended else set()) | set(case.waiting_for([rank]))
        at = f", at {short_site(site.file, site.line, site.function)}" if site else ""
        more = "which ended it: " if ended else ""
        began = began_with(process.exception) if ended and process.exception else ""
        return Finding(
            code="process.limit_reached",
            severity="crash" if ended else "hang",
            culprit_ranks=(rank,),
            waiting_ranks=tuple(sorted(victims - {rank})),
            summary=f"rank {rank} has reached the limit of {what}{_figures(process, what)}, {more}"
            f"{first_line(said)}{at}{began}",
            advice=_ADVICE.get(what, ""),
            evidence=tuple(_evidence(process, rank, said)),
            confidence=0.95,
        )


def _ending_limit(process: Process) -> str:
    """The limit that its uncaught exception, or what that began with, is about; '' for none."""
    error = process.exception
    if error is None:
        return ""
    said = error_line(process)
    if what := first_limit(said, error.cause):
        return what
    # torch's writer does not say why: the process has looked.
    short = is_short_write(said) or is_short_write(error.cause)
    return next((what for what in _OF_FILES if what in process.limits), "") if short else ""


def _bus_error(case: Case, process: Process) -> str:
    """Which process SIGBUS ended, the rank's own or a child of it: '' for none."""
    if ending_signal(process) == SIGBUS:
        return f"pid {process.pid}"
    dead = died(process, children_of(case, process))
    return next((str(one) for one in dead if ending_signal(one.process) == SIGBUS), "")


def _full(case: Case, process: Process) -> str:
    """What was left of the host's /dev/shm, where that was next to nothing."""
    host = case.state.hosts.get(process.host)
    seen = host.shared_memory if host is not None else None
    if seen is None or seen.least_free > _NOTHING * seen.total:
        return ""
    return f"{bytes_text(seen.least_free)} of {bytes_text(seen.total)} of {_SHM} were free within the last minute"


def _evidence(process: Process, rank: int, said: str) -> Iterable[Evidence]:
    if process.exception is not None:
        yield from end_evidence(process, rank)
    else:
        yield Evidence("journal", f"rank {rank}: {said[:300]}", rank)


def _unseen(process: Process) -> tuple[str, Site | None]:
    """An exception that it holds, or that ended a thread, as `TypeName: message`.

    Not about memory: whether that can ever be had depends on what was asked for.
    """
    for one in (process.held_exception, *reversed(process.dead_threads)):
        text = f"{one.type_name}: {one.message}" if one is not None else ""
        if one is not None and limit_in(text) not in ("", "memory"):
            return text, one.site
    return "", None


def _figures(process: Process, what: str) -> str:
    """` (256 of 256)`, as far as the process could see them."""
    seen = process.limits.get(what)
    if seen is None:
        return ""
    text = bytes_text if what in ("memory", *_OF_FILES, _SHM) else str
    place = f", {seen.path}" if seen.path else ""
    if seen.used is not None and seen.limit is not None:
        return f" ({text(seen.used)} of {text(seen.limit)}{place})"
    if seen.limit is not None:
        return f" (limit {text(seen.limit)}{place})"
    if seen.used is not None:
        return f" ({text(seen.used)} used)"
    return f" ({seen.path})" if seen.path else ""
