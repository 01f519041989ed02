"""Calls of collectives, recorded in Python and by the compiled module: the same tests for both."""

from __future__ import annotations

import gc
import os
import sys
import threading
from typing import Any

import pytest

from distwatch.agent import core, guard
from distwatch.integrations import torch_collectives
from distwatch.state.pulse import SLOTS
from tests.integrations.observed_group import Job, Options, Tensor


def test_each_call_is_recorded_with_its_numbers_and_its_site(job: Job) -> None:
    group, tensor = job.group_type(), Tensor(64)
    for _ in range(3):
        group.allreduce([tensor], None)
    group.barrier(Options())
    operations = job.operations()
    assert [(o.op, o.pg_name, o.seq, o.numel, o.dtype) for o in operations] == [
        *(("allreduce", "0", n, 64, "float32") for n in (1, 2, 3)),
        ("barrier", "0", 4, -1, ""),
    ]
    assert [o.number for o in operations] == sorted(o.number for o in operations)
    assert all(0 < o.entered_ns <= o.left_ns for o in operations)
    assert len({o.site for o in operations[:3]}) == 1
    assert operations[3].site != operations[0].site
    assert job.function_of(operations[0]).startswith("test_each_call_is_recorded")


def test_a_line_is_told_apart_by_the_line_that_called_it(job: Job) -> None:
    group, tensor = job.group_type(), Tensor(1)

    def reduce_it() -> None:
        group.allreduce([tensor], None)

    for _ in range(3):
        reduce_it()
        reduce_it()
    sites = [o.site for o in job.operations()]
    assert sites == sites[:2] * 3
    assert sites[0] != sites[1]


def test_a_root_is_recorded_and_the_arguments_are_passed_on(job: Job) -> None:
    group, tensor, options = job.group_type(), Tensor(2, "torch.int64"), Options()
    for n in (1, 2, 3):
        assert group.broadcast([tensor], options) == ("result", n)
    assert group.allreduce([tensor], opts=options) == ("result", 4)
    assert {(o.peer, o.dtype) for o in job.operations()[:3]} == {(3, "int64")}
    assert group.calls == [(([tensor], options), {})] * 3 + [(([tensor],), {"opts": options})]


def test_the_callers_exception_is_its_own(job: Job) -> None:
    group = job.group_type()
    for _ in range(3):
        with pytest.raises(ValueError, match="no such tensor"):
            group.allreduce("fails")
    assert len(group.calls) == 3
    assert all(o.left_ns for o in job.operations())


def test_p2p_does_not_shift_the_numbers_of_collectives(job: Job) -> None:
    group, tensor = job.group_type(), Tensor(1)
    for _ in range(3):
        group.allreduce([tensor], None)
        group.send([tensor], 1, 0)
    seqs = [(o.op, o.seq, o.p2p_seq) for o in job.operations()]
    assert seqs == [one for n in (1, 2, 3) for one in (("allreduce", n, -1), ("send", -1, n))]
    assert job.counts.last_collectives() == {"0": 3}


def test_a_destroyed_group_is_forgotten(job: Job) -> None:
    tensor = Tensor(1)
    for name in "ab" * 20:
        group = job.group_type(name)
        for _ in range(2):
            group.allreduce([tensor], None)
        job.counts.forget(name)
        del group
    assert [(o.pg_name, o.seq) for o in job.operations()] == [
        (name, n) for name in "ab" * 20 for n in (1, 2)
    ]
    assert job.counts.last_collectives() == {}


def test_another_group_at_the_address_of_one_that_is_gone_is_another(job: Job) -> None:
    def use(name: str) -> int:
        group = job.group_type(name)
        for _ in range(2):
            group.allreduce([Tensor(1)], None)
        return id(group)

    addresses = [use(f"group{n}") for n in range(50)]
    assert len(set(addresses)) < 50
    assert [o.pg_name for o in job.operations()] == [f"group{n}" for n in range(50) for _ in "xy"]


def test_more_lines_and_groups_than_any_table_holds(job: Job) -> None:
    groups = [job.group_type(f"g{n}") for n in range(100)]
    names: dict[str, Any] = {}
    for n in range(1500):
        exec(f"def line{n}(group, tensor): group.allreduce([tensor], None)", names)
    for _ in range(2):
        for n in range(1500):
            names[f"line{n}"](groups[n % 100], Tensor(n))
    operations = job.operations()
    assert [(job.function_of(o), o.pg_name, o.numel) for o in operations] == [
        (f"line{n}", f"g{n % 100}", n) for n in range(1500 - SLOTS, 1500)
    ]
    assert {o.seq for o in operations} == {29, 30}


def test_threads_take_numbers_of_their_own(job: Job) -> None:
    groups = [job.group_type(str(n)) for n in range(4)]

    def work(group: Any) -> None:
        for _ in range(200):
            group.allreduce([Tensor(1)], None)

    threads = [threading.Thread(target=work, args=(group,)) for group in groups]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    operations = job.operations()
    assert len({o.number for o in operations}) == len(operations) == SLOTS
    assert job.counts.last_collectives() == {str(n): 200 for n in range(4)}
    assert all(group.number == 200 for group in groups)


def test_a_forked_child_writes_nothing_into_the_ring(job: Job) -> None:
    group, tensor = job.group_type(), Tensor(1)
    for _ in range(3):
        group.allreduce([tensor], None)
    child = os.fork()
    if child == 0:
        job.page.operations.forget()
        core._current = None
        os.environ["DISTWATCH"] = "0"
        group.allreduce([tensor], None)
        os._exit(0 if len(group.calls) == 4 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert len(job.operations()) == 3


@pytest.mark.tests_guard
def test_our_own_failure_switches_the_record_off_and_the_job_goes_on(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(
        torch_collectives, "switch_off", lambda hook, error: told.append(str(error))
    )
    assert not guard.transparent
    group, tensor = job.group_type(), Tensor(1)
    group.allreduce([tensor], None)
    job.agent.site_number = lambda *_: 1 / 0
    for _ in range(3):
        assert group.allreduce([tensor], None)[0] == "result"  # another line, so another site
    assert told == ["division by zero"]
    assert len(group.calls) == 4


def test_an_interruption_is_the_users(job: Job) -> None:
    class Interrupted(Tensor):
        def numel(self) -> int:
            raise KeyboardInterrupt

    group = job.group_type()
    for _ in range(3):
        group.allreduce([Tensor(1)], None)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            group.allreduce([Interrupted(1)], None)
    assert len(group.calls) == 3


def test_arguments_of_any_kind_are_the_originals_to_judge(job: Job) -> None:
    group = job.group_type()
    for args in ((), ([],), ([[Tensor(5)]],), (None,), ([None],), ("text",), ({},)) * 3:
        assert group.allreduce(*args)[0] == "result"
    assert [o.numel for o in job.operations()] == [-1, -1, 5, -1, -1, -1, -1] * 3


def test_undone_hooks_that_someone_has_kept_record_nothing(job: Job) -> None:
    group, kept = job.group_type(), job.group_type.allreduce
    kept(group, [Tensor(1)], None)
    job.patches.undo()
    assert kept(group, [Tensor(1)], None) == ("result", 2)
    group.allreduce([Tensor(1)], None)
    assert len(job.operations()) == 1


def test_nothing_is_held_after_the_undo(job: Job) -> None:
    group = job.group_type()
    marker = Tensor(1)
    for _ in range(3):
        group.allreduce([marker], Options())
    before = sys.getrefcount(marker)
    for _ in range(100):
        group.allreduce([marker], Options())
    group.calls.clear()
    assert sys.getrefcount(marker) == 2 <= before
    record = job.counts.compiled
    if record is not None:
        job.patches.undo()
        del record, job.counts, job.page.operations, job.agent.operations
        gc.collect()
        assert not [one for one in gc.get_objects() if type(one).__name__ == "CallRecord"]


def test_memory_that_is_too_small_is_refused(built: Any) -> None:
    record = built.CallRecord(print, print, print, 0)
    for memory, offset, slots in (
        (bytearray(100), 0, 2),
        (bytearray(64), 64, 1),
        (bytearray(64), 0, -1),
        (bytearray(192), 0, 3),
    ):
        with pytest.raises(ValueError, match="do not fit"):
            record.attach(memory, offset, slots, 0)
    with pytest.raises((TypeError, BufferError)):
        record.attach(b"read-only" * 20, 0, 1, 0)
    record.attach(bytearray(64), 0, 1, 7)
    assert record.next_number() == 8
