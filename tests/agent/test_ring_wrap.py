"""A reader that finds a ring after it has come round knows what one knows that followed it."""

from __future__ import annotations

import pytest

from distwatch.agent import guard
from distwatch.agent.journal import Journal
from distwatch.agent.recorder import Recorder
from distwatch.state import events as ev
from distwatch.state.frames import FileHeader
from distwatch.state.model import Process, RunState
from distwatch.state.reducer import reduce
from tests.agent.rings import read_ring
from tests.agent.test_journal import STARTED, header, progress, shm

__all__ = ["shm"]


class Followed(Recorder):
    """A recorder, and the state of a reader that misses nothing of it."""

    def __init__(self, path: str, capacity: int) -> None:
        super().__init__(Journal(path, header(capacity)), {})
        self._state = RunState()
        self._seq = 0
        self.record(STARTED)

    def record(self, event: ev.Event) -> None:
        super().record(event)
        self._seq += 1
        reduce(self._state, header(0), self._seq, self._seq, event)

    def wrap(self) -> None:
        """Comes round, so that of what was recorded so far only a snapshot is left."""
        for number in range(2 * (self.journal._header.capacity // 64)):
            super().record(progress(number))

    @property
    def followed(self) -> Process:
        return self._state.processes["h-1.1"]

    @property
    def found(self) -> Process:
        """The state of a reader that comes now."""
        state = RunState()
        head, records = read_ring(self.journal.path)
        assert isinstance(head, FileHeader)
        assert records[0].seq > 1, "it has not come round"
        for record in records:
            event = ev.decode_event(record.payload)
            assert event is not None
            reduce(state, head, record.seq, record.time_ns, event)
        return state.processes["h-1.1"]


@pytest.fixture
def rank(shm: str) -> Followed:  # pytest's way to use a fixture
    return Followed(f"{shm}/wrap.ring", 1 << 20)


def site(line: int) -> ev.Site:
    return ev.Site(file="/job/train.py", line=line)


def test_calls_on_groups_of_others_and_failures_of_hooks_are_known(
    rank: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "transparent", False)
    monkeypatch.setattr(guard, "_off", set())
    monkeypatch.setattr(guard, "_tell", None)
    guard.tell_failures_to(rank.record)
    rank.record(ev.NonMemberCalled(op="all_reduce", site=site(7)))
    assert guard.guard("torch.distributed.new_group", lambda: 1 // 0) is None
    rank.wrap()
    assert rank.found.non_member_calls == [ev.NonMemberCalled(op="all_reduce", site=site(7))]
    assert rank.found.hook_failures == {
        "torch.distributed.new_group": "ZeroDivisionError: integer division or modulo by zero"
    }
    assert rank.followed.hook_failures == rank.found.hook_failures


def test_of_many_meshes_both_know_the_last(rank: Followed) -> None:
    made = [ev.MeshMade(device="cpu", sizes=(n,), site=site(n)) for n in range(70)]
    for mesh in made:
        rank.record(mesh)
    rank.wrap()
    assert rank.found.meshes == rank.followed.meshes == made[6:]


def test_of_many_group_calls_both_know_the_last(rank: Followed) -> None:
    for number in range(1, 5001):
        rank.record(ev.GroupCalled(number=number, members=(0, number)))
    rank.wrap()
    followed, found = rank.followed.group_calls, rank.found.group_calls
    assert list(followed) == list(range(905, 5001))
    # A frame has not the room for all of them.
    assert list(found) == list(range(min(found), 5001))
    assert len(found) > 2000
    assert found.items() <= followed.items()


def test_steps_that_are_open_and_a_world_that_ended(rank: Followed) -> None:
    rank.record(ev.IdentityConfirmed(global_rank=3, world_size=4))
    rank.record(ev.GroupCreated(pg_name="0", members=(0, 1, 2, 3)))
    ended = rank.begin_step("init_process_group")
    rank.begin_step("from_pretrained")
    rank.end_step(ended)
    rank.end_step(ended)
    rank.record(ev.GroupDestroyed(pg_name=""))
    rank.wrap()
    for process in (rank.followed, rank.found):
        assert [step.name for step in process.open_steps()] == ["from_pretrained"]
        assert (process.global_rank, process.initialized) == (3, False)
        assert [g for g in process.groups.values() if g.destroyed_ns is None] == []


def test_what_was_too_large_to_be_written_is_in_no_snapshot(rank: Followed) -> None:
    rank.record(ev.HookFailed(hook="h", error="x" * 300_000))
    rank.record(ev.HookFailed(hook="i", error="e"))
    rank.wrap()
    assert rank.journal.dropped == 1
    assert rank.found.hook_failures == {"i": "e"}


def test_numbers_of_places_stay_unique_when_the_first_are_forgotten(rank: Followed) -> None:
    code = site.__code__
    given = [rank.site_number(code, line) for line in range(1, 601)]
    assert given == list(range(1, 601))
    assert rank.site_number(code, 1) == 1
    rank.wrap()
    assert list(rank.found.sites) == list(rank.followed.sites) == list(range(89, 601))


def test_a_group_is_amended_once(rank: Followed) -> None:
    rank.record(ev.GroupCreated(pg_name="0", members=(0, 1)))
    for _ in range(2):
        rank.amend_group("0", axis="tp")
        rank.amend_group("no such group", axis="tp")
    rank.wrap()
    assert rank.found.groups["0"].axis == "tp"
    assert rank.retained.get(ev.GroupCreated, "0") == ev.GroupCreated(
        pg_name="0", members=(0, 1), axis="tp"
    )
    assert rank._seq == 3, "the process, the group and its axis"
