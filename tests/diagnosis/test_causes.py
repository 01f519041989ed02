"""The order by cause, on findings alone: what explains what, and who is blamed in the end."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distwatch.diagnosis.verdict.causes import order_by_cause
from distwatch.state.codes import CODES, precedence_of
from distwatch.state.finding import Finding, Severity, blamed_ranks


def found(
    code: str,
    culprits: tuple[int, ...] = (),
    waiting: tuple[int, ...] = (),
    severity: Severity = "hang",
    **others: Any,
) -> Finding:
    return Finding(
        code=code,
        severity=severity,
        summary=f"{code} of {culprits}",
        culprit_ranks=culprits,
        waiting_ranks=waiting,
        **others,
    )


def told(*findings: Finding, excuses: dict[int, str] | None = None) -> list[tuple[str, str]]:
    return [(one.code, one.role) for one in order_by_cause(list(findings), excuses)]


def test_the_cause_of_a_culprit_comes_before_what_it_brings_about() -> None:
    missing = found("collective.rank_missing", (1,), (0, 2))
    blocked = found("process.io_blocked", (1,), (0, 2))
    assert told(missing, blocked) == [
        ("process.io_blocked", "root"),
        ("collective.rank_missing", "symptom"),
    ]


def test_who_waits_for_a_culprit_is_blamed_by_no_symptom() -> None:
    stopped = found("process.stopped", (1,), (0, 2))
    other = found("collective.rank_missing", (2,), (3,))
    _, symptom = order_by_cause([other, stopped])
    assert symptom.role == "symptom"
    assert symptom.culprit_ranks == ()
    assert symptom.waiting_ranks == (2, 3)


def test_how_the_job_was_set_up_is_a_warning_of_its_own_beside_a_hang() -> None:
    """All ranks hold parts of the model in RAM, and one of them hangs: that one alone is marked."""
    hang = found("process.io_blocked", (1,), (0, 2, 3))
    offloaded = found("load.offloaded", (0, 1, 2, 3), severity="warning")
    ordered = order_by_cause([offloaded, hang])
    assert [(one.code, one.role) for one in ordered] == [
        ("process.io_blocked", "root"),
        ("load.offloaded", "root"),
    ]
    assert ordered[1].culprit_ranks == (0, 1, 2, 3)
    assert blamed_ranks(ordered) == {1}
    assert blamed_ranks([offloaded]) == {0, 1, 2, 3}


def test_two_causes_that_have_nothing_to_do_with_each_other_are_two_roots() -> None:
    one, other = found("process.stopped", (1,), (0,)), found("load.stalled", (5,), (6,))
    assert told(one, other) == [("process.stopped", "root"), ("load.stalled", "root")]


def test_a_warning_explains_no_hang_and_comes_after_it() -> None:
    warning = found("rendezvous.config_disagrees", (1,), severity="warning")
    hang = found("collective.rank_missing", (1,), (0,))
    assert told(warning, hang) == [
        ("collective.rank_missing", "root"),
        ("rendezvous.config_disagrees", "symptom"),
    ]


def test_a_finding_that_blames_nobody_is_explained_by_whatever_blocks() -> None:
    nobody = found("network.partition", (), (0, 1))
    assert told(nobody, found("process.gil_held", (1,), (0,)))[0] == ("process.gil_held", "root")
    assert told(nobody) == [("network.partition", "root")]


@pytest.mark.parametrize("end", [code.name for code in CODES if code.ends_rank])
def test_an_end_of_the_culprit_alone_is_the_cause_of_the_hang(end: str) -> None:
    hang = found("collective.rank_missing", (1,), (0, 2))
    died = found(end, (1,), (0, 2), severity="crash")
    assert told(hang, died) == [(end, "root"), ("collective.rank_missing", "symptom")]


@pytest.mark.parametrize("mismatch", [code.name for code in CODES if code.mismatch])
def test_a_mismatch_explains_that_its_ranks_are_aborted(mismatch: str) -> None:
    differ = found(mismatch, (1,), (0,))
    aborted = found("process.killed", (0,), severity="crash")
    assert told(aborted, differ) == [(mismatch, "root"), ("process.killed", "symptom")]
    raised = found("process.exited", (0, 1), severity="crash")
    assert told(raised, differ) == [(mismatch, "root"), ("process.exited", "symptom")]
    elsewhere = found("process.exited", (7,), severity="crash")
    assert ("process.exited", "root") in told(elsewhere, differ)


def test_an_excused_end_is_no_second_fault() -> None:
    misuse = found("group.not_member", (1,), severity="crash")
    ended = found("process.exited", (1, 2), severity="crash")
    root, other = order_by_cause([ended, misuse], {1: "group.not_member"})
    assert (root.code, root.culprit_ranks) == ("group.not_member", (1,))
    assert (other.code, other.role, other.culprit_ranks) == ("process.exited", "root", (2,))


def test_an_end_that_is_excused_whole_is_an_aftermath() -> None:
    misuse = found("group.not_member", (1,), severity="crash")
    ended = found("process.exited", (1,), severity="crash")
    root, aftermath = order_by_cause([ended, misuse], {1: "group.not_member"})
    assert (root.code, aftermath.role, aftermath.culprit_ranks) == (misuse.code, "symptom", ())


def test_an_excuse_counts_only_where_its_finding_is_told() -> None:
    ended = found("process.exited", (1,), severity="crash")
    assert told(ended, excuses={1: "group.not_member"}) == [("process.exited", "root")]
    # Nor does an end excuse itself.
    assert told(ended, excuses={1: "process.exited"}) == [("process.exited", "root")]


def test_a_symptom_is_a_root_for_nobody() -> None:
    symptom = found("collective.rank_missing", (), (0, 1), role="symptom")
    assert told(symptom) == [("collective.rank_missing", "symptom")]


RANKS = st.lists(st.integers(0, 4), max_size=3, unique=True).map(lambda r: tuple(sorted(r)))
FINDINGS = st.lists(
    st.builds(
        found,
        st.sampled_from([code.name for code in CODES]),
        RANKS,
        RANKS,
        st.sampled_from(get_args(Severity)),
    ),
    max_size=6,
    unique_by=lambda f: (f.code, f.culprit_ranks, f.severity),
)


@given(FINDINGS, st.randoms(use_true_random=False))
def test_the_order_does_not_depend_on_the_order_of_the_checks(
    findings: list[Finding], random: Any
) -> None:
    shuffled = random.sample(findings, len(findings))
    assert order_by_cause(shuffled) == order_by_cause(findings)


@given(FINDINGS, st.dictionaries(st.integers(0, 4), st.sampled_from([c.name for c in CODES])))
def test_nobody_is_blamed_who_was_not_before_and_no_finding_is_lost(
    findings: list[Finding], excuses: dict[int, str]
) -> None:
    ordered = order_by_cause(findings, excuses)
    before = {f.summary: set(f.culprit_ranks) for f in findings}
    for one in ordered:
        assert set(one.culprit_ranks) <= before[one.summary]
    assert sorted(one.code for one in ordered) == sorted(one.code for one in findings)


@given(FINDINGS)
def test_roots_come_first_what_blocks_before_what_does_not_and_in_the_order_of_the_table(
    findings: list[Finding],
) -> None:
    ordered = order_by_cause(findings)
    roles = [one.role for one in ordered]
    assert roles == sorted(roles)
    roots = [one for one in ordered if one.role == "root" and one.blocks]
    places = [precedence_of(one.code) for one in roots]
    assert places == sorted(places)
    assert not any(one.blocks for one in ordered) or roots
    # A second ordering finds nothing new.
    again = order_by_cause([msgspec.structs.replace(one) for one in ordered])
    assert [one.role for one in again] == roles
