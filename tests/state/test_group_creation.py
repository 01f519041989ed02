"""Who holds up the creation of a framework's groups, by what each rank says of its own calls."""

from __future__ import annotations

from distwatch.state.events import Site
from distwatch.state.group_creation import CreationProgress, incomplete_creation

SITE = Site(file="train.py", line=7, function="groups")


def at(number: int, members: tuple[int, ...] | None, *, inside: bool = True) -> CreationProgress:
    return CreationProgress(
        number=number,
        inside=inside,
        members=members,
        pg_desc="TENSOR",
        site=SITE if inside else None,
    )


BEFORE = CreationProgress()


def test_the_rank_that_has_not_made_the_call_is_absent() -> None:
    found = incomplete_creation({0: at(5, (0, 1)), 1: at(4, (0, 1), inside=False)}, 2)
    assert found is not None
    assert (found.entered, found.absent) == ((0,), (1,))
    assert found.sentence() == (
        "rank 1 never called new_group #5 'TENSOR' (ranks 0-1); rank 0 waits in it at train.py:7 in groups"
    )
    finding = found.finding((0,), "rank 1: at load (data.py:3)")
    assert (finding.code, finding.culprit_ranks, finding.waiting_ranks) == (
        "group.call_missing",
        (1,),
        (0,),
    )
    assert finding.summary.endswith("rank 1: at load (data.py:3)")


def test_a_chain_ends_at_the_rank_that_waits_for_nobody() -> None:
    """0 waits for 1 in #3, 2 for 3 in #4, and 3 for 1 in #2."""
    ranks = {0: at(3, (0, 1)), 1: BEFORE, 2: at(4, (2, 3)), 3: at(2, (1, 3))}
    found = incomplete_creation(ranks, 4)
    assert found is not None
    assert (found.call.number, found.entered, found.absent) == (2, (3,), (1,))
    assert found.finding((0, 2, 3), "").waiting_ranks == (0, 2, 3)


def test_no_members_named_are_all_ranks_of_the_world() -> None:
    found = incomplete_creation({0: at(1, None), 1: at(1, None), 2: BEFORE}, 3)
    assert found is not None
    assert (found.entered, found.absent) == ((0, 1), (2,))


def test_nobody_is_blamed_where_all_have_entered_or_nothing_is_known() -> None:
    assert incomplete_creation({0: at(1, (0, 1)), 1: at(1, (0, 1))}, 2) is None
    assert incomplete_creation({0: at(1, (0, 1))}, 2) is None, "rank 1 cannot tell how far it is"
    assert incomplete_creation({0: BEFORE, 1: BEFORE}, 2) is None
    later = {0: at(1, (0, 1)), 1: at(2, (1,), inside=False)}
    assert incomplete_creation(later, 2) is None, "a rank that is further on has made the call"
