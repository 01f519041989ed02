"""Verdicts on random jobs whose collectives run on devices: the simulator, and what is said of its dumps."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from distwatch.dumps.imported import RankDump
from distwatch.dumps.recorder import read_recorder_dump
from tests.doubles.async_scenarios import CODES, Scenario, outcome, scenario, victims
from tests.doubles.async_twins import twin
from tests.dumps.test_recorded_nccl import DATA
from tests.support.imported import judge_dumps

JOBS_OF_EACH = 12
SURE = ("cpu stops", "GIL held", "healthy", "straggler")
"""Faults that dumps of all ranks always show."""


def judged(kind: str) -> list[tuple[Scenario, str, set[int]]]:
    found = []
    for seed in range(JOBS_OF_EACH):
        case = scenario(seed, kind)
        findings = judge_dumps(case.read())
        found.append((case, outcome(case, findings), victims(case, findings)))
    return found


@pytest.mark.parametrize("kind", CODES)
def test_a_fault_of_a_random_job_is_named_and_nobody_else(kind: str) -> None:
    found = judged(kind)
    blamed = {str(case): ranks for case, _, ranks in found if ranks}
    assert blamed == {}
    results = Counter(result for _, result, _ in found)
    assert results["wrong"] == 0, [str(case) for case, result, _ in found if result == "wrong"]
    assert results["right"] >= len(found) // 3
    if kind in SURE:
        complete = [result for case, result, _ in found if not case.how.lost]
        assert complete == ["right"] * len(complete)


def test_a_hung_kernel_is_named_where_the_recorder_has_its_times() -> None:
    cases = [case for seed in range(60) if (case := scenario(seed, "hung kernel")).how.timing]
    # The recorder does not time the sends and recvs of a batch.
    cases = [c for c in cases if c.waits and not c.how.lost and not c.how.keeps_p2p_open]
    assert len(cases) > 10
    for case in cases:
        first = judge_dumps(case.read())[0]
        assert (first.code, first.culprit_ranks) == (
            "collective.device_behind",
            (case.fault.rank,),
        ), str(case)


def test_the_simulator_writes_what_torch_writes() -> None:
    with (DATA / "gpu_error_1st" / "_dump_0").open("rb") as file:
        real: dict[str, Any] = pickle.load(file)
    case = next(c for seed in range(50) if (c := scenario(seed, "hung kernel")).waits)
    ours = next(dump for dump in case.dumps.values() if dump["entries"])
    assert set(ours) == set(real)
    for part in ("pg_config", "pg_status"):
        mine, theirs = next(iter(ours[part].values())), next(iter(real[part].values()))
        assert {name: type(value) for name, value in mine.items()} == {
            name: type(value) for name, value in theirs.items()
        }
    assert set(ours["entries"][0]) == set(real["entries"][0])
    states = {(e["state"], e["retired"]) for dump in case.dumps.values() for e in dump["entries"]}
    assert ("scheduled", False) in states or ("started", False) in states


def test_a_job_without_any_list_of_members_is_judged_by_who_used_a_group() -> None:
    case = next(
        c
        for seed in range(200)
        if (c := scenario(seed, "cpu stops")).waits and not c.how.lost and c.how.ring == 2000
        and not c.how.only_open
    )  # fmt: skip
    for dump in case.dumps.values():
        for config in dump["pg_config"].values():
            config["ranks"] = ""
    findings = judge_dumps(case.read())
    assert findings[0].culprit_ranks == (case.fault.rank,), str(case)


def as_json(dump: dict[str, Any]) -> bytes:
    return json.dumps(dump).encode()


def without_status(dump: dict[str, Any]) -> bytes:
    """Format 2.1, before torch 2.4."""
    entries = [
        {k: v for k, v in e.items() if k not in ("thread_name", "thread_id")}
        for e in dump["entries"]
    ]
    return pickle.dumps({"version": "2.1", "pg_config": dump["pg_config"], "entries": entries})


def of_first_format(dump: dict[str, Any]) -> bytes:
    """Format 1.5: one number for all calls, and no group's configuration."""
    entries = [
        {
            "pg_id": e["pg_id"], "process_group": e["process_group"], "record_id": e["record_id"],
            "seq_id": e["collective_seq_id"], "profiling_name": e["profiling_name"], "state": e["state"],
            "time_created_ns": e["time_created_ns"], "input_sizes": e["input_sizes"],
            "output_sizes": e["output_sizes"], "retired": e["retired"], "is_p2p": e["is_p2p"],
        }
        for e in dump["entries"]
    ]  # fmt: skip
    return pickle.dumps({"version": "1.5", "entries": entries})


def of_torch_2_5(dump: dict[str, Any]) -> bytes:
    """Format 2.4: no library version, and no thread of a call."""
    parts = ("pg_config", "pg_status")
    entries = [
        {k: v for k, v in e.items() if k not in ("thread_name", "thread_id")}
        for e in dump["entries"]
    ]
    return pickle.dumps({"version": "2.4", **{p: dump[p] for p in parts}, "entries": entries})


def of_torch_2_13(dump: dict[str, Any]) -> bytes:
    """Format 2.10: the library's version has another name."""
    renamed = {("comm_lib_version" if k == "nccl_version" else k): v for k, v in dump.items()}
    return pickle.dumps(renamed | {"version": "2.10"})


def of_a_hooked_backend(dump: dict[str, Any]) -> bytes:
    """Format 2.10 as torch's hooks write it for a backend without a recorder of its own, `nccl2` among them.

    The backend's name leads the call's; the time of a start is that of its end; a pickle has no other keys.
    """
    entries = [
        {
            **entry,
            "profiling_name": entry["profiling_name"].replace("nccl:", "nccl2:"),
            "time_discovered_started_ns": entry["time_created_ns"] if entry["retired"] else None,
            "time_discovered_completed_ns": entry["time_created_ns"] if entry["retired"] else None,
            "state": "completed" if entry["retired"] else "scheduled",
        }
        for entry in dump["entries"]
    ]
    kept = {key: dump[key] for key in ("pg_config", "pg_status")}
    return pickle.dumps({**kept, "version": "2.10", "comm_lib_version": "", "entries": entries})


def with_lists(dump: dict[str, Any]) -> bytes:
    """The members of a group as a list, and no description: as JSON of some versions has them."""
    config = {
        key: {**one, "ranks": json.loads(one["ranks"]), "desc": None}
        for key, one in dump["pg_config"].items()
    }
    return json.dumps({**dump, "pg_config": config}).encode()


FORMATS = [
    as_json,
    with_lists,
    without_status,
    of_first_format,
    of_torch_2_5,
    of_torch_2_13,
    of_a_hooked_backend,
]


@pytest.mark.parametrize("write", FORMATS)
def test_dumps_of_every_format_give_the_verdict(write: Callable[[dict[str, Any]], bytes]) -> None:
    cases = (scenario(seed, "cpu stops") for seed in range(200))
    whole = [
        c
        for c in cases
        if c.waits
        and not c.how.lost
        and c.how.ring == 2000
        and not c.how.only_open
        and not c.how.keeps_p2p_open  # what is over, only a status tells
    ]
    for case in whole[:4]:
        dumps = [
            RankDump(global_rank=rank, taken_ns=0, recorder=read_recorder_dump(write(dump)))
            for rank, dump in case.dumps.items()
        ]
        findings = judge_dumps(dumps)
        assert findings[0].culprit_ranks == (case.fault.rank,), str(case)
        assert "collective.device_behind" not in {finding.code for finding in findings}


def test_a_device_that_never_started_a_call_is_named_without_its_peers_dumps() -> None:
    cases = (scenario(seed, "hung kernel") for seed in range(300))
    alone = []
    for case in cases:
        head = next((c for c in case.job.ranks[case.fault.rank].heads()), None)
        shown = case.how.timing and not case.how.only_open and not case.how.lost
        if case.waits and shown and head and not head.is_p2p:
            peers = set(case.job.programs.groups[head.group]) - {case.fault.rank}
            for rank in peers:
                case.dumps.pop(rank, None)
            alone.append(case)
    assert len(alone) >= 20
    for case in alone[:20]:
        first = judge_dumps(case.read())[0]
        assert (first.code, first.culprit_ranks) == (
            "collective.device_behind", (case.fault.rank,),
        ), str(case)  # fmt: skip


def test_in_a_pair_the_rank_that_has_lost_its_place_is_named() -> None:
    found = []
    for seed in range(200):
        case = scenario(seed, "CUDA error")
        sends = any(call.is_p2p for call in case.job.ranks[case.fault.rank].heads())
        is_pair = case.job.programs.layout.pp == 2 and not case.how.lost
        if case.waits and sends and is_pair:
            found.append((case, judge_dumps(case.read())[0]))
    assert len(found) > 5
    for case, first in found:
        assert (first.code, first.culprit_ranks) == (
            "collective.device_behind", (case.fault.rank,),
        ), str(case)  # fmt: skip


def test_the_rank_whose_order_no_other_rank_has_is_named_where_circles_close() -> None:
    """Four ranks and more play each part, and the rings reach back far enough to show their orders."""
    for kind in ("other order", "skipped call"):
        results = Counter(
            outcome(case, judge_dumps(case.read()))
            for seed in range(240)
            if (case := scenario(seed, kind)).waits and not case.how.lost
            and not case.how.only_open and case.how.ring > 48 and case.job.programs.layout.dp == 4
        )  # fmt: skip
        assert results.total() > 8
        assert results["wrong"] == 0
        assert results["right"] >= 0.9 * results.total(), (kind, results)


@pytest.mark.parametrize(
    ("seed", "kind", "code"),
    [
        (285, "other order", "collective.op_mismatch"),
        (389, "other size", "collective.shape_mismatch"),
        (665, "skipped call", "collective.count_uneven"),
    ],
)
def test_of_two_sides_of_which_one_left_no_dump_the_one_that_no_other_group_is_like_is_named(
    seed: int, kind: str, code: str
) -> None:
    case = scenario(seed)
    assert case.fault.kind == kind
    assert case.how.lost
    assert case.fault.rank not in case.how.lost
    first = judge_dumps(case.read())[0]
    assert (first.code, first.culprit_ranks) == (code, (case.fault.rank,))
    assert first.confidence < 0.8


def test_where_only_the_habits_of_other_groups_decide_the_verdict_is_less_certain() -> None:
    sure: dict[bool, set[float]] = {True: set(), False: set()}
    for seed in range(40):
        case = scenario(seed, "other size")
        first = judge_dumps(case.read())[0]
        is_named = first.culprit_ranks == (case.fault.rank,) and not case.how.lost
        if is_named and first.code == "collective.shape_mismatch":
            sure[len(first.waiting_ranks) > 1].add(first.confidence)
    assert sure == {True: {0.95}, False: {0.8}}


def test_the_one_rank_of_two_calls_on_streams_of_their_own_is_named_without_times() -> None:
    found = 0
    for seed in range(400):
        case = scenario(seed, "hung kernel")
        if case.waits and not case.how.timing and case.job.programs.layout.overlaps:
            first = judge_dumps(case.read())[0]
            if "streams of their own" in first.summary:
                found += 1
                assert first.culprit_ranks == (case.fault.rank,), str(case)
    assert found >= 2


def test_a_recv_that_never_started_is_named_where_the_recorder_times_them() -> None:
    case = scenario(770)
    assert case.fault.kind == "hung kernel"
    first = judge_dumps(case.read())[0]
    assert (first.code, first.culprit_ranks) == ("collective.device_behind", (case.fault.rank,))
    assert "not started it" in first.summary


@pytest.mark.parametrize(
    ("seed", "kind"),
    [
        (93, "skipped call"), (235, "skipped call"), (362, "dead"), (94, "dead"), (1032, None),
        (6146, None), (6555, None), (9007, None),
    ],
)  # fmt: skip
def test_a_rank_beside_the_one_at_fault_is_not_blamed(seed: int, kind: str | None) -> None:
    """Each of these once had a victim: a habit of one place, a rank that had got less far, sends."""
    case = scenario(seed, kind)
    assert victims(case, judge_dumps(case.read())) == set()


def test_a_hung_kernel_without_times_cannot_be_told_from_that_of_its_peer() -> None:
    """What is undecidable is so by proof: the fault at another rank leaves the very same dumps."""
    case = next(
        case
        for seed in range(100)
        if (case := scenario(seed, "hung kernel")).waits and not case.how.timing and not case.how.lost
        and not case.job.programs.layout.overlaps
    )  # fmt: skip
    other = twin(case)
    assert other is not None
    assert other.rank != case.fault.rank
    findings = judge_dumps(case.read())
    assert findings[0].culprit_ranks == ()
    assert {case.fault.rank, other.rank} <= set(findings[0].waiting_ranks)
