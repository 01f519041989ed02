"""Circles of sends and recvs on devices, in small dumps."""

from __future__ import annotations

import json
from typing import Any

from distwatch.dumps.imported import RankDump
from distwatch.dumps.recorder import read_recorder_dump
from distwatch.state.finding import Finding
from tests.support.imported import judge_dumps


def verdict(*calls: list[tuple[str, int, bool]]) -> Finding:
    """The first finding. By rank: the calls of one pipeline, each with its number and whether it is over."""
    members = str(list(range(len(calls))))
    dumps = [
        RankDump(
            global_rank=rank,
            taken_ns=0,
            recorder=read_recorder_dump(json.dumps(_dump(of_rank, members)).encode()),
        )
        for rank, of_rank in enumerate(calls)
    ]
    return judge_dumps(dumps)[0]


def _dump(calls: list[tuple[str, int, bool]], members: str) -> dict[str, Any]:
    return {
        "version": "2.9",
        "pg_config": {"0": {"name": "0", "desc": "PP", "ranks": members}},
        "entries": [
            {
                "record_id": place, "process_group": ("0", "PP"), "profiling_name": f"nccl:{name}",
                "is_p2p": "all_reduce" not in name, "time_created_ns": 10**18 + place,
                "p2p_seq_id" if "all_reduce" not in name else "collective_seq_id": seq,
                "state": "completed" if over else "scheduled", "retired": over, "timeout_ms": 1000,
            }
            for place, (name, seq, over) in enumerate(calls)
        ],
    }  # fmt: skip


def test_a_send_and_its_recv_are_no_circle_where_both_devices_stand_at_other_calls() -> None:
    found = verdict(
        [("recv 0<-1", 43, False), ("send 0->3", 44, False)],
        [("recv 1<-2", 49, False), ("send 1->0", 50, False)],
        [("recv 2<-1", 55, False), ("send 2->3", 56, False)],
        [("recv 3<-2", 42, False), ("recv 3<-0", 44, False)],
    )
    assert (found.code, found.culprit_ranks) == ("p2p.cycle", (1, 2))


def test_sends_after_which_a_device_has_gone_on_blame_nobody() -> None:
    """Entries of a batch stay `scheduled` when they are over."""
    sends = [[("send 0->1", 4, False)], [("send 1->0", 4, False)]]
    stuck = verdict(*sends)
    assert (stuck.code, stuck.culprit_ranks) == ("p2p.cycle", (0, 1))
    gone_on = verdict([*sends[0], ("all_reduce", 1, True)], [*sends[1], ("all_reduce", 1, True)])
    assert gone_on.culprit_ranks == ()
    assert "may be over" in gone_on.summary
