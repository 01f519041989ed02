"""Processes that a C++ exception ended: what their logs say last, and who is to blame by that."""

from __future__ import annotations

import pytest

from distwatch.diagnosis.facts.deaths import deaths_of
from distwatch.diagnosis.facts.outside_view import largest_job
from distwatch.dumps.log.facts import Raised, Who
from distwatch.dumps.log.job_log import HEAD, TAIL, LogFile, read_log
from distwatch.dumps.watchdog_lines import events_of_aborts
from distwatch.state import events as ev
from tests.diagnosis.recorded import SECOND, RecordedJob, judged, only_root, root

GLOO = (
    "[enforce fail at gloo/transport/tcp/pair.cc:456] op.preamble.length <= op.nbytes. 932 vs 36."
)
PEER_CLOSED = "[gloo/transport/tcp/pair.cc:537] Connection closed by peer [10.0.0.2]:4711"
RESET = "recvValueWithTimeout failed on SocketImpl(fd=8, addr=[a]:33, remote=[b]:29500): Connection reset by peer"
BROKEN = "sendBytes failed on SocketImpl(fd=8, addr=[a]:33, remote=[b]:29500): Broken pipe"
WATCHDOG = "[PG ID 0 PG GUID 0 Rank 1] Process group watchdog thread terminated with exception: "
REMOTE = (
    WATCHDOG + "NCCL error: remote process exited or there was a network error, NCCL version 2.27.3"
)
ILLEGAL = WATCHDOG + "CUDA error: an illegal memory access was encountered"


def terminated(type_name: str, message: str, prefix: str = "") -> str:
    return (
        f"{prefix}terminate called after throwing an instance of '{type_name}'\n"
        f"{prefix}  what():  {message}\n{prefix}Exception raised from f at x.cpp:3\n"
    )


def raised_in(text: str, who: Who | None = None) -> list[Raised]:
    log = LogFile(name="f", content=text.encode(), scope="f", who=who or Who(global_rank=1))
    return [fact for fact in read_log(log) if isinstance(fact, Raised)]


def test_the_message_is_on_the_next_line_of_the_same_writer() -> None:
    text = terminated("gloo::EnforceNotMet", GLOO, "[default1]:").splitlines()
    mixed = "\n".join([text[0], "[default0]:  what():  of rank 0", *text[1:]])
    (one,) = raised_in(mixed, Who())
    assert (one.type_name, one.message) == ("gloo::EnforceNotMet", GLOO)
    assert one.who.labels == ("local:f:1",)
    assert raised_in("terminate called without an active exception\n  what():  x\n") == []


def test_it_is_found_in_the_middle_of_a_large_log() -> None:
    filler = "step 1 loss 2.0\n" * ((HEAD + TAIL) // 8)
    (one,) = raised_in(filler + terminated("std::runtime_error", "no vocabulary") + filler)
    assert (one.type_name, one.message) == ("std::runtime_error", "no vocabulary")


def abort(job: RecordedJob, rank: int, at: float, said: str) -> None:
    """SIGABRT ends a rank, and its log, which ends with these words, is read."""
    job.exit(rank, at, signal=6)
    for event in events_of_aborts([(said.encode(), frozenset({rank}))], {rank: job.key(rank)}):
        job.see(at + 0.1, event)


def two_ranks(of_rank_1: str, *, first: ev.ExitSeen | None) -> RecordedJob:
    """Rank 0 ended as `first` says, a second before rank 1 was aborted with these words in its log."""
    job = RecordedJob(2)
    job.initialize(0, 1)
    if first is not None:
        job.exit(0, 6.0, code=first.exit_code, signal=first.signal)
    abort(job, 1, 7.0, of_rank_1)
    job.tick(8.0)
    return job


@pytest.mark.parametrize(
    ("type_name", "message"),
    [
        ("gloo::IoException", PEER_CLOSED),
        ("c10::DistNetworkError", RESET),
        ("c10::DistNetworkError", BROKEN),
        ("c10::DistBackendError", REMOTE),
        ("c10::DistStoreError", "wait timeout after 60000ms, keys: /default_pg/0/nccl"),
    ],
)
@pytest.mark.parametrize("code", [0, 5])
def test_a_rank_that_lost_a_peer_is_a_victim(type_name: str, message: str, code: int) -> None:
    job = two_ranks(terminated(type_name, message), first=ev.ExitSeen(process="", exit_code=code))
    assert set(deaths_of(largest_job(job.state)).victims) == {1}
    finding = only_root(job, "process.exited", 0)
    assert 1 in finding.waiting_ranks or any(
        "rank 1 is a victim" in e.text for e in finding.evidence
    )


@pytest.mark.parametrize(
    ("type_name", "message", "words"),
    [
        ("std::runtime_error", "tokenizer: no vocabulary", "std::runtime_error: tokenizer"),
        ("c10::DistBackendError", ILLEGAL, "illegal memory access"),
    ],
)
def test_its_own_exception_is_named(type_name: str, message: str, words: str) -> None:
    finding = root(judged(two_ranks(terminated(type_name, message), first=None)))
    assert (finding.code, finding.culprit_ranks) == ("process.exited", (1,))
    assert words in finding.summary


def test_without_words_an_abort_is_the_ranks_own() -> None:
    finding = root(judged(two_ranks("step 5\n", first=None)))
    assert (finding.code, finding.culprit_ranks) == ("process.killed", (1,))


def test_lines_of_a_shared_log_count_where_they_agree() -> None:
    reset, own = terminated("c10::DistNetworkError", RESET), terminated("std::bad_alloc", "bad")
    keys = {1: "a", 2: "b"}
    both = events_of_aborts([((reset + reset).encode(), frozenset({0, 1, 2}))], keys)
    assert [one.process for one in both] == ["a", "b"]
    assert events_of_aborts([((reset + own).encode(), frozenset({0, 1, 2}))], keys) == []


def test_a_traceback_of_an_earlier_start_says_nothing() -> None:
    text = '[rank1]: Traceback (most recent call last):\n[rank1]:   File "a.py", line 1, in f\n'
    text += "[rank1]: ValueError: retried\n"
    assert events_of_aborts([(text.encode(), frozenset({1}))], {1: "a"}) == []


def test_a_call_that_is_over_did_not_end_its_rank() -> None:
    job = RecordedJob(2)
    job.initialize(0, 1)
    call = ev.Operation(
        number=1, op="allreduce", pg_name="0", seq=1, numel=8, dtype="float32", entered_ns=5 * SECOND
    )  # fmt: skip
    job.pulse(1, at=6.5, groups={"0": (1, 1, 6.0)}, operations=(call,))
    abort(job, 1, 7.0, terminated("gloo::EnforceNotMet", GLOO))
    job.tick(8.0)
    finding = only_root(job, "collective.shape_mismatch", 0, 1)
    assert "that C++ called (DDP, FSDP); the last known is #1" in finding.summary


def test_calls_from_cpp_are_not_taken_for_the_last_one_from_python() -> None:
    job = RecordedJob(2)
    job.initialize(0, 1)
    for rank, reached in ((0, 17), (1, 18)):
        call = ev.Operation(
            number=1, op="allreduce", pg_name="0", seq=1, numel=8, dtype="float32", entered_ns=5 * SECOND
        )  # fmt: skip
        job.pulse(rank, at=6.5, groups={"0": (reached, reached - 1, 6.0)}, operations=(call,))
    abort(job, 1, 7.0, terminated("gloo::EnforceNotMet", GLOO))
    job.tick(8.0)
    finding = only_root(job, "collective.shape_mismatch", 0, 1)
    assert "received 932 bytes where it expected 36" in finding.summary
    assert "that C++ called (DDP, FSDP); the last known is #18" in finding.summary
    assert any("up to #17 since" in one.text for one in finding.evidence)


@pytest.mark.parametrize("message", [RESET, BROKEN])
def test_a_lost_store_is_one_also_where_the_type_is_a_plain_one(message: str) -> None:
    job = RecordedJob(2)
    job.initialize(0, 1)
    job.exit(0, 6.0, code=5)
    job.say(1, 6.5, ev.ExceptionUncaught(type_name="RuntimeError", message=message))
    job.exit(1, 7.0, code=1)
    job.tick(8.0)
    assert set(deaths_of(largest_job(job.state)).victims) == {1}
    assert only_root(job, "process.exited", 0)


def test_where_all_lost_a_peer_nobody_is_blamed_and_it_is_not_silent() -> None:
    job = RecordedJob(2)
    job.initialize(0, 1)
    for rank in (0, 1):
        abort(job, rank, 6.0 + rank, terminated("c10::DistNetworkError", RESET))
    job.tick(8.0)
    finding = only_root(job, "process.exited")
    assert (finding.severity, finding.waiting_ranks) == ("crash", (0, 1))
    assert "who ended first was not seen" in finding.summary


def test_who_lost_a_peer_blames_nobody_before_the_end_of_that_peer_is_seen() -> None:
    """Its own exception is known milliseconds before the peer's end, and names the job's end for nobody."""
    job = RecordedJob(2)
    job.initialize(0, 1)
    job.say(0, 6.0, ev.ExceptionUncaught(type_name="RuntimeError", message=RESET))
    job.tick(6.01)
    assert judged(job) == []
    job.exit(1, 6.02, signal=9)
    job.say(0, 6.03, ev.ProcessEnding(reason="exit"))
    for at in (6.1, 6.5, 9.5):
        job.tick(at)
        assert only_root(job, "process.killed", 1).waiting_ranks == (0,)
    job.exit(0, 9.6, code=1)
    job.tick(12.0)
    assert only_root(job, "process.killed", 1).waiting_ranks == (0,)
