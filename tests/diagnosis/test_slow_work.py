"""Saves, compilations and requests that move nothing; ranks that the library aborts."""

from __future__ import annotations

import pytest

from distwatch.diagnosis.verdict.diagnose import cases_of
from distwatch.diagnosis.verdict.probe_requests import (
    late_ranks,
    locks_of_interest,
    saving,
    waiting_beside,
)
from distwatch.state import events as ev
from distwatch.state.finding import Finding
from distwatch.state.flow import Flow, Moved
from distwatch.state.identity import Identity
from distwatch.state.steps import BUILD_LOCK
from tests.diagnosis.recorded import (
    HOST,
    SECOND,
    RecordedJob,
    frame,
    hung_job,
    judged,
    only_root,
    root,
)

LIB = "/venv/lib/python3.11"
SLEEPING = (frame("main", "/job/train.py", 9),)
TORCH = f"{LIB}/site-packages/torch"
SAVING = (*SLEEPING, frame("save", f"{TORCH}/serialization.py", 944))
WRITING = (
    *SLEEPING,
    frame("save", f"{TORCH}/distributed/checkpoint/state_dict_saver.py", 170),
    frame("FileSystemWriter.write_data", f"{TORCH}/distributed/checkpoint/filesystem.py", 600),
)
LOADING = (*SLEEPING, frame("load", f"{TORCH}/serialization.py", 1400))


@pytest.mark.parametrize(
    ("frames", "sample", "code", "words"),
    [
        (
            SAVING,
            {"syscall": "openat", "blocked_on": "/mnt/m.pt"},
            "checkpoint.save_stalled",
            "(writing) and moves nothing on /mnt/m.pt",
        ),
        (WRITING, {"syscall": "write"}, "checkpoint.save_stalled", "(writing)"),
        (
            LOADING,
            {"syscall": "read", "blocked_on": "/mnt/m.pt"},
            "collective.rank_missing",
            "never entered",
        ),
        (
            (*SLEEPING, frame("readinto", f"{LIB}/socket.py", 700)),
            {"syscall": "recvfrom", "blocked_on": "socket 10.0.0.1:50→10.0.0.9:443"},
            "process.network_wait",
            "from 10.0.0.9:443",
        ),
        (
            (*SLEEPING, frame("accept", f"{LIB}/socket.py", 290)),
            {"syscall": "accept4", "blocked_on": "socket listening on 0.0.0.0:80"},
            "collective.rank_missing",
            "never entered",
        ),
        (
            (*SLEEPING, frame("wait", f"{TORCH}/utils/file_baton.py", 50)),
            {"syscall": "clock_nanosleep"},
            "process.lock_wait",
            "FileBaton",
        ),
        (
            (*SLEEPING, frame("load", f"{TORCH}/utils/cpp_extension.py", 50)),
            {"syscall": "wait4"},
            "process.compiling",
            "nor its compiler",
        ),
    ],
)
def test_work_that_moves_nothing(
    frames: tuple[ev.Frame, ...], sample: dict[str, str], code: str, words: str
) -> None:
    job = hung_job()
    job.stack(2, 30.1, frames)
    job.sample(2, 30.1, "S", **sample)
    assert words in only_root(job, code, 2).summary


def test_a_save_that_writes_is_slow() -> None:
    job = hung_job()
    job.stack(2, 30.1, SAVING)
    moved = Moved(at_ns=int(29.9 * SECOND), written_bytes=1 << 20)
    job.sample(2, 30.1, "S", syscall="write", flow=Flow(main=moved, over_s=2.0))
    (finding,) = judged(job)
    assert (finding.severity, finding.culprit_ranks) == ("warning", (2,))


GLOO = (
    "[enforce fail at gloo/transport/tcp/pair.cc:446] op.preamble.length <= op.nbytes. 800 vs 400"
)


def aborted_job(world: int, said: str, op: str, peer: int = -1) -> RecordedJob:
    """Rank 1 was ended in its last call, for what it received."""
    job = RecordedJob(world)
    job.initialize(*range(world))
    called = ev.Operation(
        number=1, op=op, pg_name="0", seq=-1 if peer >= 0 else 2, p2p_seq=1 if peer >= 0 else -1, peer=peer, numel=100,
        dtype="float32", entered_ns=6 * SECOND,
    )  # fmt: skip
    job.pulse(1, at=6.5, groups={"0": (1, 1, 5.0)}, operations=(called,))
    job.see(6.6, ev.OutputSeen(process=job.key(1), text=said))
    job.exit(1, 7.0, signal=6)
    job.tick(8.0)
    return job


def test_a_rank_that_the_library_aborts_is_a_victim() -> None:
    finding = only_root(aborted_job(2, GLOO, "recv", peer=0), "collective.shape_mismatch", 0, 1)
    assert "received 800 bytes where it expected 400 in recv #1" in finding.summary
    ends = [f for f in judged(aborted_job(2, GLOO, "recv", peer=0)) if f.code == "process.killed"]
    assert [(f.role, f.culprit_ranks) for f in ends] == [("symptom", ())]


def test_of_more_than_two_ranks_nobody_is_guessed() -> None:
    only_root(aborted_job(4, GLOO, "alltoall_base"), "collective.shape_mismatch")


def test_another_abort_is_the_ranks_own() -> None:
    assert (
        root(judged(aborted_job(2, "free(): invalid pointer", "recv", 0))).code == "process.killed"
    )


def test_a_send_that_is_larger_than_its_recv() -> None:
    job = aborted_job(2, "", "recv", peer=0)
    sent = ev.Operation(
        number=1, op="send", pg_name="0", p2p_seq=1, peer=1, numel=200, entered_ns=6 * SECOND
    )
    job.pulse(0, at=8.0, groups={"0": (1, 1, 5.0)}, operations=(sent,))
    finding = only_root(job, "collective.shape_mismatch", 0, 1)
    assert "received 200 elements where it expected 100" in finding.summary


def test_an_abort_in_an_all_to_all_whose_lists_are_not_known() -> None:
    only_root(aborted_job(2, "", "alltoall_base"), "collective.shape_mismatch", 0, 1)
    assert root(judged(aborted_job(2, "", "allreduce"))).code == "process.killed"


def test_the_file_of_a_build_is_named_and_who_has_it_open() -> None:
    job = hung_job()
    job.say(2, 12.0, ev.StepStarted(step=9, name=BUILD_LOCK, label="/ext/lock"))
    job.stack(2, 30.1, (*SLEEPING, frame("wait", f"{TORCH}/utils/file_baton.py", 50)))
    job.sample(2, 30.1, "S", syscall="clock_nanosleep")
    assert locks_of_interest(job.state) == {HOST: {"/ext/lock"}}
    job.see(30.1, ev.LockLooked(host=HOST, path="/ext/lock", age_s=500.0))
    finding = only_root(job, "process.lock_wait", 2)
    assert "(FileBaton), /ext/lock" in finding.summary
    assert any("no process of this host has its lock" in e.text for e in finding.evidence)


@pytest.mark.parametrize(
    ("peer", "host", "words"),
    [
        ("10.0.0.5:443", "hub.example:443", "from hub.example:443 (10.0.0.5:443)"),
        ("10.0.0.5:443", "", "from 10.0.0.5:443"),
        ("10.0.0.2:53", "hub.example:443", "10.0.0.2:53, which it asked for the address of hub.example"),
    ],
)  # fmt: skip
def test_the_host_that_a_rank_waits_for_is_named(peer: str, host: str, words: str) -> None:
    job = hung_job()
    frames = (*SLEEPING, frame("readinto", "/usr/lib/python3.11/socket.py", 705))
    told = {"host": host} if host else {}
    job.see(30.0, ev.ArgumentsRead(process=job.key(2), frames=frames, arguments=told))
    job.stack(2, 30.1, frames)
    job.sample(2, 30.1, "S", syscall="recvfrom", blocked_on=f"socket 10.0.0.1:5→{peer}")
    assert words in only_root(job, "process.network_wait", 2).summary


def test_a_build_lock_that_only_the_frames_name() -> None:
    job = hung_job()
    frames = (*SLEEPING, frame("wait", f"{TORCH}/utils/file_baton.py", 50))
    told = {"lock": "/cache/slow/lock"}
    job.see(30.0, ev.ArgumentsRead(process=job.key(2), frames=frames, arguments=told))
    job.stack(2, 30.1, frames)
    job.sample(2, 30.1, "S", syscall="clock_nanosleep")
    assert "/cache/slow/lock" in only_root(job, "process.lock_wait", 2).summary
    assert locks_of_interest(job.state) == {HOST: {"/cache/slow/lock"}}


def test_a_save_says_how_far_it_is_and_on_which_storage() -> None:
    job = hung_job()
    job.stack(2, 30.1, SAVING)
    job.sample(2, 30.1, "S", syscall="write", blocked_on="/ckpt/part-1")
    assert saving(job.state) == {job.key(2): "/ckpt/part-1"}
    part = ev.WrittenFile(
        path="/ckpt/part-1", written_bytes=3 << 30, unchanged_since_ns=16 * SECOND,
        storage="nfs4", source="filer:/export", mount="/ckpt", free_bytes=0,
    )  # fmt: skip
    job.see(30.1, ev.FilesWritten(process=job.key(2), files=(part,)))
    finding = only_root(job, "checkpoint.save_stalled", 2)
    (told,) = [one.text for one in finding.evidence if "so far" in one.text]
    assert told.startswith("rank 2 has written 3.0 GiB of /ckpt/part-1 so far, no more of it for 1")
    assert told.endswith("(nfs4 filer:/export at /ckpt, 0 B free)")


def test_late_are_those_that_a_warning_calls_slow_and_no_others() -> None:
    """One question for who is watched more closely and whose stacks are taken again."""

    def said(code: str, severity: str, *ranks: int) -> Finding:
        return Finding(code=code, severity=severity, culprit_ranks=ranks, summary="s", advice="a")  # type: ignore[arg-type]

    findings = [
        said("collective.straggler", "warning", 1, 2),
        said("process.compiling", "warning", 2, 3),
        said("process.compiling", "hang", 4),
        said("load.stalled", "warning", 5),
    ]
    assert late_ranks(findings) == {1, 2, 3}


def beside_a_world() -> RecordedJob:
    """Two ranks, and an actor with distwatch that is none."""
    job = RecordedJob(2)
    job.initialize(0, 1)
    job.status[7] = Identity(launcher="ray")
    job.start(7, at=1.0)
    for process in (0, 1, 7):
        job.pulse(process, at=100)
        job.sample(process, 100, "S")
    job.tick(100)
    return job


def beside(job: RecordedJob) -> list[str]:
    worlds = [case.job for case in cases_of(job.state)]
    return [process.key for process in waiting_beside(job.state, worlds, HOST)]


def test_who_waits_in_no_world_is_to_be_looked_at_and_a_rank_is_not() -> None:
    job = beside_a_world()
    assert beside(job) == [job.key(7)]


def test_who_runs_or_may_not_be_looked_at_or_has_ended_is_let_alone() -> None:
    for then in ("runs", "denied", "ended"):
        job = beside_a_world()
        if then == "runs":
            job.sample(7, 101, "R")
        elif then == "denied":
            job.see(101, ev.StackTaken(process=job.key(7), threads=(), error="not permitted"))
        else:
            job.see(101, ev.ExitSeen(process=job.key(7), how="pidfd", exit_code=0))
        assert beside(job) == []


def test_where_no_process_is_a_rank_the_actors_are_looked_at() -> None:
    job = RecordedJob(1)
    for process in (7, 8):
        job.status[process] = Identity(launcher="ray")
        job.start(process, at=1.0)
        job.sample(process, 100, "S")
    job.tick(100)
    assert beside(job) == [job.key(7), job.key(8)]
    job.stack(7, 101, SLEEPING)
    assert beside(job) == [job.key(8), job.key(7)], "the one that nobody has looked at comes first"
