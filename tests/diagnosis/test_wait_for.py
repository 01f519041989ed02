"""The wait-for graph: its roots, its circles, and who stands behind whom."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from distwatch.diagnosis.facts.wait_for import WaitGraph
from distwatch.diagnosis.facts.waits import Bundle, Wait


def edge(waiter: int, awaited: int) -> Bundle:
    waiters = {waiter: Wait(waited_s=5.0)}
    return Bundle(kind="p2p", what="recv", waiters=waiters, awaited=(awaited,))


def test_the_end_of_a_chain_is_its_root() -> None:
    graph = WaitGraph([edge(3, 2), edge(2, 1), edge(1, 0)])
    assert graph.roots() == {0}
    assert graph.behind([0]) == {1, 2, 3}
    assert graph.cycles() == []


def test_a_circle_has_no_root_and_is_told_once_from_its_lowest_rank() -> None:
    graph = WaitGraph([edge(2, 0), edge(0, 1), edge(1, 2), edge(3, 1)])
    assert graph.roots() == set()
    assert [[e.waiter for e in chain] for chain in graph.cycles()] == [[0, 1, 2]]
    assert graph.behind([0, 1, 2]) == {3}


def test_a_circle_that_also_waits_for_somebody_outside_is_no_cause() -> None:
    graph = WaitGraph([edge(0, 1), edge(1, 0), edge(1, 2)])
    assert graph.roots() == {2}
    assert graph.cycles() == []


def test_two_circles_are_two() -> None:
    graph = WaitGraph([edge(0, 1), edge(1, 0), edge(2, 3), edge(3, 4), edge(4, 2)])
    assert [len(chain) for chain in graph.cycles()] == [2, 3]


def bundle(waiters: set[int], awaited: set[int]) -> Bundle:
    waits = {waiter: Wait(waited_s=5.0 + waiter % 3) for waiter in sorted(waiters)}
    return Bundle(kind="collective", what="call", waiters=waits, awaited=tuple(sorted(awaited)))


SOME = st.sets(st.integers(0, 8), min_size=1, max_size=5)


@given(st.lists(st.tuples(SOME, SOME).map(lambda p: (p[0], p[1] - p[0])), max_size=7))
def test_whoever_is_stuck_in_calls_of_many_stands_behind_a_root_or_a_circle(
    calls: list[tuple[set[int], set[int]]],
) -> None:
    graph = WaitGraph([bundle(*call) for call in calls])
    circles = graph.cycles()
    in_circles = [{e.waiter for e in chain} for chain in circles]
    assert sum(map(len, in_circles)) == len(set().union(*in_circles)), "they share no rank"
    stuck = {rank for waiters, awaited in calls if awaited for rank in waiters}
    within = set().union(*in_circles)
    assert stuck <= graph.behind(graph.roots() | within) | within
    for chain in circles:
        assert chain[0].waiter == min(e.waiter for e in chain)
        assert [e.awaited for e in chain] == [e.waiter for e in (*chain[1:], chain[0])]
        for one in chain:
            assert any(one.waiter in w and one.awaited in a for w, a in calls)
        # Of one of its ranks it is the shortest; another may be in a shorter one that shares a rank with one told.
        assert len(chain) == max(shortest(calls, e.waiter) for e in chain)


def shortest(calls: list[tuple[set[int], set[int]]], start: int) -> int:
    """The waits from a rank back to itself, step by step."""
    reached, here, steps = set[int](), {start}, 0
    while here:
        here = {r for w, a in calls if w & here for r in a} - reached
        reached, steps = reached | here, steps + 1
        if start in here:
            return steps
    return 99


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)).filter(lambda p: p[0] != p[1])))
def test_whoever_is_stuck_stands_behind_a_root_or_a_circle(pairs: list[tuple[int, int]]) -> None:
    graph = WaitGraph([edge(*pair) for pair in pairs])
    shuffled = WaitGraph([edge(*pair) for pair in reversed(pairs)])
    circles = graph.cycles()
    assert [{e.waiter for e in c} for c in circles] == [
        {e.waiter for e in c} for c in shuffled.cycles()
    ]
    in_circles = {e.waiter for chain in circles for e in chain}
    explained = graph.roots() | in_circles
    assert {waiter for waiter, _ in pairs} <= graph.behind(explained) | in_circles
    for chain in circles:
        ends = [e.awaited for e in chain]
        assert ends == [e.waiter for e in (*chain[1:], chain[0])]
        assert not {e.waiter for e in chain} & graph.behind(graph.roots())
