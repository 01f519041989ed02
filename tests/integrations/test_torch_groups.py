"""Process groups in the odd ways that users and frameworks make them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distwatch.integrations.call_counts import Counts
from distwatch.state import events as ev
from distwatch.state.pulse import PAGE_SIZE, decode_operations, decode_page
from tests.agent.rings import read_events
from tests.integrations.test_torch import ALONE, environment, home, ring_of, run

__all__ = ["home"]

INIT = """
import os, torch, torch.distributed as dist
from distwatch.agent import core
dist.init_process_group("gloo")
t = torch.ones(4)
"""
END = """
for source in core.current().progress_sources:
    while any(0 <= g.completed < g.enqueued for g in source()): pass
core.current().beat(); core.current().dump('test'); os._exit(0)
"""
# The recorder hears of a completion some microseconds after the call has returned.


def of_kind(home: Path, kind: type) -> list:
    return [event for event in read_events(ring_of(home)) if isinstance(event, kind)]


def progress_of(ring: Path) -> dict[str, tuple[int, int]]:
    pulse = decode_page(ring.with_suffix(".pulse").read_bytes()[:PAGE_SIZE])
    assert pulse is not None
    return {group.pg_name: (group.enqueued, group.completed) for group in pulse.groups}


def test_a_generator_of_ranks_is_left_to_torch(home: Path) -> None:
    done = run(home, INIT + "print(dist.new_group(r for r in [0]).size())" + END, **ALONE)
    assert done.stdout == "1\n", done.stderr
    (called,) = of_kind(home, ev.GroupCalled)
    assert called.members == (), "not looked at: not known, and not 'all'"
    assert of_kind(home, ev.GroupCreated)[-1].members == (0,)


def test_calls_have_their_numbers_members_and_descriptions(home: Path) -> None:
    source = """
dist.new_group()
dist.new_group([0], use_local_synchronization=True)
dist.new_group([0], None, "gloo", None, False, "by position")
try:
    dist.new_group([5])
except ValueError:
    pass
"""
    run(home, INIT + source + END, **ALONE)
    calls = of_kind(home, ev.GroupCalled)
    assert [(c.number, c.members, c.pg_desc) for c in calls] == [
        (1, None, ""),
        (2, (0,), "by position"),
        (3, (5,), ""),
    ], "what only members call has no number that ranks could compare"
    steps = {s.step: s.name for s in of_kind(home, ev.StepStarted)}
    failed = [(steps[e.step], e.error) for e in of_kind(home, ev.StepEnded) if e.error]
    assert [name for name, _ in failed] == ["new_group #3"]
    assert failed[0][1].startswith("ValueError: Rank 5 is out of range")
    created = of_kind(home, ev.GroupCreated)
    assert [group.site.line for group in created if group.site] == [8, 9, 10]


def test_a_wrong_call_is_told_by_torch_and_switches_nothing_off(home: Path) -> None:
    source = (
        "\ntry:\n    dist.new_group([0], no_such_argument=1)\nexcept TypeError as e:\n    print(e)"
    )
    done = run(home, INIT + source + END, **ALONE)
    assert "unexpected keyword argument 'no_such_argument'" in done.stdout, done.stderr
    assert not of_kind(home, ev.HookFailed)


def test_a_root_group_of_a_framework_has_no_members_to_blame(home: Path) -> None:
    """slime and SGLang call the helper themselves and number the members from 0."""
    source = """
from datetime import timedelta
from torch.distributed.distributed_c10d import _new_process_group_helper, _world
weights, _ = _new_process_group_helper(1, 0, [], "gloo", dist.HashStore(),
                                       group_name="weights", timeout=timedelta(seconds=60))
_world.pg_group_ranks[weights] = {0: 0}
dist.all_reduce(t); dist.all_reduce(t, group=weights); dist.all_reduce(t, group=weights)
"""
    run(home, INIT + source + END, **ALONE)
    groups = {g.pg_name: g for g in of_kind(home, ev.GroupCreated)}
    assert (groups["weights"].members, groups["weights"].timeout_s) == ((), 60)
    assert groups["0"].members == (0,)
    assert progress_of(ring_of(home)) == {"0": (1, 1), "weights": (2, 2)}


def test_a_backend_without_a_group_does_not_shift_the_numbers(home: Path) -> None:
    """The recorder numbers backend objects, not groups: one that somebody built counts, too."""
    source = """
bare = dist.ProcessGroupGloo(dist.HashStore(), 0, 1)
group = dist.new_group([0])
dist.all_reduce(t)
for _ in range(3): bare.allreduce([t]).wait()
dist.all_reduce(t, group=group); dist.all_reduce(t, group=group)
"""
    run(home, INIT + source + END, **ALONE)
    assert progress_of(ring_of(home)) == {"0": (1, 1), "1": (2, 2)}


def test_a_second_initialization_starts_from_nothing(home: Path) -> None:
    source = """
for _ in range(5): dist.all_reduce(t)
dist.all_reduce(t, group=dist.new_group([0]))
core.current().beat()
dist.destroy_process_group()
dist.init_process_group("gloo", init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
group = dist.new_group([0])
dist.all_reduce(t)
while any(g.completed < g.enqueued for g in core.current().progress_sources[0]()): pass
"""
    run(home, INIT + source + END, **ALONE)
    assert progress_of(ring_of(home)) == {"0": (1, 1)}, "group 1 of now has done nothing yet"
    (dumped,) = of_kind(home, ev.CollectivesDumped)
    assert [(entry.pg_name, entry.seq) for entry in dumped.entries] == [("0", 1)]
    assert [call.number for call in of_kind(home, ev.GroupCalled)] == [1, 1]


def test_numbers_that_p2p_took_are_left_out() -> None:
    counts = Counts()
    assert counts.without_p2p("0", 5) == 5
    for before, taken in [(2, 1), (3, 1), (6, 2), (9, 0)]:  # 3, 4, 7 and 8 were p2p
        counts.take("0", before, taken)
    collectives = [1, 2, 5, 6, 9, 10]
    assert [counts.without_p2p("0", number) for number in collectives] == [1, 2, 3, 4, 5, 6]
    assert counts.without_p2p("0", -1) == -1
    assert counts.without_p2p("1", 9) == 9
    counts.forget("")
    assert counts.without_p2p("0", 9) == 9


FAKE = """
import os, torch, torch.distributed as dist
from distwatch.agent import core
from torch.testing._internal.distributed.fake_pg import FakeStore
dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
"""


def test_a_backend_without_sequence_numbers_is_counted_here(home: Path) -> None:
    source = "t = torch.ones(4)\nfor _ in range(3): dist.all_reduce(t)\n"
    done = run(home, FAKE + source + END, **ALONE)
    assert done.stderr == ""
    assert not of_kind(home, ev.HookFailed)
    assert progress_of(ring_of(home)) == {"0": (3, -1)}, "how many are complete is not known"
    operations = decode_operations(ring_of(home).with_suffix(".pulse").read_bytes())
    assert [operation.seq for operation in operations] == [1, 2, 3]


def test_a_forked_process_names_what_it_does_itself(home: Path) -> None:
    source = """
dist.all_reduce(torch.ones(4))
child = os.fork()
if child == 0:
    dist.broadcast(torch.ones(4, dtype=torch.int64), 0)
    dist.all_reduce(torch.ones(4))
    os._exit(0)
os.waitpid(child, 0)
print(child)
"""
    done = run(home, FAKE + source, **ALONE)
    (ring,) = (home / "job").glob(f"*-{done.stdout.strip()}.ring")
    operations = decode_operations(ring.with_suffix(".pulse").read_bytes())
    assert [(o.op, o.dtype) for o in operations] == [
        ("broadcast", "int64"),
        ("allreduce", "float32"),
    ]
    sites = {e.number: e.site.line for e in read_events(ring) if isinstance(e, ev.SiteSeen)}
    assert [sites[o.site] for o in operations] == [11, 12]


@pytest.mark.parametrize("folder", ["torch", "distwatch", "transformers"])
def test_a_project_may_be_called_as_a_library_is(home: Path, folder: str) -> None:
    script = home.with_suffix("") / "project" / folder / "train.py"
    script.parent.mkdir(parents=True)
    script.write_text(INIT + "dist.all_reduce(t)" + END)
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**environment(home), **ALONE},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (init,) = [s for s in of_kind(home, ev.StepStarted) if s.name == "init_process_group"]
    assert init.site is not None
    assert (init.site.file, init.site.line) == (str(script), 4)
    assert [e.site.line for e in of_kind(home, ev.SiteSeen)] == [6]


TWO_RANKS = """
import os, torch, torch.distributed as dist
from distwatch.agent import core
dist.init_process_group("gloo")
rank, t = dist.get_rank(), torch.ones(4)
first = dist.new_group([0], group_desc="only rank 0")
both = dist.new_group(group_desc="both")
dist.monitored_barrier(both)
dist.all_reduce(t, group=both)
dist.all_reduce(t)
if rank == 0: dist.send(t, 1)
else: dist.recv(t, 0)
dist.monitored_barrier()
dist.barrier()
for source in core.current().progress_sources:
    while any(g.completed < g.enqueued for g in source()): pass
core.current().beat(); dist.barrier(); os._exit(0)
"""


def test_two_ranks_of_torchrun_tell_the_same_story(home: Path) -> None:
    script = home.with_suffix(".py")
    script.write_text(TWO_RANKS)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    try:
        done = subprocess.run(
            [*launch, str(script)],
            env=environment(home),
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
    finally:
        script.unlink()
    assert done.returncode == 0, done.stderr
    rings = sorted((home / "job").glob("*.ring"))
    assert len(rings) == 2, "the launcher has nothing to tell"
    of_rank = {}
    for ring in rings:
        events = read_events(ring)
        (confirmed,) = [e for e in events if isinstance(e, ev.IdentityConfirmed)]
        of_rank[confirmed.global_rank] = (ring, events)
    assert set(of_rank) == {0, 1}
    for rank, (ring, events) in of_rank.items():
        assert_story(rank, ring, events)


def assert_story(rank: int, ring: Path, events: list[Any]) -> None:
    called, _ = [e for e in events if isinstance(e, ev.GroupCalled)]
    assert (called.number, called.members, called.pg_desc) == (1, (0,), "only rank 0")
    held = [e.pg_desc for e in events if isinstance(e, ev.GroupCreated)]
    assert held == [["default_pg", "only rank 0", "both"], ["default_pg", "both"]][rank]
    content = ring.with_suffix(".pulse").read_bytes()
    operations = decode_operations(content)
    both = [(o.op, o.seq) for o in operations if o.pg_name == "2"]
    assert both == [("monitored_barrier", -1), ("allreduce", 1)]
    # The last barrier is entered after the beat, and nobody waits for it to be left.
    world = [(o.op, o.seq) for o in operations if o.pg_name == "0"]
    assert world == [
        ("allreduce", 1),
        (("send", "recv")[rank], -1),
        ("monitored_barrier", -1),
        ("barrier", 2),
        ("barrier", 3),
    ]
    assert {o.peer for o in operations if o.op in ("send", "recv")} == {1 - rank}
    progress = progress_of(ring)
    # The agent's own thread may beat once more, in the last barrier.
    assert progress["0"] in ((2, 2), (3, 2), (3, 3))
    assert progress["2"] == (1, 1)
