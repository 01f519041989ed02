"""The numbers of collectives, asked of torch by the Python path and counted by the compiled module."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integrations.observed_group import Job, Tensor


def call(group: Any, times: int, argument: Any = None) -> None:
    for _ in range(times):
        group.allreduce(argument if argument is not None else [Tensor(1)], None)


def test_a_group_that_python_alone_calls_is_counted_and_not_asked(job: Job) -> None:
    group = job.group_type()
    call(group, 70)
    job.beat(group)
    asked = group.asked
    call(group, 50)
    job.beat(group)
    call(group, 8)
    assert [o.seq for o in job.operations()] == list(range(1, 129))
    assert {o.tag for o in job.operations()} == {0}
    assert job.counts.last_collectives() == {"0": 128}
    new_lines = 2  # their first calls go through Python
    assert group.asked == asked + (58 if job.counts.compiled is None else new_lines)


def test_few_calls_and_calls_before_the_first_beat_are_asked_for(job: Job) -> None:
    group = job.group_type()
    call(group, 30)
    job.beat(group)
    call(group, 30)
    assert group.asked >= 60


@pytest.mark.parametrize("found_by", ["the next beat", "a call from a new line"])
def test_no_number_is_wrong_where_others_call_the_group_too(job: Job, found_by: str) -> None:
    group = job.group_type()
    call(group, 70)
    job.beat(group)
    call(group, 10)
    group.number += 1  # from C++
    call(group, 10)
    if found_by == "the next beat":
        job.beat(group)
    call(group, 5)
    truth = [*range(1, 81), *range(82, 97)]
    seqs = [o.seq for o in job.operations()]
    assert all(seq in {number, -1} for seq, number in zip(seqs, truth, strict=True))
    assert seqs[:70] == truth[:70]
    assert seqs[-5:] == truth[-5:]
    for _ in range(100):
        call(group, 1)
        job.beat(group)
    before = group.asked
    call(group, 10)
    assert group.asked == before + 10


def test_p2p_in_between_does_not_shift_what_is_counted(job: Job) -> None:
    group = job.group_type()
    call(group, 70)
    job.beat(group, group.number)
    for _ in range(5):
        group.send([Tensor(1)], 1, 0)
        call(group, 2)
    assert [o.seq for o in job.operations() if o.op == "allreduce"] == list(range(1, 81))


@pytest.mark.parametrize("tag", [0, 1])
def test_a_send_keeps_its_number_where_counted_calls_lose_theirs(job: Job, tag: int) -> None:
    group = job.group_type()
    call(group, 70)
    job.beat(group)
    call(group, 10)
    group.send([Tensor(1)], 1, tag)
    group.number += 1  # from C++
    call(group, 10)
    job.beat(group)
    done = job.operations()
    assert job.counts.compiled is None or -1 in [o.seq for o in done if o.op == "allreduce"]
    (sent,) = [o for o in done if o.op == "send"]
    assert (sent.tag, sent.p2p_seq) == (tag, 1)


def test_a_refused_call_does_not_shift_what_is_counted(job: Job) -> None:
    group = job.group_type()
    call(group, 70)
    for _ in range(3):
        job.beat(group)
        call(group, 3)
        with pytest.raises(TypeError):
            call(group, 1, "refused")
        call(group, 3)
    assert [o.seq for o in job.operations()] == [
        *range(1, 71),
        *(n for n in range(71, 89) for _ in range(2 if n in {74, 80, 86} else 1)),
    ]


def test_a_call_that_torch_has_not_counted_yet_is_no_one_elses(job: Job) -> None:
    group = job.group_type()
    call(group, 70)
    job.beat(group)
    call(group, 5)
    call(group, 1, lambda: job.beat(group, group.number - 1))
    call(group, 4)
    assert [o.seq for o in job.operations()] == list(range(1, 81))
