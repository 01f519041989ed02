"""Plans that differ: what, who is the odd one out, and how bad it is."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distwatch.state.agreement import disagreements, layouts_differ, odd_ones
from distwatch.state.events import InitPlanned


def plan(**given: object) -> InitPlanned:
    return InitPlanned(**{"by": "distwatch", "world_size": 4, "backend": "gloo", **given})  # type: ignore[arg-type]


def test_plans_that_agree_give_nothing() -> None:
    assert disagreements(dict.fromkeys(range(4), plan()), dict.fromkeys(range(4), "node1")) == []


@pytest.mark.parametrize(
    ("other", "code", "severity", "words"),
    [
        ({"world_size": 3}, "rendezvous.world_size_disagrees", "hang", "rank 2 has 3"),
        ({"backend": "nccl"}, "rendezvous.config_disagrees", "hang", "rank 2 has nccl"),
        ({"variables": {"TORCH_DISTRIBUTED_DEBUG": "detail"}}, "rendezvous.config_disagrees", "hang", "DETAIL"),
        ({"sizes": {"tp": 2, "dp": 2}}, "group.layout_disagrees", "hang", "dp=2 tp=2"),
        ({"order": ("tp", "dp")}, "", "", ""),
        ({"framework": "mesh"}, "group.layout_disagrees", "hang", "rank 2 has mesh"),
        ({"timeout_s": 7.0}, "", "", ""),
    ],
)  # fmt: skip
def test_one_rank_that_differs(
    other: dict[str, object], code: str, severity: str, words: str
) -> None:
    found = disagreements({0: plan(), 1: plan(), 2: plan(**other), 3: plan()})
    if not code:
        assert not found, "what only one plan says is no disagreement"
        return
    assert [f.code for f in found] == [code]
    assert found[0].culprit_ranks == (2,)
    assert found[0].severity == severity
    assert found[0].waiting_ranks == (0, 1, 3)
    assert words in found[0].summary
    assert found[0].confidence > 0.9


def test_timeouts_and_versions_that_differ_are_warnings() -> None:
    found = disagreements(
        {0: plan(timeout_s=10.0), 1: plan(timeout_s=20.0), 2: plan(timeout_s=10.0, versions={"torch": "2.9.1"}),
         3: plan(versions={"torch": "2.13.0+cpu"})}
    )  # fmt: skip
    assert [(f.code, f.severity) for f in found] == [("rendezvous.config_disagrees", "warning")] * 2
    assert found[0].culprit_ranks == (1,)
    assert not any(f.waiting_ranks for f in found)


def test_patch_releases_of_torch_agree() -> None:
    assert not disagreements(
        {0: plan(versions={"torch": "2.13.0"}), 1: plan(versions={"torch": "2.13.1+cu128"})}
    )


def test_a_tie_goes_with_the_lowest_rank_and_says_so() -> None:
    (found,) = disagreements({1: plan(world_size=2), 0: plan(world_size=3)})
    assert found.culprit_ranks == (1,)
    assert found.confidence < 0.7


def test_interfaces_are_compared_within_one_host_only() -> None:
    plans = {
        0: plan(variables={"GLOO_SOCKET_IFNAME": "eth0"}),
        1: plan(variables={"GLOO_SOCKET_IFNAME": "eth0"}),
        2: plan(variables={"GLOO_SOCKET_IFNAME": "ens3"}),
        3: plan(variables={"GLOO_SOCKET_IFNAME": "ens3"}),
    }
    assert not disagreements(plans, {0: "a", 1: "a", 2: "b", 3: "b"})
    (found,) = disagreements(plans, {0: "a", 1: "a", 2: "a", 3: "b"})
    assert (found.severity, found.culprit_ranks) == ("warning", (2,))
    assert "on a" in found.summary


def test_what_the_users_own_call_does_not_say_is_not_compared() -> None:
    assert not disagreements({0: plan(by="torch"), 1: plan(sizes={"tp": 2}, framework="mesh")})


def test_two_ranks_on_one_gpu() -> None:
    found = disagreements(
        {0: plan(device="GPU-1"), 1: plan(device="GPU-2"), 2: plan(device="GPU-1")}
    )
    assert [(f.code, f.culprit_ranks) for f in found] == [
        ("rendezvous.backend_unavailable", (0, 2))
    ]


@given(st.dictionaries(st.integers(0, 20), st.sampled_from("abc"), min_size=1))
def test_those_that_agree_with_most_are_never_the_odd_ones(values: dict[int, str]) -> None:
    odd, decided = odd_ones(values)
    rest = {value for rank, value in values.items() if rank not in odd}
    assert len(rest) == 1
    counts = Counter(values.values()).most_common()
    assert counts[0][1] == Counter(values.values())[rest.pop()]
    assert decided == ("majority" if len(counts) == 1 or counts[0][1] > counts[1][1] else "tie")


def test_layouts() -> None:
    same = {0: {"tp": (0, 1)}, 1: {"tp": (0, 1)}, 2: {"tp": (2, 3)}, 3: {"tp": (2, 3)}}
    assert layouts_differ(same) is None
    found = layouts_differ({**same, 3: {"tp": (3, 2)}})
    assert found is not None
    assert found.code == "group.layout_disagrees"
    assert found.culprit_ranks == (3,)
    assert "tp" in found.summary
