"""How ranks of one world find each other, and find out that they cannot."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from distwatch.agent.arrival import Arrival, Arrived, Place
from distwatch.agent.board import Board, FileBoard
from distwatch.errors import InitFailed
from distwatch.runfolder import start_ticks
from distwatch.state.events import InitPlanned

HOST = os.uname().nodename


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return FileBoard(str(tmp_path / "meet"), "0")


def arrived(pid: int | None = None, host: str = HOST, **plan: object) -> Arrived:
    pid = os.getpid() if pid is None else pid
    planned = InitPlanned(**{"by": "distwatch", "world_size": 3, "backend": "gloo", **plan})  # type: ignore[arg-type]
    return Arrived(
        plan=planned, host=host, pid=pid, start_ticks=start_ticks(pid), command=f"job {pid}"
    )


def arrival(board: Board, rank: int, me: Arrived | None = None, world: int = 3) -> Arrival:
    return Arrival(board, me or arrived(), rank, world)


def soon() -> float:
    return time.monotonic() + 30


def ended_process() -> Arrived:
    """The word of a process that has ended since."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    word = arrived(child.pid)
    child.communicate(b"\n")
    return word


def test_everybody_comes(board: Board) -> None:
    told: list[int] = []
    ranks = [arrival(board, rank) for rank in range(3)]
    for one in ranks:
        one.come()
    assert ranks[0].wait(soon(), 30, told.append)
    assert told == [3]
    assert ranks[0].sweep() == ()


def test_who_waits_is_told_of_each_that_comes(board: Board) -> None:
    first, told, here = arrival(board, 0), [], threading.Event()

    def tell(count: int) -> None:
        told.append(count)
        here.set()

    def follow() -> None:
        for rank in (1, 2):
            assert here.wait(30)
            here.clear()
            arrival(board, rank).come()

    first.come()
    thread = threading.Thread(target=follow)
    thread.start()
    assert first.wait(soon(), 30, tell)
    thread.join()
    assert told == [1, 2, 3]


def test_the_deadline_names_who_is_missing(board: Board) -> None:
    arrival(board, 2).come()
    one = arrival(board, 0)
    one.come()
    with pytest.raises(TimeoutError):
        one.wait(time.monotonic(), 30)
    assert one.sweep() == (1,)
    assert sorted(one.seen) == [0, 2]


def test_the_rest_is_left_to_torch_when_patience_ends(board: Board) -> None:
    one = arrival(board, 0)
    one.come()
    assert one.wait(soon(), 0) is False


def test_two_living_processes_of_one_rank(board: Board) -> None:
    arrival(board, 1, arrived(pid=1)).come()
    with pytest.raises(InitFailed) as caught:
        arrival(board, 1).come()
    finding = caught.value.finding
    assert finding is not None
    assert (finding.code, finding.culprit_ranks) == ("rendezvous.rank_duplicated", (1,))
    assert "pid 1 " in finding.summary
    assert f"pid {os.getpid()}" in finding.summary


def test_the_others_learn_of_a_failure_and_the_first_one_stands(board: Board) -> None:
    waiting = arrival(board, 0)
    waiting.come()
    arrival(board, 1, arrived(pid=1)).come()
    with pytest.raises(InitFailed):
        arrival(board, 1).come()
    with pytest.raises(InitFailed) as caught:
        waiting.wait(soon(), 30)
    assert caught.value.finding is not None
    assert caught.value.finding.code == "rendezvous.rank_duplicated"
    waiting.fail("arrival", caught.value.finding)
    arrival(board, 2).linger(time.monotonic())
    assert board.get("knows/0") is not None


def test_a_rank_that_was_started_again_takes_its_place(board: Board) -> None:
    arrival(board, 1, ended_process()).come()
    again = arrival(board, 1)
    again.come()
    assert again.count() == 1, "it is one rank, however often it was started"
    waiting = arrival(board, 0)
    waiting.come()
    waiting.sweep()
    assert waiting.seen[1].pid == os.getpid()


def test_a_rank_that_comes_back_to_a_world_that_formed_is_too_late(board: Board) -> None:
    first = arrival(board, 1, ended_process())
    first.come()
    first.formed()
    with pytest.raises(InitFailed):
        arrival(board, 1).come()


def test_of_another_host_nobody_says_that_it_ended(board: Board) -> None:
    arrival(board, 1, arrived(pid=2**22 + 1, host="elsewhere")).come()
    with pytest.raises(InitFailed, match="elsewhere"):
        arrival(board, 1).come()


def test_a_world_size_that_differs_is_known_before_all_are_there(board: Board) -> None:
    arrival(board, 0).come()
    with pytest.raises(InitFailed) as caught:
        arrival(board, 1, arrived(world_size=5), world=5).come()
    assert caught.value.finding is not None
    assert caught.value.finding.code == "rendezvous.world_size_disagrees"
    with pytest.raises(InitFailed, match="WORLD_SIZE"):
        arrival(board, 0).look()


def test_a_rank_beyond_our_world_counts_in_the_comparison(board: Board) -> None:
    arrival(board, 3, arrived(world_size=4), world=4).come()
    with pytest.raises(InitFailed, match="rank 3 has 4"):
        arrival(board, 0).come()


def test_a_timeout_that_differs_is_only_a_warning(board: Board) -> None:
    arrival(board, 0, arrived(timeout_s=5.0)).come()
    other = arrival(board, 1, arrived(timeout_s=9.0))
    other.come()
    assert [finding.severity for finding in other.warnings] == ["warning"]


def test_views_of_several_hosts_come_together(board: Board) -> None:
    ranks = [arrival(board, rank) for rank in (0, 1)]
    for one in ranks:
        one.come()
    ranks[0].sweep()
    unseen = Place(host="a", standing="unseen", text="no process of it was seen on a")
    alive = Place(host="b", standing="alive", text="at train.py:3")
    ranks[0].leave_view({2: unseen})
    ranks[1].leave_view({2: alive})
    assert ranks[0].gather_views(30) == {2: [unseen, alive]}


def test_words_on_a_matter_are_collected(board: Board) -> None:
    ranks = [arrival(board, rank) for rank in range(3)]
    for one in ranks[:2]:
        one.put("layout", f"rank {one.global_rank}".encode())
    assert ranks[2].collect("layout", (0, 1), soon()) == {0: b"rank 0", 1: b"rank 1"}
    with pytest.raises(TimeoutError) as caught:
        ranks[2].collect("layout", (0, 1, 2), time.monotonic())
    assert caught.value.args[0] == (2,)


def test_what_no_version_of_ours_wrote_is_said(board: Board) -> None:
    board.claim("rank/1", b"\xc1 not msgpack")
    with pytest.raises(InitFailed, match="cannot be read") as caught:
        arrival(board, 1).come()
    assert "same distwatch" in caught.value.advice
