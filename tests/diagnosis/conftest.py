"""Checked for every job that a test records: its root outlasts its end, and its sentences agree in number."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator

import pytest

from distwatch.diagnosis.facts.host_links import unseen_hosts
from distwatch.diagnosis.verdict.diagnose import cases_of, diagnose
from distwatch.state.model import RunState
from distwatch.state.reducer import reduce
from tests.diagnosis.recorded import PEER_LOST, SECOND, RecordedJob

Root = tuple[str, tuple[int, ...]]
CLOCKS_APART_S = 30.0
"""A record of hosts whose wall clocks differ by more does not say what ended first."""
LATER_S = 3.0
"""Signals that come within two seconds are one wave: what ended before that has another cause."""


def root_of(state: RunState) -> Root | None:
    """Code and culprits of what is at the root; None where nothing blocks the job."""
    first = next(iter(diagnose(state)), None)
    return (first.code, first.culprit_ranks) if first is not None and first.blocks else None


def killed_at_once(job: RecordedJob, now: dict[int, float]) -> None:
    for rank, at in now.items():
        job.exit(rank, at, signal=9)


def interrupted(job: RecordedJob, now: dict[int, float]) -> None:
    """Ctrl-C at the terminal: Python makes an exception of it, where it gets to run."""
    for index, (rank, at) in enumerate(now.items()):
        if index == 0:
            job.fail(rank, at, "KeyboardInterrupt", "")
        job.exit(rank, at + 0.3, signal=2)


def ended_by_the_scheduler(job: RecordedJob, now: dict[int, float]) -> None:
    """SIGTERM to all; who is stuck in native code gets SIGKILL half a minute later."""
    for index, (rank, at) in enumerate(now.items()):
        if index % 2:
            job.exit(rank, at + 30, signal=9)
        else:
            job.exit(rank, at + 0.2, signal=15)


def torn_down_by_the_launcher(job: RecordedJob, now: dict[int, float]) -> None:
    for rank, at in now.items():
        job.exit(rank, at + rank / 1000, signal=15)


def killed_but_for_the_culprits(job: RecordedJob, now: dict[int, float]) -> None:
    """A rank that is in the kernel does not end before its disk answers."""
    for rank in without_culprits(job, now):
        job.exit(rank, now[rank], signal=9)


def without_culprits(job: RecordedJob, ranks: Iterable[int]) -> list[int]:
    """Those of the ranks that the verdict does not blame; of a run of several worlds none."""
    if len(cases_of(job.state)) > 1:
        return []  # a culprit's number is that of a rank in each of the worlds
    _, culprits = root_of(job.state) or ("", ())
    return [r for r in ranks if job.state.processes[job.key(r)].global_rank not in culprits]


GAVE_UP = (
    "[../third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] "
    "Timed out waiting 60000ms for recv operation to complete"
)


def given_up_by_torch(job: RecordedJob, now: dict[int, float]) -> None:
    """torch's timeout ends a rank that waits in a collective, its peers lose it, and the launcher ends the rest."""
    first, *peers = waiting_in_collectives(job, without_culprits(job, now)) or [None]
    for rank, at in now.items() if first is not None else ():
        if rank == first:
            job.fail(rank, at, "RuntimeError", GAVE_UP)
            job.exit(rank, at + 0.4, code=1)
        elif rank in peers:
            job.fail(rank, at + 0.2, "RuntimeError", PEER_LOST)
            job.exit(rank, at + 0.4, code=1)
        else:
            job.exit(rank, at + 1.0, signal=15)


def waiting_in_collectives(job: RecordedJob, ranks: Iterable[int]) -> list[int]:
    """Those of the ranks that wait for others, by the verdict, and are in a collective of an initialized world."""
    hang = diagnose(job.state)[0]
    processes = {rank: job.state.processes[job.key(rank)] for rank in ranks}
    return [
        rank
        for rank, process in processes.items()
        if hang.culprit_ranks
        and process.global_rank in hang.waiting_ranks
        and process.initialized
        and (pulse := process.outside.pulse)
        and any(group.in_flight for group in pulse.groups)
    ]


def asked_to_end_one_after_the_other(job: RecordedJob, now: dict[int, float]) -> None:
    """Between the first ends of a job and the last ones somebody looks."""
    others = without_culprits(job, now)
    for rank in others[: max(1, len(others) // 2)]:
        job.exit(rank, now[rank], signal=15)


ENDINGS: tuple[Callable[[RecordedJob, dict[int, float]], None], ...] = (
    killed_at_once,
    interrupted,
    ended_by_the_scheduler,
    torn_down_by_the_launcher,
    killed_but_for_the_culprits,
    given_up_by_torch,
    asked_to_end_one_after_the_other,
)


def replayed(job: RecordedJob) -> RecordedJob:
    """The same job again, so that something can be added to it."""
    again = copy.copy(job)
    again.state = RunState(run_id="recorded")
    again._seq = dict(job._seq)
    again.headers = dict(job.headers)
    again.records = {stream: list(records) for stream, records in job.records.items()}
    for stream, records in job.records.items():
        for seq, time_ns, event in records:
            reduce(again.state, job.headers[stream], seq, time_ns, event)
    return again


def times_of_living_ranks(job: RecordedJob) -> dict[int, float]:
    """By rank that lives and is seen: some seconds after the newest time of its host."""
    hidden = unseen_hosts(job.state)  # nobody sees their ends either
    by_key = {job.key(rank): rank for rank in range(job.world + 64)}
    return {
        by_key[key]: job.state.hosts[process.host].now_ns / SECOND + LATER_S
        for key, process in sorted(job.state.processes.items())
        if key in by_key
        and process.host not in hidden
        and process.ended_ns is None
        and process.exception is None
    }


ONE = "is|has|was|does|waits|holds|loads|needs|calls|sits|lives"
SEVERAL = "are|have|were|do|wait|hold|load|need|call|sit|live"
WRONG_NUMBER = re.compile(
    rf"\branks [\d,-]+ ({ONE})\b|(?<!and )\brank \d+ ({SEVERAL})\b|\branks \d+(?![\d,-]| to \d)"
)


@pytest.fixture(autouse=True)
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[RecordedJob]:
    """The jobs that the test records."""
    jobs: list[RecordedJob] = []
    begin = RecordedJob.__init__

    def remember(job: RecordedJob, *args: object, **kwargs: object) -> None:
        begin(job, *args, **kwargs)  # type: ignore[arg-type]
        jobs.append(job)

    monkeypatch.setattr(RecordedJob, "__init__", remember)
    return jobs


@pytest.fixture(autouse=True)
def numbers_agree(recorded: list[RecordedJob]) -> Iterator[None]:
    """`rank 2 waits`, `ranks 0-1 wait`: in every sentence of every finding."""
    yield
    for job in recorded:
        for finding in diagnose(job.state):
            for text in (finding.summary, finding.advice, *(e.text for e in finding.evidence)):
                assert not WRONG_NUMBER.search(text), text


@pytest.fixture(autouse=True)
def roots_outlast_the_end(
    request: pytest.FixtureRequest, recorded: list[RecordedJob]
) -> Iterator[None]:
    """Ends each job that the test recorded in each way: the root that was there is there."""
    yield
    for job in recorded:
        before, times = root_of(job.state), times_of_living_ranks(job)
        if (
            before is None
            or not times
            or max(times.values()) - min(times.values()) > CLOCKS_APART_S
        ):
            continue
        for end in ENDINGS:
            ended = replayed(job)
            end(ended, times)
            assert root_of(ended.state) == before, (
                f"{end.__name__} changed the root of {request.node.name}: "
                f"{[(f.role, f.severity, f.code, f.culprit_ranks) for f in diagnose(ended.state)]}"
            )
