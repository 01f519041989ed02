"""Ranks of which only NCCL's RAS tells: without distwatch, or on hosts that nobody watches."""

from __future__ import annotations

import msgspec
import pytest

from distwatch.diagnosis.facts.outside_view import largest_job
from distwatch.state import events as ev
from distwatch.state.identity import Identity
from tests.diagnosis.recorded import HOST, SECOND, RecordedJob, judged, only_root, root

ADDRESSES = ("10.0.0.1", "10.0.0.2")


class NcclJob(RecordedJob):
    """Ranks on one host or two, as NCCL names them; the second half of them is on the second host."""

    def place(self, rank: int) -> tuple[str, int]:
        return ADDRESSES[self.local is None and rank >= self.world // 2], 1000 + rank

    def answer(
        self,
        at: float,
        *comms: tuple[str, list[int], list[int]],
        since: float,
        dead: tuple[int, ...] = (),
        op: str = "AllReduce",
    ) -> None:
        """An answer: communicators by name, with their global ranks and what each has launched."""
        found = []
        for name, members, launched in comms:
            most = max(launched, key=launched.count)
            others = {n: count for n, count in enumerate(launched) if count not in (most, -1)}
            silent = tuple(n for n, count in enumerate(launched) if count < 0)
            found.append(
                ev.Communicator(
                    name=name, size=len(members), processes=tuple(members), launched=most, others=others,
                    silent=silent, op=op, still_since_ns=int(since * SECOND),
                )
            )  # fmt: skip
        processes = tuple(self.place(rank) for rank in range(self.world))
        seen = ev.CommunicatorsSeen(
            host=HOST, processes=processes, dead=dead, communicators=tuple(found)
        )
        self.see(at, seen)
        self.see(at, ev.Ticked(host=HOST))

    def sight(self, *ranks: int, at: float = 0.0) -> None:
        """Ranks without distwatch, as the process table shows them."""
        for rank in ranks:
            identity = Identity(
                global_rank=rank, world_size=self.world, local_world_size=len(ranks)
            )
            seen = ev.ProcessSighted(
                process=self.key(rank), host=HOST, pid=1000 + rank, start_ticks=5, ppid=999, role="rank",
                identity=identity, command=("python", "train.py"),
            )  # fmt: skip
            self.see(at, seen)

    def run_on_nccl(
        self, *ranks: int, enqueued: int, completed: int, changed: float, started: int = -1
    ) -> None:
        """Ranks with distwatch in a default group on NCCL, with their pulses of now."""
        for rank in ranks:
            self.start(rank)
            self.say(rank, 1.0, ev.IdentityConfirmed(global_rank=rank, world_size=self.world))
            group = ev.GroupCreated(
                pg_name="0", pg_desc="default_pg", backend="nccl", members=tuple(range(self.world))
            )
            self.say(rank, 1.0, group)
            progress = ev.GroupProgress(
                pg_name="0",
                enqueued=enqueued,
                completed=completed,
                changed_ns=int(changed * SECOND),
                started=started,
            )
            pulse = ev.Pulse(beat=1, beat_ns=int(60.0 * SECOND), groups=(progress,))
            self.see(60.0, ev.PulseRead(process=self.key(rank), pulse=pulse))
        self.see(60.0, ev.Ticked(host=HOST))


ALL = list(range(4))


def test_a_cold_job_names_the_rank_that_has_launched_less() -> None:
    job = NcclJob(4, single_node=True)
    job.sight(*ALL)
    job.answer(10.0, ("0xaa", ALL, [9, 9, 8, 9]), since=4.0)
    finding = only_root(job, "collective.rank_missing", 2)
    assert set(finding.waiting_ranks) == {0, 1, 3}
    assert "all_reduce" in finding.summary
    assert finding.confidence <= 0.7


def test_a_rank_that_is_behind_because_it_waits_in_another_communicator_is_a_victim() -> None:
    job = NcclJob(4)
    job.sight(*ALL)
    # Tensor groups 0-1 and 2-3, data groups 0-2 and 1-3: rank 3 is not there, rank 2 waits for it.
    job.answer(
        10.0,
        ("0xaa", ALL, [3, 3, 3, 3]),
        ("0xb0", [0, 1], [20, 20]),
        ("0xb1", [2, 3], [20, 19]),
        ("0xc0", [0, 2], [7, 6]),
        ("0xc1", [1, 3], [7, 6]),
        since=4.0,
    )
    finding = only_root(job, "collective.rank_missing", 3)
    assert set(finding.waiting_ranks) == {0, 1, 2}


@pytest.mark.parametrize(
    ("launched", "since"),
    [([9, 9, 9, 9], 4.0), ([9, 9, 8, 9], 10.0), ([9, 9, 8, 9], 8.0)],
    ids=["all are equal", "one look", "they moved between two looks"],
)
def test_counts_that_say_nothing_are_no_finding(launched: list[int], since: float) -> None:
    job = NcclJob(4)
    job.sight(*ALL)
    job.answer(10.0, ("0xaa", ALL, launched), since=since)
    assert judged(job) == []


def test_a_rank_on_a_host_that_nobody_watches_is_named() -> None:
    job = NcclJob(4, single_node=False)
    job.run_on_nccl(0, 1, enqueued=50, completed=49, changed=30.0)
    job.answer(60.0, ("0xaa", ALL, [50, 50, 50, 49]), since=35.0)
    finding = only_root(job, "collective.rank_missing", 3)
    assert set(finding.waiting_ranks) == {0, 1, 2}
    assert "default_pg" in finding.summary
    assert "10.0.0.2" in str(finding.evidence)


def test_numbers_of_torch_and_of_nccl_need_not_be_the_same() -> None:
    job = NcclJob(4, single_node=False)
    job.run_on_nccl(0, 1, enqueued=50, completed=49, changed=30.0)
    job.answer(60.0, ("0xaa", ALL, [150, 150, 149, 150]), since=35.0)
    assert only_root(job, "collective.rank_missing", 2).pg_name == "0"


def test_nobody_unseen_is_blamed_where_a_watched_rank_is_behind() -> None:
    job = NcclJob(4, single_node=False)
    job.run_on_nccl(0, enqueued=50, completed=49, changed=30.0)
    job.run_on_nccl(1, enqueued=49, completed=49, changed=29.0)
    job.answer(60.0, ("0xaa", ALL, [50, 49, 50, 50]), since=35.0)
    finding = only_root(job, "collective.rank_missing", 1)
    assert set(finding.waiting_ranks) == {0, 2, 3}


def test_an_answer_that_is_older_than_a_call_says_nothing_of_it() -> None:
    job = NcclJob(4, single_node=False)
    job.answer(30.0, ("0xaa", ALL, [50, 50, 50, 49]), since=20.0)
    job.run_on_nccl(0, 1, enqueued=90, completed=89, changed=35.0)
    assert 3 not in root(judged(job)).culprit_ranks


def test_an_answer_whose_counts_do_not_fit_the_ranks_own_numbers_is_left_out() -> None:
    job = NcclJob(4, single_node=False)
    job.run_on_nccl(0, 1, enqueued=50, completed=49, changed=30.0)
    job.answer(60.0, ("0xaa", ALL, [50, 47, 50, 49]), since=35.0)
    assert 3 not in root(judged(job)).culprit_ranks


def test_a_process_that_ras_considers_dead_has_ended_where_nobody_else_can_see_it() -> None:
    job = NcclJob(4, single_node=False)
    job.run_on_nccl(0, 1, enqueued=50, completed=49, changed=30.0)
    job.answer(60.0, ("0xaa", ALL, [50, 50, 50, -1]), since=35.0, dead=(3,))
    finding = root(judged(job))
    assert finding.culprit_ranks == (3,)
    assert "considers it dead" in str(finding.evidence) + finding.summary


def test_a_watched_rank_that_ras_considers_dead_is_alive() -> None:
    job = NcclJob(4)
    job.run_on_nccl(*ALL, enqueued=50, completed=50, changed=59.0)
    job.answer(60.0, ("0xaa", ALL, [50, 50, 50, -1]), since=35.0, dead=(3,))
    assert judged(job) == []


def test_processes_that_share_a_pid_on_two_hosts_are_told_apart() -> None:
    job = NcclJob(4, single_node=False)
    job.sight(0, 1)
    pids = (("10.0.0.9", 1000), ("10.0.0.1", 1000), ("10.0.0.1", 1001), ("10.0.0.9", 5))
    answer = ev.CommunicatorsSeen(
        host=HOST,
        processes=pids,
        communicators=(
            ev.Communicator(
                name="0xaa", size=4, processes=(1, 2, 0, 3), launched=9, others={2: 8}, still_since_ns=0
            ),
        ),
    )  # fmt: skip
    job.see(10.0, answer)
    job.see(10.0, ev.Ticked(host=HOST))
    ranks = largest_job(job.state).ranks
    assert {rank: p.pid for rank, p in ranks.items()} == {0: 1000, 1: 1001, 2: 1000, 3: 5}
    assert only_root(job, "collective.rank_missing", 2).culprit_ranks == (2,)


def test_the_state_itself_stays_as_it_was() -> None:
    job = NcclJob(4)
    job.sight(*ALL)
    job.answer(10.0, ("0xaa", ALL, [9, 9, 8, 9]), since=4.0)
    before = msgspec.json.encode(job.state.processes[job.key(0)])
    largest_job(job.state)
    assert msgspec.json.encode(job.state.processes[job.key(0)]) == before


def test_what_ras_does_not_count_as_started_is_no_device_that_is_behind() -> None:
    """All have launched the call, and those that say it have started it."""
    job = NcclJob(4, single_node=False)
    job.run_on_nccl(0, 1, enqueued=50, completed=49, changed=30.0, started=50)
    job.answer(60.0, ("0xaa", ALL, [50, 50, 50, 50]), since=35.0)
    assert not {2, 3} & set(root(judged(job)).culprit_ranks)


def test_a_rank_whose_kernel_has_not_started_is_behind_by_the_pulse_alone() -> None:
    job = NcclJob(4)
    job.run_on_nccl(0, 1, 3, enqueued=50, completed=49, changed=30.0, started=50)
    job.run_on_nccl(2, enqueued=50, completed=49, changed=30.0, started=49)
    finding = only_root(job, "collective.device_behind", 2)
    assert set(finding.waiting_ranks) == {0, 1, 3}
