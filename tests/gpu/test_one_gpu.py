"""What one GPU can prove: a real NCCL group of one rank, its recorder, RAS, NVML, and faults of its device."""

from __future__ import annotations

import json
import os

import pytest

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.dumps.ras import RasAnswered, read_ras_json, read_ras_text
from distwatch.dumps.recorder import read_recorder_dump
from distwatch.probes.devices import Devices
from distwatch.probes.ras import ask_status, find_listeners
from distwatch.state.model import RunState
from tests.support.ranks import Job, launch_ranks
from tests.support.verdicts import assert_healthy

torch = pytest.importorskip("torch")
if not torch.backends.cuda.is_built():
    pytest.skip("this torch is built without CUDA: make test-gpu", allow_module_level=True)
if not torch.cuda.is_available():
    pytest.skip("there is no NVIDIA GPU on this machine", allow_module_level=True)

pytestmark = pytest.mark.timeout(240)
JOB = "../../gpu/job"
READY_S = 120.0
FIRST_PID_NAMESPACE = "pid:[4026531836]"
"""The host's own, a constant of the kernel: in a container NVML has other pids than it."""


def told(job: Job) -> str:
    """What a failed assertion shows: the findings, and the rank's own output."""
    found = "\n".join(
        f"{f.role} {f.code} {f.culprit_ranks}: {f.summary}" for f in diagnose(job.state())
    )
    return f"{found}\n{job.output()}"


@pytest.mark.parametrize("timed", ["0", "1"])
def test_the_recorder_of_a_real_nccl_group_is_read(timed: str) -> None:
    env = {"TORCH_NCCL_ENABLE_TIMING": timed, "TORCH_FR_BUFFER_SIZE": "2000"}
    with launch_ranks(JOB, 1, env=env, args=["communicates"]) as job:
        job.wait_step("gate held", {0}, READY_S)
        dump = read_recorder_dump((job.work / "nccl_trace_rank_0").read_bytes())
        calls = [entry for entry in dump.entries if "all_reduce" in entry.profiling_name]
        assert len(calls) == 3, told(job)
        assert [entry.seq for entry in calls] == [1, 2, 3]
        assert all(entry.profiling_name.startswith("nccl:") for entry in calls)
        assert dump.is_timed == (timed == "1")
        assert dump.pg_status
        assert any(one.members == (0,) for one in dump.pg_config.values())
        state = job.wait_state(lambda state: _completed(state) >= 3)
        assert_healthy(diagnose(state))
        job.open_gate("held", 0)


def _completed(state: RunState) -> int:
    pulses = (process.outside.pulse for process in state.processes.values())
    return max((told.completed for pulse in pulses if pulse for told in pulse.groups), default=-1)


def test_ras_of_a_real_job_answers_and_is_read() -> None:
    if torch.cuda.nccl.version() < (2, 24):
        pytest.skip(f"NCCL {torch.cuda.nccl.version()} has no RAS: it came with 2.24")
    with launch_ranks(JOB, 1, args=["communicates"]) as job:
        job.wait_step("gate held", {0}, READY_S)
        (listener, *_) = find_listeners([job.pid_of(0)])
        said = ask_status(listener).decode(errors="replace")
        is_json = said.lstrip().startswith("{")
        facts = read_ras_json(json.loads(said), 2026) if is_json else read_ras_text(said, 2026)
        assert any(isinstance(fact, RasAnswered) for fact in facts), told(job)
        job.open_gate("held", 0)


def test_nvml_sees_the_rank_on_its_device() -> None:
    with launch_ranks(JOB, 1, args=["communicates"]) as job:
        job.wait_step("gate held", {0}, READY_S)
        sampled = Devices().sample("here")
        assert sampled.not_observed is None, sampled.not_observed
        assert all(device.memory_total for device in sampled.devices)
        if os.readlink("/proc/self/ns/pid") == FIRST_PID_NAMESPACE:
            users = {use.pid for device in sampled.devices for use in device.processes}
            assert job.pid_of(0) in users, told(job)
        job.open_gate("held", 0)


def test_a_cpu_that_waits_for_a_kernel_without_end_is_found() -> None:
    # A rank is asked why it does not go on where another one waits for it.
    with launch_ranks(JOB, 2, args=["never_ends"]) as job:
        job.wait_step("launched", {0}, READY_S)
        found = job.wait_verdict("device.stalled", {0})
        assert found.severity == "hang"


@pytest.mark.parametrize(("way", "words"), [("index", "CUDA error"), ("memory", "out of memory")])
def test_a_device_error_is_the_ranks_own_and_comes_first(way: str, words: str) -> None:
    with launch_ranks(JOB, 1, args=[way]) as job:
        assert job.wait_ended(READY_S) != [0]
        job.wait_observer_ended()
        first = next(finding for finding in diagnose(job.state()) if finding.blocks)
        assert first.culprit_ranks == (0,), told(job)
        assert words in first.summary + " ".join(e.text for e in first.evidence), told(job)


def test_a_load_with_offload_lies_where_its_device_map_says() -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    with launch_ranks(JOB, 1, args=["offload"]) as job:
        job.wait_step("gate held", {0}, READY_S)
        state = job.wait_state(lambda state: bool(_placed(state)))
        assert all(on_gpu > 0 and in_ram > 0 for on_gpu, in_ram in _placed(state)), told(job)
        job.open_gate("held", 0)


def _placed(state: RunState) -> list[tuple[int, int]]:
    """For each load, the bytes on the GPU and those that accelerate fetches from the host's memory, call by call."""
    loads = [load for process in state.processes.values() for load in process.loads.values()]
    placed = [load.placement for load in loads if load.placement]
    on_gpu = [
        sum(one.bytes_on(d.device) for d in one.devices if "cuda" in d.device) for one in placed
    ]
    return [(held, one.bytes_on("ram")) for held, one in zip(on_gpu, placed, strict=True)]
