"""How far a group has come, by a rank's entries and by a status whose numbers may be of either kind of call."""

from __future__ import annotations

import json
from typing import Any

from distwatch.dumps.imported import JobDumps, RankDump
from distwatch.dumps.recorder import RecorderDump, read_recorder_dump
from distwatch.state import events as ev

GROUP = ("0", "default_pg")


def recorder(completed: int, *entries: dict[str, Any]) -> RecorderDump:
    """A dump of the open calls alone; `completed` is also the number of the newest call."""
    status = {"last_enqueued_collective": completed, "last_completed_collective": completed}
    return read_recorder_dump(
        json.dumps(
            {
                "version": "2.9",
                "pg_config": {"0": {"name": "0", "desc": "default_pg", "ranks": "[0, 1]"}},
                "pg_status": {"0": status},
                "entries": entries,
            }
        ).encode()
    )


def open_call(name: str, seq: int, **more: object) -> dict[str, Any]:
    return {
        "record_id": seq, "pg_id": 0, "process_group": GROUP, "collective_seq_id": seq,
        "profiling_name": f"nccl:{name}", "time_created_ns": 10**18 + seq, "state": "scheduled", **more,
    }  # fmt: skip


def progress(*recorders: RecorderDump) -> list[ev.GroupProgress | None]:
    """What is known of the group at each rank."""
    job = JobDumps(
        [RankDump(global_rank=n, taken_ns=0, recorder=one) for n, one in enumerate(recorders)]
    )
    known = [job.calls(rank, one).get(GROUP) for rank, one in enumerate(recorders)]
    return [calls.progress() if calls else None for calls in known]


def test_a_status_alone_tells_how_far_a_rank_is_where_no_other_rank_contradicts() -> None:
    idle, waits = progress(recorder(2), recorder(1, open_call("all_reduce", 2)))
    assert idle is not None
    assert waits is not None
    assert (idle.completed, waits.completed) == (2, 1)


def test_a_number_that_one_rank_shows_to_be_of_a_send_is_believed_at_no_rank() -> None:
    """Rank 1's status is beyond its own open call; rank 0 has no call open, so its dump cannot show that."""
    idle, waits = progress(recorder(3), recorder(3, open_call("all_reduce", 2)))
    assert idle is None
    assert waits is not None
    assert (waits.enqueued, waits.completed) == (2, 1)


def test_a_send_of_one_rank_makes_the_numbers_of_all_uncertain() -> None:
    send = open_call("send 1->0", 1, is_p2p=True, p2p_seq_id=7)
    one, other = progress(recorder(9, open_call("all_reduce", 10)), recorder(6, send))
    assert one is not None
    assert other is not None
    assert (one.enqueued, one.completed, other.completed) == (10, 9, 1)
