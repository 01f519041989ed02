"""`distwatch.initialize` in one process; worlds of several ranks are in tests/scenarios."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from distwatch.state import events as ev
from tests.agent.rings import read_events
from tests.integrations.test_torch import ALONE, home, ring_of, run

__all__ = ["home"]

START = """
import distwatch, torch, torch.distributed as dist
def failing(call):
    try:
        call()
    except Exception as error:
        print(type(error).__name__, '|', error)
    else:
        print('nothing was raised')
"""


def events_of(home: Path, kind: type) -> list:
    return [event for event in read_events(ring_of(home)) if isinstance(event, kind)]


def test_a_process_that_nobody_launched_gets_a_world_of_its_own_step_by_step(home: Path) -> None:
    done = run(
        home,
        START
        + "w = distwatch.initialize(); print(w.rank, w.size, w.groups, dist.get_backend()); w.close(); "
        "print(dist.is_initialized(), w.closed)",
    )
    assert done.stdout == "0 1 {'world': (0,)} gloo\nFalse True\n", done.stderr
    steps = events_of(home, ev.StepStarted)
    parents = {step.step: step.name for step in steps}
    assert [s.name for s in steps if parents.get(s.parent or 0) == "initialize"] == [
        "environment", "arrival", "agreement", "process group", "round trip",
    ]  # fmt: skip
    assert all(step.deadline_s is not None and 0 < step.deadline_s <= 120 for step in steps)
    ended = {event.step: event.error for event in events_of(home, ev.StepEnded)}
    assert set(ended) == set(parents), "every step has ended"
    assert not any(ended.values())
    (plan,) = events_of(home, ev.InitPlanned)
    assert (plan.by, plan.global_rank, plan.world_size, plan.number) == ("distwatch", 0, 1, 1)
    assert plan.site is not None
    assert plan.versions["torch"].startswith("2.")


def test_the_same_plan_again_is_a_no_op_and_another_is_refused_with_both(home: Path) -> None:
    done = run(
        home,
        START + "w = distwatch.initialize('gloo')\n"
        "assert distwatch.initialize() is w\n"
        "failing(lambda: distwatch.initialize(timeout=5))\n"
        "try: distwatch.initialize(framework='mesh', timeout=5)\n"
        "except distwatch.AlreadyInitialized as error:\n"
        "    print(error.finding.code, '|', error.held, '|', error.asked, '|', error.first_call[-1])\n",
    )
    first, second = done.stdout.splitlines()
    assert first.startswith(
        "AlreadyInitialized | this process already has a world with another plan: rank 0 of 1, gloo;"
    )
    assert "timeout 5 s" in first
    assert "world.close()" in first
    assert second == (
        "group.already_initialized | rank 0 of 1, gloo | "
        "rank 0 of 1, gloo, mesh dp=1, timeout 5 s | <string>:11 in <module>"
    )


def test_an_argument_by_a_frameworks_name_is_answered_with_ours(home: Path) -> None:
    done = run(
        home,
        START + "failing(lambda: distwatch.initialize(framework='mesh', tp=2))\n"
        "failing(lambda: distwatch.initialize(tensro=2))\n",
    )
    first, second = done.stdout.splitlines()
    assert first == "PlanInvalid | initialize has no argument 'tp'. Pass tensor=2."
    assert second.endswith("Did you mean 'tensor'?")


def test_a_rayactor_without_a_rank_is_told_so_before_any_size(home: Path) -> None:
    done = run(
        home,
        START + "failing(lambda: distwatch.initialize(framework='mesh', tensor=2))\n",
        RAY_RAYLET_PID="1",
    )
    assert done.stdout.startswith("InitFailed | this process cannot join a world: RANK"), (
        done.stderr
    )


def test_a_ray_driver_is_told_that_it_is_one(home: Path) -> None:
    """Ray's own worker object in the driver's mode; no cluster."""
    done = run(
        home,
        START + "import ray._private.worker as ray\nray.global_worker.set_mode(ray.SCRIPT_MODE)\n"
        "failing(lambda: distwatch.initialize(framework='mesh', tensor=2))\n"
        "distwatch.initialize().close()\n",
    )
    assert "this process is the driver of a Ray job, which is no rank" in done.stdout, done.stderr
    assert "in the job's actors" in done.stdout
    assert "the driver of a Ray job: its world has one rank" in done.stderr


def test_closed_and_formed_again_with_another_plan(home: Path) -> None:
    done = run(
        home,
        START + "with distwatch.initialize('gloo') as w: pass\n"
        "with distwatch.initialize('gloo', 'mesh', timeout=7) as w:\n"
        "    print(w, w.mesh.mesh_dim_names, dist.group.WORLD._get_backend(torch.device('cpu')).options._timeout)\n"
        "w.close()\n",
    )
    assert done.stdout == "<World rank 0 of 1, gloo, dp [0]> ('dp',) 0:00:07\n", done.stderr
    assert [plan.number for plan in events_of(home, ev.InitPlanned)] == [1, 2]


def test_later_collectives_have_torchs_own_timeout_unless_one_is_given(home: Path) -> None:
    done = run(
        home,
        START + "distwatch.initialize('gloo', deadlines={'init': 20})\n"
        "print(dist.group.WORLD._get_backend(torch.device('cpu')).options._timeout)",
    )
    assert done.stdout == "0:30:00\n", done.stderr


def test_what_torch_formed_itself_is_adopted_where_it_is_what_was_asked_for(home: Path) -> None:
    done = run(
        home,
        START + "dist.init_process_group('gloo')\n"
        "w = distwatch.initialize(); print(w.rank, w.size)\n"
        "failing(lambda: distwatch.initialize(rank=1, world_size=2))\n",
        **ALONE,
    )
    first, second = done.stdout.splitlines()
    assert first == "0 1", done.stderr
    assert "formed by init_process_group itself" in second
    assert "<string>:11 in <module>" in second, "the place of the first call"


REFUSED = [
    ("framework='megatron', tensor=2", "PlanInvalid | a world of 1 cannot be divided by tensor 2"),
    ("framework='megatron', axes={'tp': 1}", "PlanInvalid | megatron has axes of its own"),
    ("framework='mesh', options={'order': 'tp'}", "PlanInvalid | options={'order': 'tp'} without a framework"),
    ("framework='mash'", "PlanInvalid | there is no framework 'mash'"),
    ("tensor=2", "PlanInvalid | tensor=2 without a framework that builds such groups"),
    ("framework='mesh', tensor=2", "PlanInvalid | a world of 1 cannot be divided by tensor 2"),
    ("framework='mesh', tensor=0", "PlanInvalid | tensor=0 is not a size"),
    ("framework='mesh', data=3", "PlanInvalid | data 3 ranks, but the world has 1"),
    ("framework='mesh', axes={'a': 2}", "PlanInvalid | a mesh of a 2 has 2 ranks, and the world has 1"),
    ("framework='mesh', expert=2", "PlanInvalid | a plain mesh has no expert axis"),
    ("timeout=0", "PlanInvalid | timeout=0"),
    ("deadlines={'endpont': 3}", "PlanInvalid | deadlines: there is no step 'endpont'"),
    ("backend='xla'", "InitFailed | this process cannot use backend 'xla': torch_xla is not installed"),
    ("backend='nccl'", "InitFailed | this process cannot use backend 'nccl'"),
    ("backend='glooo'", "InitFailed | this process cannot use backend 'glooo': torch knows no backend"),
]  # fmt: skip


@pytest.fixture(scope="module")
def refusals() -> list[str]:
    """What is said to each of those calls, and then whether a world holds; one process makes all."""
    home = Path(f"/dev/shm/distwatch-test-{os.getpid()}-refusals")
    calls = "".join(
        f"failing(lambda: distwatch.initialize({call})); print(dist.is_initialized())\n"
        for call, _ in REFUSED
    )
    done = run(home, START + calls)
    shutil.rmtree(home, ignore_errors=True)
    told = done.stdout.splitlines()
    assert len(told) == 2 * len(REFUSED), done.stderr
    return told


@pytest.mark.parametrize(("call", "words"), REFUSED)
def test_what_cannot_work_is_refused_before_anything_begins(
    refusals: list[str], call: str, words: str
) -> None:
    place = 2 * REFUSED.index((call, words))
    first, second = refusals[place : place + 2]
    named = (
        first
        if "xla" not in call or "process" in first
        else first.replace("rank 0", "this process")
    )
    assert named.replace("rank 0 cannot", "this process cannot").startswith(words), first
    assert ". " in first, "an error says what to do"
    assert second == "False"


def test_variables_that_are_missing_are_named(home: Path) -> None:
    source = START + "failing(lambda: distwatch.initialize())"
    done = run(home, source, WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
    assert "RANK, MASTER_PORT not set" in done.stdout, done.stderr
    (raised,) = events_of(home, ev.FindingRaised)
    assert (raised.finding.code, raised.step) == ("rendezvous.env_missing", "environment")


def test_without_distwatch_the_world_forms_all_the_same(home: Path) -> None:
    done = run(home, START + "print(distwatch.initialize('gloo'))", DISTWATCH="0")
    assert done.stdout == "<World rank 0 of 1, gloo>\n", done.stderr
    assert not home.exists()


def test_a_mesh_is_told_with_its_axes_and_its_place(home: Path) -> None:
    done = run(
        home,
        START + "from torch.distributed.device_mesh import init_device_mesh\n"
        "dist.init_process_group('gloo')\n"
        "init_device_mesh('cpu', (1, 1), mesh_dim_names=('dp', 'tp'))\n"
        "failing(lambda: init_device_mesh('cpu', (3,)))\n",
        **ALONE,
    )
    assert "RuntimeError" in done.stdout, done.stderr
    (mesh,) = events_of(home, ev.MeshMade)
    assert (mesh.axes, mesh.sizes, mesh.members, mesh.device) == (("dp", "tp"), (1, 1), (0,), "cpu")
    assert mesh.site is not None
    steps = [s for s in events_of(home, ev.StepStarted) if s.name == "init_device_mesh"]
    assert [step.label for step in steps] == ["dp 1 × tp 1", "3"]


def test_a_call_on_a_group_without_this_rank_is_noted_once_for_each_place(home: Path) -> None:
    done = run(
        home,
        START + "dist.init_process_group('gloo')\n"
        "from torch.distributed.distributed_c10d import GroupMember\n"
        "for _ in range(3): dist.barrier(group=GroupMember.NON_GROUP_MEMBER)\n",
        **ALONE,
    )
    assert done.returncode == 0, done.stderr
    assert [called.op for called in events_of(home, ev.NonMemberCalled)] == ["barrier"]
