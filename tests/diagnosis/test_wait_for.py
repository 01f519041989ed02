"""The wait-for graph: its roots, its circles, and who stands behind whom."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from distwatch.diagnosis.facts.wait_for import Bundle, Wait, WaitGraph


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
