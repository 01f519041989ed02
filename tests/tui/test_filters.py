from __future__ import annotations

import pytest

from distwatch.tui.filters import FilterInvalid, parse_filter, parse_ranks
from distwatch.tui.picture import Picture, take_picture
from distwatch.tui.views import events, groups, ranks
from distwatch.tui.views.line import visible
from tests.tui.scripted import failed_job, hung_job, state_of


@pytest.fixture(scope="module")
def hung() -> Picture:
    return take_picture(state_of(hung_job()), "hung")


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("state=waiting", {0, 1, 3}),
        ("state=w", {0, 1, 3}),
        ("state!=waiting", {2}),
        ("STATE=Waiting", {0, 1, 3}),
        ("pg=0", {0, 1, 2, 3}),
        ("pg=default_pg rank=1-2", {1, 2}),
        ("pg~default rank!=0", {1, 2, 3}),
        ("pg=dp3", set()),
        ("host~node0", {0, 1, 2, 3}),
        ("host=elsewhere", set()),
        ("rank=0-1,3", {0, 1, 3}),
        ("rank>1", {2, 3}),
        ("rank<1", {0}),
        ("age>30s", {0, 1, 2, 3}),
        ("age>2m", set()),
        ("age<1h", {0, 1, 2, 3}),
        ("pid=4202", {2}),
    ],
)
def test_terms_select_ranks(hung: Picture, text: str, selected: set[int]) -> None:
    assert parse_filter(text).selected(hung) == selected


def test_an_age_that_was_not_observed_matches_neither_side() -> None:
    picture = take_picture(state_of(failed_job()), "failed")
    assert 3 not in (parse_filter("age<1h").selected(picture) or ())
    assert 3 not in (parse_filter("age>0s").selected(picture) or ())


def test_words_search_whole_lines_also_what_a_narrow_screen_cuts(hung: Picture) -> None:
    lines = visible(ranks.lines(hung, ranks.Order()), parse_filter("__GETITEM__"), hung)
    assert [line.key for line in lines] == ["rank:2"]


def test_other_views_show_what_concerns_the_selected_ranks(hung: Picture) -> None:
    wanted = parse_filter("rank=2")
    lines = visible(events.lines(hung), wanted, hung)
    assert lines
    assert all(line.ranks is not None and 2 in line.ranks for line in lines)
    assert len(visible(groups.lines(hung), parse_filter("pg=default_pg"), hung)) == 3
    assert visible(groups.lines(hung), parse_filter("pg=dp3"), hung) == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "stat=waiting",
            "'stat' is not a field; use state, pg, host, rank, age, pid, or plain words",
        ),
        ("state=wating", "'wating' is not a state; the states are unobserved, starting"),
        ("state=", "'state=' has no value"),
        ("rank=a", "'a' is not a rank; write 3, 0-3 or 0-3,7"),
        ("rank=3-1", "'3-1' is an empty range"),
        ("rank~3", "rank is a number"),
        ("rank>x", "'x' is not a rank; write rank>3"),
        ("age=30s", "'30s': write age>30s"),
        ("age>soon", "'soon': write age>30s"),
        ("host>a", "host is text: use host=a"),
        ("pid~4", "'4': write pid=12345"),
    ],
)
def test_a_bad_filter_says_what_is_wrong(text: str, complaint: str) -> None:
    with pytest.raises(FilterInvalid) as raised:
        parse_filter(text)
    assert complaint in str(raised.value)


def test_the_empty_filter_lets_everything_pass(hung: Picture) -> None:
    assert parse_filter("   ").selected(hung) is None
    assert len(visible(ranks.lines(hung, ranks.Order()), parse_filter(""), hung)) == 4


def test_a_range_that_would_fill_memory_is_refused() -> None:
    with pytest.raises(FilterInvalid):
        parse_ranks("0-99999999999")
