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

from distwatch.agent.initialization.arrival import Arrival, Late
from distwatch.agent.initialization.arrival_messages import Arrived, Whereabouts
from distwatch.agent.initialization.key_value_store import FileKeyValues, KeyValueStore
from distwatch.errors import InitFailed, InitTimeout
from distwatch.runfolder import start_ticks
from distwatch.state.events import InitPlanned

HOST = os.uname().nodename


@pytest.fixture
def key_values(tmp_path: Path) -> KeyValueStore:
    return FileKeyValues(str(tmp_path / "meet"), "0")


def arrived(pid: int | None = None, host: str = HOST, **plan: object) -> Arrived:
    pid = os.getpid() if pid is None else pid
    planned = InitPlanned(**{"by": "distwatch", "world_size": 3, "backend": "gloo", **plan})  # type: ignore[arg-type]
    return Arrived(
        plan=planned, host=host, pid=pid, start_ticks=start_ticks(pid), command=f"job {pid}"
    )


def arrival(
    key_values: KeyValueStore, rank: int, me: Arrived | None = None, world: int = 3
) -> Arrival:
    return Arrival(key_values, me or arrived(), rank, world)


def soon() -> float:
    return time.monotonic() + 30


def ended_process() -> Arrived:
    """The word of a process that has ended since."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    word = arrived(child.pid)
    child.communicate(b"\n")
    return word


def test_who_disagrees_is_not_counted_before_the_others_can_see_that(
    key_values: KeyValueStore,
) -> None:
    """Else a rank that sees that all have come goes on to build what the others will not."""
    first = arrival(key_values, 0, world=2)
    first.come()
    other = arrival(key_values, 1, arrived(sizes={"tp": 2}), world=2)
    with pytest.raises(InitFailed, match="parallel sizes differ"):
        other.come()
    assert key_values.counted() == 1
    with pytest.raises(InitFailed, match="parallel sizes differ"):
        first.wait(soon(), 30)


def test_everybody_comes(key_values: KeyValueStore) -> None:
    told: list[int] = []
    ranks = [arrival(key_values, rank) for rank in range(3)]
    for one in ranks:
        one.come()
    assert ranks[0].wait(soon(), 30, told.append)
    assert told == [3]
    assert ranks[0].sweep() == ()


def test_who_waits_is_told_of_each_that_comes(key_values: KeyValueStore) -> None:
    first, told, here = arrival(key_values, 0), [], threading.Event()

    def tell(count: int) -> None:
        if told[-1:] != [count]:  # it is called again and again
            told.append(count)
            here.set()

    def follow() -> None:
        for rank in (1, 2):
            assert here.wait(30)
            here.clear()
            arrival(key_values, rank).come()

    first.come()
    thread = threading.Thread(target=follow)
    thread.start()
    assert first.wait(soon(), 30, tell)
    thread.join()
    assert told == [1, 2, 3]


def test_the_deadline_names_who_is_missing(key_values: KeyValueStore) -> None:
    arrival(key_values, 2).come()
    one = arrival(key_values, 0)
    one.come()
    with pytest.raises(Late):
        one.wait(time.monotonic(), 30)
    assert one.sweep() == (1,)
    assert sorted(one.seen) == [0, 2]


def test_the_rest_is_left_to_torch_when_patience_ends(key_values: KeyValueStore) -> None:
    one = arrival(key_values, 0)
    one.come()
    assert one.wait(soon(), 0) is False


def test_two_living_processes_of_one_rank(key_values: KeyValueStore) -> None:
    arrival(key_values, 1, arrived(pid=1)).come()
    with pytest.raises(InitFailed) as caught:
        arrival(key_values, 1).come()
    finding = caught.value.finding
    assert finding is not None
    assert (finding.code, finding.culprit_ranks) == ("rendezvous.rank_duplicated", (1,))
    assert "pid 1 " in finding.summary
    assert f"pid {os.getpid()}" in finding.summary


def test_the_others_learn_of_a_failure_and_the_first_one_stands(key_values: KeyValueStore) -> None:
    waiting = arrival(key_values, 0)
    waiting.come()
    arrival(key_values, 1, arrived(pid=1)).come()
    with pytest.raises(InitFailed):
        arrival(key_values, 1).come()
    with pytest.raises(InitFailed) as caught:
        waiting.wait(soon(), 30)
    assert caught.value.finding is not None
    assert caught.value.finding.code == "rendezvous.rank_duplicated"
    waiting.fail("arrival", caught.value.finding)
    arrival(key_values, 2).linger(time.monotonic())
    assert key_values.get("knows/0") is not None


def test_a_rank_that_was_started_again_takes_its_place(key_values: KeyValueStore) -> None:
    arrival(key_values, 1, ended_process()).come()
    again = arrival(key_values, 1)
    again.come()
    assert again.count() == 1, "it is one rank, however often it was started"
    waiting = arrival(key_values, 0)
    waiting.come()
    waiting.sweep()
    assert waiting.seen[1].pid == os.getpid()


def test_a_rank_that_comes_back_to_a_world_that_formed_is_too_late(
    key_values: KeyValueStore,
) -> None:
    first = arrival(key_values, 1, ended_process())
    first.come()
    first.formed()
    with pytest.raises(InitFailed):
        arrival(key_values, 1).come()


def test_of_another_host_nobody_says_that_it_ended(key_values: KeyValueStore) -> None:
    arrival(key_values, 1, arrived(pid=2**22 + 1, host="elsewhere")).come()
    with pytest.raises(InitFailed, match="elsewhere"):
        arrival(key_values, 1).come()


def test_a_world_size_that_differs_is_known_before_all_are_there(key_values: KeyValueStore) -> None:
    arrival(key_values, 0).come()
    with pytest.raises(InitFailed) as caught:
        arrival(key_values, 1, arrived(world_size=5), world=5).come()
    assert caught.value.finding is not None
    assert caught.value.finding.code == "rendezvous.world_size_disagrees"
    with pytest.raises(InitFailed, match="WORLD_SIZE"):
        arrival(key_values, 0).look()


def test_a_rank_beyond_our_world_counts_in_the_comparison(key_values: KeyValueStore) -> None:
    arrival(key_values, 3, arrived(world_size=4), world=4).come()
    with pytest.raises(InitFailed, match="rank 3 has 4"):
        arrival(key_values, 0).come()


def test_a_timeout_that_differs_is_only_a_warning(key_values: KeyValueStore) -> None:
    arrival(key_values, 0, arrived(timeout_s=5.0)).come()
    other = arrival(key_values, 1, arrived(timeout_s=9.0))
    other.come()
    other.agree()
    assert [finding.severity for finding in other.warnings] == ["warning"]


def place(host: str, status: str = "unseen") -> Whereabouts:
    return Whereabouts(host=host, status=status, text=f"{status} on {host}")  # type: ignore[arg-type]


def test_the_first_deadline_asks_every_host_and_tells_all(key_values: KeyValueStore) -> None:
    asked: list[str] = []

    def on(host: str, status: str) -> Callable[[tuple[int, ...]], dict[int, Whereabouts]]:
        def look_for(missing: tuple[int, ...]) -> dict[int, Whereabouts]:
            asked.append(host)
            return dict.fromkeys(missing, place(host, status))

        return look_for

    late = Arrival(key_values, arrived(host="a"), 0, 4, on("a", "unseen"))
    others = [Arrival(key_values, arrived(host="b"), rank, 4, on("b", "alive")) for rank in (1, 2)]
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
    timed_out, views = late.collect_missing("arrival", 30.0)
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


def test_whose_deadline_passes_second_follows_the_first(key_values: KeyValueStore) -> None:
    first, second = arrival(key_values, 0), arrival(key_values, 1)
    first.come()
    second.come()
    first.collect_missing("arrival", 30.0)
    first.conclude(InitTimeout("first", step="arrival", deadline_s=30.0, missing=(2,)))
    with pytest.raises(InitTimeout, match="first"):
        second.collect_missing("arrival", 30.0)


def test_two_ranks_on_one_gpu_are_known_when_the_second_comes(key_values: KeyValueStore) -> None:
    arrival(key_values, 0, arrived(device="GPU-1")).come()
    arrival(key_values, 1, arrived(device="GPU-2")).come()
    with pytest.raises(InitFailed, match="one GPU") as caught:
        arrival(key_values, 2, arrived(device="GPU-1")).come()
    assert caught.value.finding is not None
    assert caught.value.finding.culprit_ranks == (0, 2)


def test_words_on_a_matter_are_collected(key_values: KeyValueStore) -> None:
    ranks = [arrival(key_values, rank) for rank in range(3)]
    for one in ranks[:2]:
        one.put("layout", f"rank {one.global_rank}".encode())
    assert ranks[2].collect("layout", (0, 1), soon()) == {0: b"rank 0", 1: b"rank 1"}
    with pytest.raises(Late) as caught:
        ranks[2].collect("layout", (0, 1, 2), time.monotonic())
    assert caught.value.missing == (2,)


def test_what_no_version_of_ours_wrote_is_said(key_values: KeyValueStore) -> None:
    key_values.claim("rank/1", b"\xc1 not msgpack")
    with pytest.raises(InitFailed, match="cannot read") as caught:
        arrival(key_values, 1).come()
    assert "same distwatch" in caught.value.advice


def test_a_failure_that_cannot_be_read_is_said_and_breaks_nothing(
    key_values: KeyValueStore,
) -> None:
    key_values.claim("failed", b"\xc1 not msgpack")
    with pytest.raises(InitFailed, match="cannot read"):
        arrival(key_values, 0).look()
