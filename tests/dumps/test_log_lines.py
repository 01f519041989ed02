"""Lines of logs: who wrote them, when, and where a traceback goes on."""

from __future__ import annotations

import pytest

from distwatch.dumps.evidence import kind_of
from distwatch.dumps.log.clock import UNSAID, LogClock
from distwatch.dumps.log.facts import Named, Raised, Who, Wrote
from distwatch.dumps.log.job_log import HEAD, TAIL, LogFile, read_log
from distwatch.dumps.log.lines import Reader, identity_said, plain, reader_of
from distwatch.dumps.log.roster import Roster

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("raw", "labels", "rank", "text"),
    [
        ("[rank3]: hello", (), 3, "hello"),
        ("[default1]:[rank5]:[E412 09:22:41.1 X.cpp:1] y", ("local:f:1",), 5, "[E412 09:22:41.1 X.cpp:1] y"),
        ("[1,7]<stderr>:bad", ("task:7",), None, "bad"),
        ("Sat Nov 29 03:14:01 2025[1,2]<stderr>:bad", ("task:2",), None, "bad"),
        ("[prterun-n1-33@1,2]<stdout>: ok", ("task:2",), None, "ok"),
        ("(Trainer pid=51, ip=10.0.0.2) go", ("pid:51@10.0.0.2", "actor:Trainer:51@10.0.0.2"), None, "go"),
        ("(VllmWorker rank=1 pid=9) go", ("pid:9", "actor:VllmWorker:9"), 1, "go"),
        ("[pod/job-worker-2/main] x", ("pod:job-worker-2",), None, "x"),
        ("\x1b[36m(A pid=5)\x1b[0m \x1b[31mred\x1b[0m", ("pid:5", "actor:A:5"), None, "red"),
        (' 40%|####  | 4/10\r[rank0]: done', (), 0, "done"),
        ('{"log":"[rank2]: a\\"b\\n","stream":"stderr","time":"t"}', (), 2, 'a"b'),
        ("2026-08-08T17:40:02.463Z stderr F [rank1]: x", (), 1, "x"),
        ("[rank: 2] Seed set to 1", (), 2, "Seed set to 1"),
        ("n1:41:52 [0] NCCL INFO comm", (), None, "n1:41:52 [0] NCCL INFO comm"),
    ],
)  # fmt: skip
def test_prefixes_say_who_wrote_a_line(
    raw: str, labels: tuple[str, ...], rank: int | None, text: str
) -> None:
    (line,) = Reader(scope="f").lines(raw)
    assert (line.who.labels, line.who.global_rank, line.text) == (labels, rank, text)


def test_two_ranks_on_one_line_are_two_lines() -> None:
    parts = list(Reader(scope="f").lines("50%| [rank0]: a[default1]:[rank4]: b"))
    assert [(p.who.global_rank, p.text) for p in parts] == [
        (None, "50%| "), (0, "a"), (4, "b"),
    ]  # fmt: skip


def test_services_of_compose_are_writers_and_ranks_say_their_world() -> None:
    compose = reader_of(["rank0-1  | a", "rank1-1  | b"] * 2, "f", Who())
    (line,) = compose.lines("rank1-1  | it fails")
    assert (line.who.labels, line.text) == (("word:rank1-1",), "it fails")
    assert not any(
        line.who.labels for line in reader_of(["a | b", "c d"], "f", Who()).lines("a | b")
    )
    for text in ("env:// [rank=3, world_size=4]", "cdb=None rank=3 world_size=4", "rank 3 of 4"):
        assert identity_said(text) == (3, 4)
    assert identity_said("local_rank=3 world_size=4") is None


def test_a_number_and_a_colon_are_a_task_only_where_most_lines_have_them() -> None:
    srun = reader_of(["0: a", "1: b", " 12: c"], "f", Who())
    (line,) = srun.lines(" 12: c")
    assert (line.who.labels, line.text) == (("task:12",), "c")
    plain_log = reader_of(["loss", "epoch", "12: 30 is the time", "x"], "f", Who())
    (line,) = plain_log.lines("12: 30 is the time")
    assert line.who.labels == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rank 3 of 4, device cuda:0", (3, 4)),
        ("[trainer] rank 0/4 ready", (0, 4)),
        ("initialised global rank 9 of 16, group 'actor' rank 1 of [8, 9]", (9, 16)),
        ("Initializing distributed: GLOBAL_RANK: 2, MEMBER: 3/4", (2, 4)),
        ("local rank 3 of 8", None),
        ("tp rank 1 of 2", None),
        ("the 3 of 4 best", None),
        ("rank 5 of 4", None),
    ],
)
def test_only_a_global_rank_is_taken_for_one(text: str, said: tuple[int, int] | None) -> None:
    assert identity_said(text) == said


def test_times_of_all_kinds_are_one_clock() -> None:
    clock = LogClock(2026)
    assert clock.time_ns("no time yet") < UNSAID
    glog = clock.time_ns("[rank0]:[E321 02:07:08.5 ProcessGroupNCCL.cpp:607] x")
    iso = clock.time_ns("[2026-03-21 02:07:09] n:1:2 [0] NCCL WARN")
    dmesg = clock.time_ns("[Sat Mar 21 02:07:10 2026] mlx5_core")
    syslog = clock.time_ns("Mar 21 02:07:11 n1 kernel: x")
    assert [iso - glog, dmesg - iso, syslog - dmesg] == [SECOND // 2, SECOND, SECOND]
    assert clock.time_ns("no time") > syslog


def read(text: str) -> list[object]:
    return list(read_log(LogFile(name="f", content=text.encode(), scope="f")))


def test_a_traceback_is_followed_between_the_lines_of_other_ranks() -> None:
    facts = read(
        "[rank0]: Traceback (most recent call last):\n"
        "[rank1]: Traceback (most recent call last):\n"
        '[rank0]:   File "/a.py", line 3, in f\n'
        '[rank1]:   File "/b.py", line 4, in g\n'
        "[rank1]:     ~~~^^^\n"
        "[rank0]: ValueError: one\n"
        "[rank1]: KeyError: 'two'\n"
        "[rank0]: more of it\n"
    )
    raised = [fact for fact in facts if isinstance(fact, Raised)]
    assert {(f.who.global_rank, f.type_name, f.message, f.file) for f in raised} == {
        (0, "ValueError", "one\nmore of it", "/a.py"),
        (1, "KeyError", "'two'", "/b.py"),
    }


def test_of_a_chain_the_cause_counts_where_the_rest_is_a_lost_peer() -> None:
    (raised,) = [
        fact
        for fact in read(
            "[rank0]: Traceback (most recent call last):\n"
            '[rank0]:   File "/a.py", line 3, in f\n'
            "[rank0]: ValueError: mine\n"
            "\n"
            "[rank0]: During handling of the above exception, another exception occurred:\n"
            "\n"
            "[rank0]: Traceback (most recent call last):\n"
            '[rank0]:   File "/a.py", line 9, in close\n'
            "[rank0]: torch.distributed.DistBackendError: NCCL communicator was aborted on rank 0.\n"
        )
        if isinstance(fact, Raised)
    ]
    assert (raised.type_name, raised.line) == ("ValueError", 3)


def test_the_last_line_of_a_rank_that_fell_silent_in_the_middle_is_found() -> None:
    rows = [f"[rank0]: step {n} {'x' * 60}\n" for n in range(2 * (HEAD + TAIL) // 60)]
    rows.insert(len(rows) // 2, "[rank1]: opening shard 231\n")
    rows.insert(0, "[rank1]: step 0\n")
    last = {f.who.global_rank: f.text for f in read("".join(rows)) if isinstance(f, Wrote)}
    assert last[1] == "opening shard 231"


def test_a_label_of_two_ranks_is_none_of_them() -> None:
    facts = [
        Named(who=Who(labels=("word:n1", "pid:5"), global_rank=0)),
        Named(who=Who(labels=("word:n1", "pid:6"), global_rank=1)),
    ]
    roster = Roster(facts)
    assert roster.rank_of(Who(labels=("word:n1",))) is None
    assert roster.rank_of(Who(labels=("pid:6",))) == 1


def test_local_ranks_of_a_second_node_follow_from_one_that_is_known() -> None:
    facts = [
        Named(who=Who(labels=("local:a:0",), global_rank=0)),
        Named(who=Who(labels=("local:b:1",), global_rank=5)),
        Named(who=Who(labels=("local:b:3",))),
    ]
    assert Roster(facts).rank_of(Who(labels=("local:b:3",))) == 7


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\x80\x04.", "recorder"),
        (b'{"entries": []}', "recorder"),
        (b"[]", "py-spy json"),
        (b'{"message": {"message": "x"}}', "error file"),
        (b'{"communicators": []}', "ras json"),
        (b"Process 5: python\nPython v3.11\n\nThread 5 (idle)\n", "stacks"),
        (b"{'loss': 0.3}\n{'loss': 0.2}\n", "log"),
        (b"[rank0]: x", "log"),
        (b"abc\x00\x01", "unknown"),
    ],
)
def test_content_says_what_a_file_is(content: bytes, kind: str) -> None:
    assert kind_of(content) == kind


def test_an_escape_that_never_ends_is_no_reason_to_stop() -> None:
    assert plain("\x1b]0;title without an end [rank0]: x").endswith("[rank0]: x")
