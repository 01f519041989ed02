"""`import distwatch.auto` in processes of every kind, and what a failure of ours may not do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from distwatch.agent.entry import is_ray_service, role_of
from distwatch.state import events as ev
from tests.agent.rings import read_events
from tests.integrations.test_torch import ALONE, environment, home, ring_of, run

__all__ = ["home"]

RANK, SLURM = {"RANK": "0"}, {"SLURM_PROCID": "0"}


@pytest.mark.parametrize(
    ("command", "environ", "role"),
    [
        ("python /x/bin/torchrun train.py", {}, "launcher"),
        ("python -u /x/bin/torchrun train.py", SLURM, "launcher"),
        ("python -u -X dev -m torch.distributed.run train.py", SLURM, "launcher"),
        ("python -um torch.distributed.run train.py", SLURM, "launcher"),
        ("python -mtorch.distributed.launch train.py", {}, "launcher"),
        ("python -u -m deepspeed.launcher.launch train.py", SLURM, "launcher"),
        ("python /x/bin/accelerate launch train.py", {}, "launcher"),
        ("python /x/bin/accelerate-launch train.py", {}, "launcher"),
        ("python -u train.py", RANK, "rank"),
        ("python -m train torchrun", RANK, "rank"),
        ("python train.py -m torch.distributed.run", RANK, "rank"),
        ("python -c code /x/bin/torchrun", RANK, "rank"),
        ("python -W ignore train.py", SLURM, "rank"),
        ("python train.py", {}, "other"),
        ("python", {}, "other"),
    ],
)
def test_a_process_knows_its_role(command: str, environ: dict[str, str], role: str) -> None:
    assert role_of(command.split(), environ) == role


@pytest.mark.parametrize(
    ("script", "service"),
    [
        ("/x/site-packages/ray/dashboard/agent.py", True),
        ("/x/site-packages/ray/_private/runtime_env/agent/main.py", True),
        ("/x/site-packages/ray/_private/log_monitor.py", True),
        ("/src/ray/python/ray/autoscaler/_private/monitor.py", True),
        ("/x/bin/ray start --head --block", True),
        ("/x/site-packages/ray/_private/workers/default_worker.py", False),
        ("/home/me/ray/train.py", False),
        ("-m ray_jobs.train", False),
    ],
)
def test_programs_of_ray_itself_belong_to_no_job(script: str, service: bool) -> None:
    assert is_ray_service(["python", "-u", *script.split()]) is service


BROKEN = """
import torch, torch.distributed as dist
from distwatch.integrations import torch_collectives, torch_distributed
def broken(*_): raise ZeroDivisionError("ours")
"""


def test_a_broken_hook_leaves_the_job_alone_and_says_so_once(home: Path) -> None:
    source = (
        BROKEN
        + """
dist.init_process_group("gloo")
torch_distributed.site_outside = broken
torch_collectives.Calls._site = broken
t = torch.ones(2)
for _ in range(2):
    group = dist.new_group([0])
    dist.all_reduce(t, group=group)
try:
    dist.new_group([7])
except ValueError as error:
    print(t.tolist(), group.size(), error)
# Without it torch itself aborts now and then at exit, with or without distwatch.
dist.destroy_process_group()
"""
    )
    done = run(home, source, **ALONE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[1.0, 1.0] 1 Rank 7 is out of range")
    failed = [e for e in read_events(ring_of(home)) if isinstance(e, ev.HookFailed)]
    assert [(e.hook, e.error) for e in failed] == [
        ("torch.distributed.new_group", "ZeroDivisionError: ours"),
        ("ProcessGroup methods", "ZeroDivisionError: ours"),
    ]
    assert done.stderr.count("is switched off; the job continues") == 2


def test_an_integration_that_cannot_be_applied_leaves_torch_as_it_was(home: Path) -> None:
    source = """
from distwatch.integrations import torch_rendezvous
def broken(*_): raise ZeroDivisionError("ours")
torch_rendezvous.hook_rendezvous = broken
import torch.distributed as dist, torch
assert dist.init_process_group.__globals__["__name__"].startswith("torch.")
assert not hasattr(dist.ProcessGroup.allreduce, "__wrapped__")
dist.init_process_group("gloo"); t = torch.ones(2); dist.all_reduce(t); print(t.tolist())
"""
    done = run(home, source, **ALONE)
    assert (done.returncode, done.stdout) == (0, "[1.0, 1.0]\n"), done.stderr
    statuses = {
        e.name: (e.status, e.reason)
        for e in read_events(ring_of(home))
        if isinstance(e, ev.IntegrationChanged)
    }
    assert statuses["torch_distributed"] == ("failed", "ZeroDivisionError: ours")


def python(home: Path, source: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Without DISTWATCH=1, so that only the program's own import turns it on."""
    return subprocess.run(
        [sys.executable, "-c", source],
        env={**environment(home), "DISTWATCH": "", **variables},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def test_a_name_that_was_bound_before_arming_is_seen(home: Path) -> None:
    source = """
from torch.distributed import init_process_group, new_group as make_group
plain = init_process_group
import distwatch.auto
init_process_group("gloo")
make_group([0])
from distwatch.integrations import registry
registry.undo_all()
print(init_process_group is plain, make_group.__globals__["__name__"].partition(".")[0])
"""
    done = python(home, source, **ALONE)
    steps = [e for e in read_events(ring_of(home)) if isinstance(e, ev.StepStarted)]
    assert [s.name for s in steps if s.site] == ["init_process_group", "new_group #1"]
    # `plain` is a module's name like any other, so it was rebound, too, and given back.
    assert done.stdout == "True torch\n", done.stderr


def test_wrong_settings_are_said_once_and_the_defaults_hold(home: Path) -> None:
    source = """
import distwatch.auto
distwatch.auto.activate()
import torch.distributed as dist
dist.init_process_group("gloo")
"""
    done = python(
        home,
        source,
        **ALONE,
        DISTWATCH_DEADLINES="init=soon",
        DISTWATCH_INTEGRATIONS="-transfomers",
    )
    assert done.stderr.count("init=soon") == 1, done.stderr
    assert done.stderr.count("DISTWATCH_INTEGRATIONS names transfomers") == 1, done.stderr
    init = next(e for e in read_events(ring_of(home)) if isinstance(e, ev.StepStarted))
    assert init.deadline_s == 120


def test_a_given_timeout_shortens_the_deadline(home: Path) -> None:
    source = """
from datetime import timedelta
import torch.distributed as dist
dist.init_process_group("gloo", timeout=timedelta(seconds=10))
dist.new_group([0], timedelta(seconds=20))
dist.new_group([0], timeout=timedelta(hours=2))
"""
    run(home, source, **ALONE)
    steps = [e for e in read_events(ring_of(home)) if isinstance(e, ev.StepStarted)]
    told = [(s.name, s.deadline_s) for s in steps if s.site]
    assert told == [("init_process_group", 8), ("new_group #1", 16), ("new_group #2", 120)]


def test_a_child_of_a_rank_joins_its_run_and_is_no_rank(home: Path) -> None:
    source = """
import subprocess, sys
code = "import distwatch.auto; from distwatch.agent.entry import enter_run; import os; " \\
       "folder, stem, role = enter_run(os.environ); print(folder.run_id, role)"
with_rank = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
import os; del os.environ["RANK"]; del os.environ["MASTER_PORT"]
without = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
print(with_rank.stdout + without.stdout, end="")
"""
    done = run(home, source, **ALONE, DISTWATCH_RUN_ID="")
    assert done.stdout == "127.0.0.1-0 child\n127.0.0.1-0 other\n", done.stderr
