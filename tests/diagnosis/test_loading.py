"""Verdicts on model loads, on recorded journals."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from distwatch.diagnosis.facts.rank_status import rank_statuses
from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.state import events as ev
from distwatch.state.finding import Finding
from distwatch.state.loads import (
    DeviceBytes,
    LoadArguments,
    LoadProgress,
    ModuleDevice,
    Outstanding,
    Placement,
)
from tests.diagnosis.recorded import SECOND, RecordedJob, frame

GIB = 2**30
MODEL = "/models/llama"
BARRIER = frame("monitored_barrier", "/lib/torch/distributed/distributed_c10d.py", 5000)
URL = "HEAD http://hub:8080/org/model/resolve/main/generation_config.json"


def loading(world: int = 1, *ranks: int, phase: str = "shards", at: float = 5.0) -> RecordedJob:
    """A job in which those ranks (all by default) are in that phase of a load since `at`."""
    job = RecordedJob(world)
    job.initialize(*range(world))
    for rank in ranks or range(world):
        job.begin(rank, 5, "from_pretrained", at, label=MODEL)
        job.begin(rank, 6, phase, at, parent=5, total=7)
    return job


def wait(
    job: RecordedJob, rank: int, at: float, since: float, what: str, waiting: str = "request",
    **more: Any,
) -> None:  # fmt: skip
    outstanding = Outstanding(
        waiting=waiting, what=what, since_ns=int(since * SECOND), **more  # type: ignore[arg-type]
    )  # fmt: skip
    job.pulse(rank, at=at, loads=(LoadProgress(step=5, outstanding=(outstanding,)),))


def look(job: RecordedJob, at: float, path: str, **more: Any) -> None:
    job.see(at, ev.LockLooked(host=job.host(0), path=path, **more))


def place(job: RecordedJob, rank: int, at: float, **known: Any) -> None:
    """That rank's load has ended, and its model lies so."""
    if job.state.processes[job.key(rank)].steps[6].ended_ns is None:
        job.say(rank, at, ev.StepEnded(step=6))
    placement = Placement(model_class="LlamaForCausalLM", **known)
    job.say(rank, at, ev.ModelPlaced(step=5, placement=placement))
    job.say(rank, at, ev.StepEnded(step=5))


def verdict(job: RecordedJob, now: float) -> list[Finding]:
    job.tick(now)
    return diagnose(job.state)


def only(job: RecordedJob, now: float) -> Finding:
    (finding,) = verdict(job, now)
    return finding


def on(device: str, parameters: int = GIB, module: str = "") -> dict[str, Any]:
    return {
        "modules": (ModuleDevice(module=module, device=device, bytes=parameters),),
        "devices": (DeviceBytes(device=device, parameters=parameters, tensors=1),),
    }


def test_one_slow_request_is_a_warning_long_before_the_deadline() -> None:
    job = loading(phase="generation config")
    wait(job, 0, 17, 5.5, URL)
    finding = only(job, 17)
    assert (finding.code, finding.severity) == ("load.generation_config_stalled", "warning")
    assert "generation_config.json" in finding.summary
    assert "hub:8080" in finding.summary


@pytest.mark.parametrize("waited", [2.0, 9.0])
def test_a_request_that_is_answered_in_time_is_nothing(waited: float) -> None:
    job = loading(phase="files")
    wait(job, 0, 10, 10 - waited, URL)
    assert not verdict(job, 10)


def test_the_body_of_a_large_file_takes_its_time() -> None:
    job = loading(phase="files")
    wait(job, 0, 30, 5.5, "http://hub/model.safetensors", "download")
    assert not verdict(job, 30)


def test_all_ranks_that_one_hub_keeps_waiting_are_one_finding() -> None:
    job = loading(4, phase="files")
    for rank in range(4):
        wait(job, rank, 60, 5.5, "GET http://hub/x", attempts=3, last_error="ConnectError: refused")
    finding = only(job, 60)
    assert (finding.code, finding.severity) == ("load.hub_unreachable", "hang")
    assert finding.culprit_ranks == (0, 1, 2, 3)
    assert "attempt 3" in finding.summary
    assert "refused" in finding.summary


def test_who_waits_for_the_lock_of_a_rank_waits_for_that_rank() -> None:
    job = loading(3, phase="files")
    wait(job, 0, 60, 5.5, "http://hub/model.safetensors", "download")
    for rank in (1, 2):
        wait(job, rank, 60, 6.0, "/cache/x.lock", "lock")
    look(job, 50, "/cache/x.lock", holders=(ev.LockHolder(pid=1000),))
    finding = only(job, 60)
    assert (finding.code, finding.culprit_ranks) == ("load.hub_unreachable", (0,))
    assert finding.waiting_ranks == (1, 2)


@pytest.mark.parametrize(
    ("looked", "code", "words"),
    [
        ({"holders": (ev.LockHolder(pid=7, command=("python", "o.py")),)}, "load.stalled", "pid 7 (python o.py)"),
        ({"holders": (ev.LockHolder(pid=7, alive=False),)}, "load.lock_stale", "is gone"),
        ({"age_s": 7200.0}, "load.lock_stale", "no process on this host holds, last written 2.0 h ago"),
        ({"says_host": "node9"}, "load.lock_stale", "it was made on node9"),
        ({"not_observed": "Permission denied"}, "load.stalled", "not observed: Permission denied"),
    ],
)  # fmt: skip
def test_whose_lock_it_is(looked: dict[str, Any], code: str, words: str) -> None:
    job = loading(phase="config")
    wait(job, 0, 60, 5.5, "/cache/x.lock", "lock")
    look(job, 50, "/cache/x.lock", **looked)
    finding = only(job, 60)
    assert (finding.code, finding.severity, finding.culprit_ranks) == (code, "hang", (0,))
    assert words in finding.summary


@pytest.mark.parametrize(
    ("looked", "warns"),
    [({"holders": (ev.LockHolder(pid=7, alive=False),)}, True), ({"age_s": 30.0}, False)],
)
def test_a_lock_without_a_trace_may_be_another_hosts(looked: dict[str, Any], warns: bool) -> None:
    """Ranks of two hosts share a cache: the kernel of one knows nothing of the other's locks."""
    job = loading(phase="files")
    wait(job, 0, 24, 5.5, "/nfs/x.lock", "lock")
    look(job, 23, "/nfs/x.lock", **looked)
    assert [(f.code, f.severity) for f in verdict(job, 24)] == (
        [("load.lock_stale", "warning")] if warns else []
    )


def test_a_load_that_was_killed_with_its_job_is_still_told() -> None:
    job = loading(2, 1)
    job.pulse(0, at=20, groups={"0": (1, -1, 5.0)})
    job.pulse(1, at=5, groups={"0": (0, 0, 1.0)})
    for rank in (0, 1):
        job.exit(rank, 21, signal=9)
    findings = verdict(job, 22)
    assert (findings[0].code, findings[0].culprit_ranks) == ("load.stalled", (1,))
    assert findings[0].waiting_ranks == (0,)


def test_the_pulse_of_a_frozen_process_says_nothing_of_now() -> None:
    """Its threads read another file when it last beat; the journal's last word is the file it is in."""
    job = loading(2, 1)
    job.pulse(0, at=20, groups={"0": (1, -1, 5.0)})
    wait(job, 1, 6, 5.9, "/models/llama/model-2.safetensors", "file")
    job.say(1, 6.1, ev.StepProgressed(step=6, done=4, total=7, label="model-4.safetensors"))
    for end in (False, True):
        for rank in (0, 1) if end else ():
            job.exit(rank, 40, signal=9)
        job.tick(40)
        finding = diagnose(job.state)[0]
        assert (finding.code, finding.culprit_ranks) == ("load.stalled", (1,))
        assert "model-2" not in str(finding)
        assert "model-4.safetensors), with the GIL held" in finding.summary


def test_a_frozen_process_that_waits_in_the_kernel_says_on_what() -> None:
    job = loading(2, 1)
    job.pulse(0, at=20, groups={"0": (1, -1, 5.0)})
    wait(job, 1, 6, 5.9, "/models/llama/model-4.safetensors", "file")
    job.sample(1, 39.0, "S", syscall="openat", blocked_on="/models/llama/model-4.safetensors")
    job.tick(40)
    summary = diagnose(job.state)[0].summary
    assert "with the GIL held while it waits on /models/llama/model-4.safetensors" in summary


def test_peers_say_whom_they_wait_for() -> None:
    job = loading(2, 1, at=5.0)
    job.say(1, 15.0, ev.StepProgressed(step=6, done=3, total=7, label="model-3.safetensors"))
    job.pulse(0, at=16, groups={"0": (1, -1, 5.0)})
    job.pulse(1, at=16, groups={"0": (0, 0, 1.0)})
    job.tick(16)
    waiting = rank_statuses(job.state)[0]
    assert waiting.word == "waiting"
    assert waiting.doing.endswith(f"for rank 1: shards 3 of 7 (model-3.safetensors) of {MODEL}")


def test_without_its_generation_config_a_model_is_loaded_all_the_same() -> None:
    job = loading(phase="generation config")
    job.say(0, 80, ev.StepEnded(step=6, error="OSError: We couldn't connect"))
    place(job, 0, 80, generation="lost", **on("cpu"))
    finding = only(job, 81)
    assert (finding.code, finding.severity) == ("load.generation_config_stalled", "warning")
    assert "the attempts took 75 s" in finding.summary


@pytest.mark.parametrize(("world", "severity"), [(1, "info"), (2, "warning")])
def test_offloaded_parameters_trip_training(world: int, severity: str) -> None:
    job = loading(world)
    for rank in range(world):
        place(job, rank, 10, offload_places=("/off",), **on("disk"))
    finding = only(job, 11)
    assert (finding.code, finding.severity) == ("load.offloaded", severity)
    assert finding.culprit_ranks == tuple(range(world))
    assert "1.0 GiB on disk (/off)" in finding.summary


def test_a_map_for_one_process_in_a_job_of_many() -> None:
    job = loading(2)
    for rank in (0, 1):
        arguments = LoadArguments(checkpoint=MODEL, device_map="auto", spreads=True)
        job.say(rank, 6, ev.LoadPlanned(step=5, arguments=arguments))
        devices = tuple(DeviceBytes(device=f"cuda:{n}", parameters=GIB) for n in (0, 1))
        place(job, rank, 10, devices=devices)
    finding = only(job, 11)
    assert (finding.code, finding.culprit_ranks) == ("load.device_map_conflict", (0, 1))
    assert "cuda:0, cuda:1" in finding.summary


def test_ranks_that_split_their_models_over_their_own_devices_are_no_conflict() -> None:
    job = loading(2)
    for rank in (0, 1):
        arguments = LoadArguments(checkpoint=MODEL, device_map="10 entries", spreads=True)
        job.say(rank, 6, ev.LoadPlanned(step=5, arguments=arguments))
        mine = (f"cuda:{2 * rank}", f"cuda:{2 * rank + 1}")
        place(job, rank, 10, devices=tuple(DeviceBytes(device=d, parameters=GIB) for d in mine))
    assert not verdict(job, 11)


def test_each_rank_on_its_own_device_is_no_conflict() -> None:
    job = loading(2)
    for rank in (0, 1):
        place(job, rank, 10, **on(f"cuda:{rank}"))
    assert not verdict(job, 11)


def test_the_odd_one_of_three_maps_is_named() -> None:
    job = loading(3)
    for rank, device in enumerate(("cuda:0", "cpu", "cuda:2")):
        place(job, rank, 10, **on(device))
    finding = only(job, 11)
    assert (finding.code, finding.culprit_ranks) == ("load.device_map_conflict", (1,))
    assert "rank 1: 1.0 GiB on cpu" in finding.summary


def test_two_ranks_on_one_device_by_the_drivers_table() -> None:
    job = loading(2)
    for rank in (0, 1):
        place(job, rank, 10, **on("cuda:0"))
    uses = tuple(ev.DeviceUse(pid=1000 + rank) for rank in (0, 1))
    device = ev.Device(index=0, name="H100", processes=uses)
    job.see(11, ev.DevicesSampled(host=job.host(0), devices=(device,)))
    finding = only(job, 12)
    assert (finding.code, finding.culprit_ranks) == ("load.device_map_conflict", (0, 1))


@pytest.mark.parametrize(
    ("limit", "device_map", "told"),
    [(4 * GIB, "", True), (16 * GIB, "", False), (4 * GIB, "{'': 'cuda:0'}", False)],
)
def test_ranks_times_checkpoint_against_the_limit(limit: int, device_map: str, told: bool) -> None:
    job = loading(2)
    job.see(6, ev.HostSampled(host=job.host(0), memory_total=64 * GIB, cgroup_limit=limit))
    for rank in (0, 1):
        arguments = LoadArguments(checkpoint=MODEL, device_map=device_map)
        job.say(rank, 6, ev.LoadPlanned(step=5, arguments=arguments))
        moved = ev.StepProgressed(step=6, done=1, total=7, bytes=1, bytes_total=3 * GIB)
        job.say(rank, 7, moved)
    found = verdict(job, 8)
    assert [f.code for f in found] == (["load.memory_exceeds"] if told else [])
    if told:
        assert "2 × 3.0 GiB = 6.0 GiB" in found[0].summary
        assert "4.0 GiB" in found[0].summary
    for rank in (0, 1):
        place(job, rank, 10, **on("cpu", 3 * GIB))
    assert not verdict(job, 11), "both have loaded, and the kernel has ended none of them"


def test_a_journal_of_an_older_distwatch_has_loads_without_a_plan() -> None:
    job = loading()
    job.tick(60)
    assert diagnose(job.state)[0].code == "load.stalled"
    assert msgspec.json.encode(job.state.processes[job.key(0)].loads)


@pytest.mark.parametrize(
    ("phase", "words"),
    [("tie", "share memory"), ("dispatch", "nvidia-smi"), ("finalize", "initialized")],
)
def test_a_phase_without_files_is_not_sent_to_the_file_system(phase: str, words: str) -> None:
    job = loading()
    job.say(0, 6.0, ev.StepProgressed(step=6, done=7, total=7))
    job.say(0, 7.0, ev.StepEnded(step=6))
    job.begin(0, 7, phase, 7.0, parent=5)
    at = ev.Frame(file="/job/model.py", line=9, function="tie_weights")
    job.stack(0, 1000.0, (at,), {"unchanged_since_ns": 8 * SECOND})
    finding = only(job, 1000.0)
    assert finding.code == "load.stalled"
    assert f"phase {phase}, after all 7 files were read" in finding.summary
    assert "model.py:9 in tie_weights; it reads no file in this phase" in finding.summary
    assert words in finding.advice
    assert "file system" not in finding.advice


def test_a_lock_in_such_a_phase_is_named_and_a_file_is_still_a_file() -> None:
    job = loading(phase="tie")
    wait_in_lock = ev.Frame(
        file="/usr/lib/python3.11/threading.py", line=327, function="Condition.wait"
    )
    user = ev.Frame(file="/job/model.py", line=9, function="tie_weights")
    job.stack(0, 1000.0, (user, wait_in_lock), {"unchanged_since_ns": 8 * SECOND})
    finding = only(job, 1000.0)
    assert "waiting for a lock" in finding.summary
    assert "holds that lock" in finding.advice
    job.sample(0, 1001.0, "D", blocked_on="/mnt/cache/x")
    assert "file system" in only(job, 1002.0).advice


def test_who_waits_for_a_stalled_load_in_a_barrier_without_a_number_waits_for_it() -> None:
    """As SGLang's model runner ends its load: the barrier is in no recorder, and in no pulse's numbers."""
    job = loading(2)
    barrier = job.operation(0, "monitored_barrier", -1, at=8.0, number=1)
    job.pulse(0, at=170, operations=(barrier,))
    job.stack(0, 170, (frame("load", "/job/runner.py", 7), BARRIER))
    job.pulse(1, at=170)
    stalled, missing = verdict(job, 171)
    assert (stalled.code, stalled.culprit_ranks) == ("load.stalled", (1,))
    assert (missing.code, missing.role) == ("collective.rank_missing", "symptom")
    assert stalled.waiting_ranks == (0,)
    assert "rank 0 waits for it" in stalled.summary
