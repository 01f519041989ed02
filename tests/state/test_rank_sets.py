"""Ranks as people write them, and words that agree with them."""

from __future__ import annotations

from distwatch.state.rank_sets import agree, format_ranks, inflect, name_ranks


def test_ranks_are_named_in_runs() -> None:
    assert format_ranks([5, 0, 1, 2, 2]) == "0-2,5"
    assert (name_ranks([2]), name_ranks([0, 1, 3])) == ("rank 2", "ranks 0-1,3")


def test_words_agree_with_the_number_of_ranks() -> None:
    assert name_ranks([2], "waits", "wait") == "rank 2 waits"
    assert name_ranks([0, 1], "waits", "wait") == "ranks 0-1 wait"
    assert (agree(["RANK"], "it", "them"), agree([0, 1], "it", "them")) == ("it", "them")


def test_a_fixed_text_agrees_where_it_says_so() -> None:
    text = "Fix what ended [that rank|those ranks]; a[0] stays"
    assert inflect(text, [3]) == "Fix what ended that rank; a[0] stays"
    assert inflect(text, [3, 4]) == "Fix what ended those ranks; a[0] stays"
