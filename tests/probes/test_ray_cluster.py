"""Ray's tables from outside: its words made plain, and a cluster that is ill ends nothing of ours."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.core.generated import common_pb2, gcs_pb2

from distwatch.probes import ray_look
from distwatch.probes.procfs import children_of
from distwatch.probes.ray_cluster import ClusterUnreadable, read_tables
from distwatch.probes.raylets import Raylet, clusters_here, has_loaded_ray, raylet_of

SUPPOSED = " Some common causes include: (1) the process was killed by the OOM killer"


def died(**context: object) -> common_pb2.ActorDeathCause:
    return common_pb2.ActorDeathCause(
        actor_died_error_context=common_pb2.ActorDiedErrorContext(**context)
    )


def worker_ended(exit_type: str, detail: str) -> common_pb2.ActorDeathCause:
    words = f"it has died. Worker exit type: {exit_type} Worker exit detail: {detail}{SUPPOSED}"
    return died(error_message=words, reason="WORKER_DIED")


def failed_otherwise(context: str, kind: str, text: str) -> common_pb2.ActorDeathCause:
    message = getattr(common_pb2, kind)(error_message=text)
    return common_pb2.ActorDeathCause(**{context: message})


RAISED = common_pb2.ActorDeathCause(
    creation_task_failure_context=common_pb2.RayException(
        formatted_exception_string='Traceback:\n  File "/job/t.py", line 12, in __init__\n'
        "\x1b[36mValueError: no\x1b[39m\n"
    )
)
UNSCHEDULABLE = ("actor_unschedulable_context", "ActorUnschedulableContext", "no such node")


@pytest.mark.parametrize(
    ("cause", "kind", "text"),
    [
        (died(error_message="`ray.kill`", reason="RAY_KILL"), "killed_by_ray", "`ray.kill`"),
        (died(error_message="gone", reason="OUT_OF_SCOPE"), "released", "gone"),
        (died(error_message="its owner", reason="OWNER_DIED"), "owner_died", "its owner"),
        (died(error_message="its node", reason="NODE_DIED"), "node_died", "its node"),
        (worker_ended("INTENDED_USER_EXIT", "exit_actor()"), "exited", "exit_actor()"),
        (worker_ended("SYSTEM_ERROR", "exit code 3."), "worker_died", "exit code 3."),
        (worker_ended("NODE_OUT_OF_MEMORY", "59 of 60 GB"), "out_of_memory", "59 of 60 GB"),
        (failed_otherwise("oom_context", "OomContext", "59 GB"), "out_of_memory", "59 GB"),
        (failed_otherwise(*UNSCHEDULABLE), "unschedulable", "no such node"),
        (RAISED, "init_failed", "ValueError: no (t.py:12 in __init__)"),
    ],
)
def test_rays_causes_of_death_are_told_apart(cause: object, kind: str, text: str) -> None:
    assert ray_look._death(cause) == (kind, text)


def test_of_an_actors_environment_only_its_rank_is_read() -> None:
    row = gcs_pb2.ActorTableData(
        actor_id=b"\x01" * 16,
        job_id=b"\x01\x00\x00\x00",
        state="PENDING_CREATION",
        placement_group_id=b"\xff" * 18,
        serialized_runtime_env='{"env_vars": {"RANK": "3", "WORLD_SIZE": "8", "TOKEN": "s3cr3t"}}',
        required_resources={"CPU": 1, "CPU_group_" + "ab" * 18: 1, "CPU_group_0_" + "ab" * 18: 1,
                            "bundle_group_" + "ab" * 18: 0.001, "node:10.0.0.1": 0.01},
    )  # fmt: skip
    row.address.node_id = b"\x02" * 28  # of its owner: it is placed nowhere
    told = ray_look._actor(row, "node1")
    assert (told["global_rank"], told["world_size"]) == (3, 8)
    assert (told["state"], told["node_id"], told["placement_group"]) == ("PENDING_CREATION", "", "")
    assert told["needs"] == {"CPU": 1.0}
    assert "s3cr3t" not in str(told)


@contextlib.contextmanager
def listener() -> Iterator[int]:
    """A port that accepts connections and says nothing."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        yield silent.getsockname()[1]


def test_a_control_store_that_is_silent_costs_its_deadline_and_leaves_nothing_behind() -> None:
    before = children_of(os.getpid())
    with listener() as port:
        ill = Raylet(pid=1, address=f"127.0.0.1:{port}", node_id="n")
        with pytest.raises(ClusterUnreadable, match="does not answer"):
            read_tables([ill], within_s=2.0)
    assert children_of(os.getpid()) == before


def test_a_python_without_ray_is_said(tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o700)
    raylet = Raylet(pid=1, address="127.0.0.1:9", node_id="n", python=str(bare))
    with pytest.raises(ClusterUnreadable, match="this Python has no Ray"):
        read_tables([raylet])


def test_a_raylet_is_known_by_its_command_line_and_a_worker_by_its_environment(
    tmp_path: Path,
) -> None:
    os.symlink(sys.executable, tmp_path / "raylet")
    wait = "import sys; sys.stdin.read(1)"
    options = ["--gcs-address=10.0.0.1:6379", "--node_id=abc", "--session-name=session_1"]
    settings = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "s3cr3t"}
    with contextlib.ExitStack() as stack:
        raylet = _waiting([str(tmp_path / "raylet"), "-c", wait, *options], settings)
        stack.callback(_end, raylet)
        worker = _waiting([sys.executable, "-c", wait], {"RAY_RAYLET_PID": str(raylet.pid)})
        stack.callback(_end, worker)
        found = raylet_of(worker.pid)
        assert found is not None
        assert (found.pid, found.address, found.node_id) == (raylet.pid, "10.0.0.1:6379", "abc")
        assert found.environ == {"RAY_AUTH_MODE": "token"}, "the token is not ours to take"
        assert found in clusters_here()["10.0.0.1:6379"]
        assert raylet_of(raylet.pid) is None
        assert not has_loaded_ray(worker.pid)


def _waiting(command: list[str], settings: dict[str, str]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env={**os.environ, **settings})
    # Its command line is there once it has been executed.
    limit = time.monotonic() + 60
    while Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")[0] != command[0].encode():
        assert time.monotonic() < limit
        os.sched_yield()
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()
