"""How ranks of one world find each other, and find out that they cannot."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from distwatch.agent.arrival import Arrival, Late
from distwatch.agent.board import Board, FileBoard
from distwatch.agent.words import Arrived, Place
from distwatch.errors import InitFailed, InitTimeout
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
    with pytest.raises(Late):
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
    other.agree()
    assert [finding.severity for finding in other.warnings] == ["warning"]


def place(host: str, standing: str = "unseen") -> Place:
    return Place(host=host, standing=standing, text=f"{standing} on {host}")  # type: ignore[arg-type]


def test_the_first_deadline_asks_every_host_and_tells_all(board: Board) -> None:
    asked: list[str] = []

    def on(host: str, standing: str) -> Callable[[tuple[int, ...]], dict[int, Place]]:
        def look_for(missing: tuple[int, ...]) -> dict[int, Place]:
            asked.append(host)
            return dict.fromkeys(missing, place(host, standing))

        return look_for

    late = Arrival(board, arrived(host="a"), 0, 4, on("a", "unseen"))
    others = [Arrival(board, arrived(host="b"), rank, 4, on("b", "alive")) for rank in (1, 2)]
    for one in (late, *others):
        one.come()
    errors: list[InitFailed] = []

    def wait(one: Arrival) -> None:
        try:
            one.wait(soon(), 60)
        except InitFailed as error:
            errors.append(error)

    threads = [threading.Thread(target=wait, args=(one,)) for one in others]
    for thread in threads:
        thread.start()
    timed_out, views = late.call_the_roll("arrival", 30.0)
    assert (timed_out.arrived, timed_out.missing) == ((0, 1, 2), (3,))
    assert views == {3: [place("a"), place("b", "alive")]}
    assert sorted(asked) == ["a", "b"], "one rank of each host looks"
    late.conclude(
        InitTimeout("late", step="arrival", deadline_s=30.0, missing=(3,), places={3: "at b"})
    )
    for thread in threads:
        thread.join()
    assert [(type(e), e.missing, e.places) for e in errors] == [
        (InitTimeout, (3,), {3: "at b"})
    ] * 2  # type: ignore[attr-defined]


def test_whose_deadline_passes_second_follows_the_first(board: Board) -> None:
    first, second = arrival(board, 0), arrival(board, 1)
    first.come()
    second.come()
    first.call_the_roll("arrival", 30.0)
    first.conclude(InitTimeout("first", step="arrival", deadline_s=30.0, missing=(2,)))
    with pytest.raises(InitTimeout, match="first"):
        second.call_the_roll("arrival", 30.0)


def test_two_ranks_on_one_gpu_are_known_when_the_second_comes(board: Board) -> None:
    arrival(board, 0, arrived(device="GPU-1")).come()
    arrival(board, 1, arrived(device="GPU-2")).come()
    with pytest.raises(InitFailed, match="one GPU") as caught:
        arrival(board, 2, arrived(device="GPU-1")).come()
    assert caught.value.finding is not None
    assert caught.value.finding.culprit_ranks == (0, 2)


def test_words_on_a_matter_are_collected(board: Board) -> None:
    ranks = [arrival(board, rank) for rank in range(3)]
    for one in ranks[:2]:
        one.put("layout", f"rank {one.global_rank}".encode())
    assert ranks[2].collect("layout", (0, 1), soon()) == {0: b"rank 0", 1: b"rank 1"}
    with pytest.raises(Late) as caught:
        ranks[2].collect("layout", (0, 1, 2), time.monotonic())
    assert caught.value.missing == (2,)


def test_what_no_version_of_ours_wrote_is_said(board: Board) -> None:
    board.claim("rank/1", b"\xc1 not msgpack")
    with pytest.raises(InitFailed, match="cannot be read") as caught:
        arrival(board, 1).come()
    assert "same distwatch" in caught.value.advice


def test_a_failure_that_cannot_be_read_is_said_and_breaks_nothing(board: Board) -> None:
    board.claim("failed", b"\xc1 not msgpack")
    with pytest.raises(InitFailed, match="cannot be read"):
        arrival(board, 0).look()
