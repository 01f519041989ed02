"""Snapshots that were written before they carried events: their bytes, as that code wrote them."""

from __future__ import annotations

from pathlib import Path

from distwatch.state import events as ev
from distwatch.state.events import decode_event, encode_event
from distwatch.state.frames import FileHeader
from distwatch.state.model import Process, RunState
from distwatch.state.reducer import reduce

BYTES = Path(__file__).parent / "old_snapshots"
KEY = "node1-41.9"
HEADER = FileHeader(
    stream=KEY, host="node1", pid=41, start_ticks=9, boot_id="", wall_offset_ns=0, salt=1
)
AT_NS = 5_000


def read(name: str) -> ev.Event | None:
    return decode_event((BYTES / f"{name}.msgpack").read_bytes())


def folded(*told: tuple[int, ev.Event | None]) -> Process:
    state = RunState()
    for seq, (time_ns, event) in enumerate(told, start=1):
        assert event is not None
        reduce(state, HEADER, seq, time_ns, event)
    return state.processes[KEY]


def test_all_that_it_held_is_known() -> None:
    process = folded((AT_NS, read("held")))
    assert (process.host, process.global_rank, process.world_size) == ("node1", 3, 64)
    assert (process.initialized, process.role) == (True, "rank")
    assert process.planned is not None
    assert (process.planned.number, process.planned_ns) == (2, AT_NS)
    assert process.worker is not None
    assert process.worker.actor_class == "Trainer"
    assert list(process.integrations) == ["torch_distributed"]
    assert {n: (g.members, g.axis, g.timeout_s) for n, g in process.groups.items()} == {
        "0": (tuple(range(64)), "", 600.0),
        "1": ((3, 19, 35, 51), "dp", None),
    }
    assert {n: call.members for n, call in process.group_calls.items()} == {
        1: tuple(range(64)),
        2: None,
    }
    assert [raised.step for raised in process.raised] == ["arrival"]
    assert [mesh.sizes for mesh in process.meshes] == [(4, 16)]
    held = process.layouts["megatron"]
    assert (held.groups[0].members, held.stack) == (tuple(range(48)), ("train.py:7 in main",))
    assert process.layouts_ns == {"megatron": AT_NS}
    assert process.skipped_gradients["megatron"].of == 40
    assert process.extra_groups[1].name == "weights"
    assert {n: site.line for n, site in process.sites.items()} == {1: 7, 2: 30}
    steps = [(step.step, step.parent, step.started_ns) for step in process.open_steps()]
    assert steps == [(8, None, 1_000), (9, 8, 2_000)]
    load = process.loads[8]
    assert load.arguments.checkpoint == "org/model"
    assert load.placement is not None
    assert load.placement.model_class == "Llama"


def test_a_world_that_had_ended_does_not_hold() -> None:
    process = folded((AT_NS, read("world_ended")))
    assert process.confirmed is not None
    assert (process.initialized, process.global_rank) == (False, 3)


def test_whoever_knew_it_all_learns_nothing_new() -> None:
    snapshot = read("held")
    assert isinstance(snapshot, ev.Snapshot)
    told = [(time_ns or 3_000, event) for time_ns, event in snapshot.kept]
    assert snapshot.dropped == 4
    before, after = folded(*told), folded(*told, (AT_NS, snapshot))
    after.last_seq, after.last_ns = before.last_seq, before.last_ns
    assert after == before


def test_what_is_over_by_it_is_over() -> None:
    mine = ev.StepStarted(step=7, name="new_group")
    gone = ev.GroupCreated(pg_name="9", members=(3, 4))
    layout = ev.LayoutHeld(framework="sglang")
    process = folded((1, mine), (2, gone), (3, layout), (AT_NS, read("held")))
    assert process.steps[7].ended_ns == AT_NS
    assert process.groups["9"].destroyed_ns == AT_NS
    assert list(process.layouts) == ["megatron"]


def test_it_is_written_again_as_it_is_written_now() -> None:
    snapshot = read("held")
    assert snapshot is not None
    assert decode_event(encode_event(snapshot)) == snapshot
