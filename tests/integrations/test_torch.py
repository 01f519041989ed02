"""torch.distributed seen from inside, in real processes on gloo."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from distwatch.state import events as ev
from distwatch.state.pulse import PAGE_SIZE, SLOT, SLOT_SIZE, SLOTS, decode_operations, decode_page
from tests.agent.rings import read_events
from tests.support.ranks import free_port


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A run root on tmpfs, so that rings lie in the run folder itself."""
    folder = Path(f"/dev/shm/distwatch-test-{os.getpid()}-{tmp_path.name}")
    yield folder
    subprocess.run(["rm", "-rf", str(folder)], check=True)


def environment(home: Path) -> dict[str, str]:
    return {
        **os.environ,
        "DISTWATCH": "1",
        "DISTWATCH_DIR": str(home),
        "DISTWATCH_RUN_ID": "job",
        "DISTWATCH_OBSERVER": "off",
        "OMP_NUM_THREADS": "1",
    }


def run(home: Path, source: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environ = {**environment(home), **variables}
    return subprocess.run(
        [sys.executable, "-c", "import distwatch.auto\n" + source],
        env=environ,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def ring_of(home: Path) -> Path:
    (ring,) = (home / "job").glob("*.ring")
    return ring


TAG = 9  # among a slot's fields
ALONE = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}

JOB = """
from torch.distributed import init_process_group
import os, torch, torch.distributed as dist; RECORDED = os.environ.get("TORCH_FR_BUFFER_SIZE") != "0"
init_process_group("gloo")
group = dist.new_group([0], group_desc="mine")
t = torch.ones(8)
dist.all_reduce(t)
dist.broadcast(t, 0, group=group)
work = dist.all_gather([torch.ones(8)], t, async_op=True); work.wait()
print("sum", float(t.sum()))
from distwatch.agent import core
for source in core.current().progress_sources:
    # The recorder hears of a completion some microseconds after the call has returned.
    while RECORDED and any(g.completed < g.enqueued for g in source()): pass
core.current().beat()
core.current().dump("test")
dist.destroy_process_group()
"""


def test_a_job_is_told_step_by_step(home: Path) -> None:
    done = run(home, JOB, **ALONE)
    assert (done.returncode, done.stdout) == (0, "sum 8.0\n"), done.stderr
    events = read_events(ring_of(home))
    steps = [event.name for event in events if isinstance(event, ev.StepStarted)]
    assert steps[:2] == ["init_process_group", "rendezvous"]
    assert "new_group #1" in steps
    assert all(e.error is None for e in events if isinstance(e, ev.StepEnded))
    groups = {e.pg_name: e for e in events if isinstance(e, ev.GroupCreated)}
    assert (groups["0"].pg_desc, groups["0"].members, groups["0"].timeout_s) == (
        "default_pg",
        (0,),
        1800,
    )
    assert groups["1"].pg_desc == "mine"
    assert any(isinstance(e, ev.IdentityConfirmed) and e.world_size == 1 for e in events)
    assert events[-1] == ev.ProcessEnding()
    assert any(e == ev.GroupDestroyed(pg_name="") for e in events)
    applied = [e for e in events if isinstance(e, ev.IntegrationChanged) and e.status == "applied"]
    assert [(e.name, e.version.partition("+")[0]) for e in applied] == [
        ("torch_distributed", "2.13.0"),
        ("device_mesh", "2.13.0"),
        ("torch_spawn", "2.13.0"),
        ("torch_optimizers", "2.13.0"),
    ]
    assert not any(isinstance(e, ev.HookFailed) for e in events)


def test_progress_operations_and_recorder_agree(home: Path) -> None:
    run(home, JOB.replace("dist.destroy_process_group()", "import os; os._exit(0)"), **ALONE)
    ring = ring_of(home)
    content = ring.with_suffix(".pulse").read_bytes()
    pulse = decode_page(content[:PAGE_SIZE])
    assert pulse is not None
    assert {g.pg_name: (g.enqueued, g.completed) for g in pulse.groups} == {
        "0": (2, 2),
        "1": (1, 1),
    }
    operations = decode_operations(content)
    assert [(o.op, o.pg_name, o.seq, o.numel, o.dtype) for o in operations] == [
        ("allreduce", "0", 1, 8, "float32"),
        ("broadcast", "1", 1, 8, "float32"),
        ("allgather", "0", 2, 8, "float32"),
    ]
    assert all(operation.left_ns for operation in operations)
    events = read_events(ring)
    sites = {e.number: e.site for e in events if isinstance(e, ev.SiteSeen)}
    assert [sites[o.site].line for o in operations] == [8, 9, 10]
    (dumped,) = [e for e in events if isinstance(e, ev.CollectivesDumped)]
    assert [(c.pg_name, c.seq, c.op) for c in dumped.entries] == [
        ("0", 1, "gloo:all_reduce"),
        ("0", 2, "gloo:all_gather"),
        ("1", 1, "gloo:broadcast"),
    ]


REPEATED = """
import os, torch, torch.distributed as dist
from distwatch.agent import core
from distwatch.integrations import torch_collectives
dist.init_process_group("gloo")
t = torch.ones(8)
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
for _ in range(3):
    for _ in range(4):
        dist.all_reduce(t)
    model(torch.ones(1, 2)).sum().backward()
core.current().dump("test")
print(torch_collectives.CallRecord is not None)
os._exit(0)
"""


@pytest.mark.parametrize("compiled", [True, False])
def test_calls_from_python_have_the_recorders_numbers(home: Path, compiled: bool) -> None:
    """DDP's own collectives, which no Python code calls, take numbers between them."""
    if compiled and find_spec("distwatch.agent._calls") is None:
        pytest.skip("the compiled module was not built here")
    without = "" if compiled else "import sys; sys.modules['distwatch.agent._calls'] = None\n"
    done = run(home, without + REPEATED, **ALONE)
    assert done.stdout == f"{compiled}\n", done.stderr
    operations = decode_operations(ring_of(home).with_suffix(".pulse").read_bytes())
    called = {o.seq: o for o in operations if o.op == "allreduce"}
    (dumped,) = [e for e in read_events(ring_of(home)) if isinstance(e, ev.CollectivesDumped)]
    sizes = {c.seq: c.input_sizes for c in dumped.entries if c.op == "gloo:all_reduce"}
    assert sorted(called) == [seq for seq, size in sorted(sizes.items()) if size == ((8,),)]
    assert len(called) == 12 < len(sizes)
    assert all(o.left_ns and o.numel == 8 for o in called.values())
    assert len({o.site for o in called.values()}) == 1


COUNTED = """
import os, torch, torch.distributed as dist
from distwatch.agent import core
dist.init_process_group("gloo")
t = torch.ones(8)
def reduce(times):
    for _ in range(times):
        dist.all_reduce(t)
reduce(90)
core.current().beat()
reduce(20)
torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
reduce(5)
core.current().beat()
reduce(5)
core.current().dump("test")
os._exit(0)
"""


def test_a_counted_number_is_the_recorders_or_none(home: Path) -> None:
    """C++ calls a group that Python alone has called for long: nothing wrong stays."""
    if find_spec("distwatch.agent._calls") is None:
        pytest.skip("the compiled module was not built here")
    assert run(home, COUNTED, **ALONE).returncode == 0
    content = ring_of(home).with_suffix(".pulse").read_bytes()
    slots = [SLOT.unpack_from(content, PAGE_SIZE + n * SLOT_SIZE) for n in range(SLOTS)]
    assert sum(slot[TAG] for slot in slots) >= 19, "all but the first call from a new line"
    (dumped,) = [e for e in read_events(ring_of(home)) if isinstance(e, ev.CollectivesDumped)]
    truth = [c.seq for c in dumped.entries if c.input_sizes == ((8,),)]
    seqs = [o.seq for o in decode_operations(content)]
    assert len(seqs) == 120
    assert all(seq in {real, -1} for seq, real in zip(seqs[-len(truth) :], truth, strict=True))
    assert seqs[:90] == list(range(1, 91))
    assert seqs[-5:] == truth[-5:] != list(range(116, 121))


P2P = """
import torch, torch.distributed as dist, torch.multiprocessing as mp, os
from distwatch.agent import core
def main(rank):
    dist.init_process_group("gloo", init_method="tcp://127.0.0.1:PORT", rank=rank, world_size=3)
    t = torch.ones(4)
    dist.all_reduce(t)
    if rank == 0:
        dist.send(t, 1); dist.send(t, 1)
    elif rank == 1:
        dist.recv(t, 0); dist.recv(t, 0)
    dist.monitored_barrier()
    dist.all_reduce(t)
    torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
    core.current().beat()
    dist.barrier()
    os._exit(0)
if __name__ == "__main__":
    mp.start_processes(main, nprocs=3, start_method="fork")
"""


def test_p2p_does_not_shift_the_numbers_of_collectives(home: Path) -> None:
    port = free_port()
    script = home.with_suffix(".py")
    script.write_text("import distwatch.auto\n" + P2P.replace("PORT", str(port)))
    try:
        done = run(home, f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')")
        assert done.returncode == 0, done.stderr
    finally:
        script.unlink()
    numbers = set()
    for pulse_file in (home / "job").glob("*.pulse"):
        pulse = decode_page(pulse_file.read_bytes()[:PAGE_SIZE])
        assert pulse is not None
        numbers |= {g.enqueued for g in pulse.groups}
    ranks = [
        event.global_rank
        for ring in (home / "job").glob("*.ring")
        for event in read_events(ring)
        if isinstance(event, ev.IdentityConfirmed)
    ]
    assert sorted(ranks) == [0, 1, 2], "forked ranks must each have a journal of their own"
    assert len(numbers) == 1, f"ranks disagree about how many collectives there were: {numbers}"


def test_undo_leaves_torch_as_it_was(home: Path) -> None:
    source = """
import torch.distributed.distributed_c10d as c10d
from distwatch.integrations import registry
hooked = c10d.init_process_group
assert hasattr(hooked, "__wrapped__") and c10d.ProcessGroup.allreduce.__name__ == "allreduce"
registry.arm(__import__("distwatch.settings").settings.read_settings())
assert c10d.init_process_group is hooked, "arming twice hooked twice"
registry.undo_all()
assert c10d.init_process_group is hooked.__wrapped__
assert not hasattr(c10d.ProcessGroup.allreduce, "__wrapped__")
import torch, torch.distributed as dist
dist.init_process_group("gloo"); t = torch.ones(2); dist.all_reduce(t); print(t.tolist())
"""
    done = run(home, source, **ALONE)
    assert (done.returncode, done.stdout) == (0, "[1.0, 1.0]\n"), done.stderr


def test_a_late_arming_takes_over_what_holds(home: Path) -> None:
    source = """
import torch, torch.distributed as dist
dist.init_process_group("gloo")
dist.new_group([0])
import os; os.environ["DISTWATCH"] = "1"
import distwatch.auto; distwatch.auto.activate()
t = torch.ones(2); dist.all_reduce(t)
from distwatch.agent import core
from tests.support.ranks import free_port
core.current().beat()
"""
    environ = {**os.environ, **ALONE, "DISTWATCH_DIR": str(home), "DISTWATCH_RUN_ID": "job",
               "DISTWATCH_OBSERVER": "off", "DISTWATCH": ""}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", source],
        env=environ,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    events = read_events(ring_of(home))
    assert {e.pg_name for e in events if isinstance(e, ev.GroupCreated)} == {"0", "1"}
    assert any(
        "before distwatch was on" in e.reason
        for e in events
        if isinstance(e, ev.IntegrationChanged)
    )


def test_an_exception_before_torch_is_ever_loaded_is_journaled(home: Path) -> None:
    done = run(home, "import no_such_module", **ALONE)
    assert done.returncode == 1
    assert done.stderr.count("ModuleNotFoundError: No module named 'no_such_module'") == 1
    (error,) = [e for e in read_events(ring_of(home)) if isinstance(e, ev.ExceptionUncaught)]
    assert error.type_name == "ModuleNotFoundError"
    assert error.site is not None


def test_a_switched_off_integration_is_skipped_and_says_so(home: Path) -> None:
    done = run(home, JOB.replace("core.current().beat()", "").replace('core.current().dump("test")', ""),
               **ALONE, DISTWATCH_INTEGRATIONS="-torch_distributed")  # fmt: skip
    assert done.returncode == 0, done.stderr
    events = read_events(ring_of(home))
    skipped = [e for e in events if isinstance(e, ev.IntegrationChanged) and e.status == "skipped"]
    assert [e.name for e in skipped] == ["torch_distributed"]
    assert not any(isinstance(e, ev.StepStarted) for e in events)


def test_without_the_recorder_calls_are_still_counted(home: Path) -> None:
    run(home, JOB.replace("dist.destroy_process_group()", "import os; os._exit(0)"), **ALONE,
        TORCH_FR_BUFFER_SIZE="0")  # fmt: skip
    pulse = decode_page(ring_of(home).with_suffix(".pulse").read_bytes()[:PAGE_SIZE])
    assert pulse is not None
    assert {g.pg_name: g.enqueued for g in pulse.groups} == {"0": 2, "1": 1}


def test_off_means_off(home: Path) -> None:
    done = run(home, "import sys; print('msgspec' in sys.modules)", **ALONE, DISTWATCH="0")
    assert done.stdout == "False\n"
    assert not home.exists()


def test_the_import_is_light(home: Path) -> None:
    heavy = "torch textual psutil msgspec rich asyncio jinja2 click pynvml".split()
    done = run(home, f"import sys; print([m for m in {heavy} if m in sys.modules])", **ALONE)
    assert done.stdout == "[]\n"


def test_call_sites_can_be_left_to_the_recorder(home: Path) -> None:
    run(home, JOB, **ALONE, DISTWATCH_INTEGRATIONS="-torch_calls")
    ring = ring_of(home)
    content = ring.with_suffix(".pulse").read_bytes()
    assert decode_operations(content) == ()
    (dumped,) = [e for e in read_events(ring) if isinstance(e, ev.CollectivesDumped)]
    assert [(c.pg_name, c.seq) for c in dumped.entries] == [("0", 1), ("0", 2), ("1", 1)]
    assert {g.pg_name for g in read_events(ring) if isinstance(g, ev.GroupCreated)} == {"0", "1"}
