"""Plans that differ, seen from outside: when it is told, how bad it is, and what follows from it."""

from __future__ import annotations

import pytest

from tests.diagnosis.recorded import RecordedJob, judged, only_root


def planned(sizes: dict[int, int]) -> RecordedJob:
    """Ranks that wait in an initialization, each with its own idea of the world."""
    job = RecordedJob(max(sizes.values()))
    for rank, size in sizes.items():
        job.stand(rank, world_size=size, local_world_size=size)
    job.start(*sizes)
    job.enter(*sizes)
    return job


@pytest.mark.parametrize(
    ("sizes", "odd"),
    [
        ({0: 3, 1: 2, 2: 3}, (1,)),
        ({0: 2, 1: 3, 2: 3}, (0,)),
        ({0: 4, 1: 4, 2: 8, 3: 4}, (2,)),
    ],
)
def test_the_odd_one_out_is_known_at_once(sizes: dict[int, int], odd: tuple[int, ...]) -> None:
    job = planned(sizes)
    job.tick(1.0)
    verdict = only_root(job, "rendezvous.world_size_disagrees", *odd)
    assert verdict.confidence > 0.9
    assert verdict.waiting_ranks == tuple(rank for rank in sizes if rank not in odd)
    assert f"rank {odd[0]} has {sizes[odd[0]]}" in verdict.summary
    assert "called at" in verdict.evidence[0].text


@pytest.mark.parametrize("sizes", [{0: 3, 1: 2}, {0: 2, 1: 3}])
def test_of_two_the_one_that_comes_to_rank_0_is_less_surely_wrong(sizes: dict[int, int]) -> None:
    job = planned(sizes)
    job.tick(60.0)
    verdict = only_root(job, "rendezvous.world_size_disagrees", 1)
    assert verdict.confidence < 0.7, (
        "rank 2 exists in one rank's world alone: it never had to start"
    )


def test_a_rank_that_all_worlds_have_is_missing_beside_it() -> None:
    job = planned({0: 4, 2: 5, 3: 4})
    job.tick(60.0)
    roots = [f for f in judged(job) if f.role == "root"]
    assert [(f.code, f.culprit_ranks) for f in roots] == [
        ("rendezvous.world_size_disagrees", (2,)),
        ("rendezvous.rank_never_started", (1,)),
    ]


def test_worlds_that_formed_all_the_same_are_a_warning() -> None:
    job = planned({0: 2, 1: 3, 2: 3})
    job.form(0, 1, 2)
    job.tick(5.0)
    (finding,) = judged(job)
    assert (finding.code, finding.severity) == ("rendezvous.world_size_disagrees", "warning")


def test_until_their_first_collective_does_not_come_back() -> None:
    job = planned({0: 2, 1: 3, 2: 3})
    job.form(0, members=(0, 1))
    job.form(1, 2, members=(0, 1, 2))
    for rank in (1, 2):
        job.pulse(rank, at=20, groups={"0": (1, -1, 5.0)})
    job.pulse(0, at=20, groups={"0": (0, 0, 5.0)})
    job.tick(20.0)
    findings = judged(job)
    assert findings[0].code == "rendezvous.world_size_disagrees"
    assert findings[0].severity == "hang"
    assert findings[0].culprit_ranks == (0,)


def test_sizes_of_two_initializations_are_not_compared() -> None:
    job = RecordedJob(4)
    job.enter(*range(4))
    job.form(*range(4))
    job.enter(0, at=20.0, step=11, number=2, world_size=3)
    job.tick(21.0)
    assert judged(job) == []


def differing(field: str, value: object) -> RecordedJob:
    job = RecordedJob(3)
    job.start(0, 1, 2)
    job.enter(0, 1)
    job.enter(2, **{field: value})
    return job


DIFFERENCES = [
    ("backend", "nccl"),
    ("variables", {"TORCH_DISTRIBUTED_DEBUG": "DETAIL"}),
]


@pytest.mark.parametrize(("field", "value"), DIFFERENCES)
def test_settings_that_keep_a_world_from_forming(field: str, value: object) -> None:
    job = differing(field, value)
    job.tick(2.0)
    assert judged(job) == [], "it may form all the same"
    job.tick(4.0)
    verdict = only_root(job, "rendezvous.config_disagrees", 2)
    assert verdict.waiting_ranks == (0, 1)
    job.tick(60.0)
    only_root(job, "rendezvous.config_disagrees", 2)
    for rank in (0, 1, 2):
        job.refuse(rank, 61.0, "DistStoreError: wait timeout after 60000ms")
    only_root(job, "rendezvous.config_disagrees", 2)


@pytest.mark.parametrize(("field", "value"), DIFFERENCES)
def test_settings_that_did_not(field: str, value: object) -> None:
    job = differing(field, value)
    job.form(0, 1, 2)
    job.tick(10.0)
    assert [(f.code, f.severity) for f in judged(job)] == [
        ("rendezvous.config_disagrees", "warning")
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("timeout_s", 7.0),
        ("variables", {"GLOO_SOCKET_IFNAME": "lo"}),
        ("versions", {"torch": "2.9.1"}),
    ],
)
def test_settings_that_only_make_trouble_later(field: str, value: object) -> None:
    job = RecordedJob(3)
    job.start(0, 1, 2)
    usual = {"timeout_s": 1800.0, "versions": {"torch": "2.13.0"}}
    job.enter(0, 1, **usual)
    job.enter(2, **{**usual, field: value})
    job.tick(9.0)
    (finding,) = judged(job)
    assert (finding.code, finding.severity) == ("rendezvous.config_disagrees", "warning")
    assert finding.culprit_ranks == (2,)


def test_sizes_of_a_framework() -> None:
    job = RecordedJob(4)
    job.start(*range(4))
    usual = {"by": "distwatch", "framework": "mesh", "order": ("tp", "dp")}
    job.enter(0, 1, 3, sizes={"tp": 2, "dp": 2}, **usual)
    job.enter(2, sizes={"tp": 4}, **usual)
    job.tick(1.2)
    only_root(job, "group.layout_disagrees", 2)
