"""Devices and network ports that fail: who is named, and when nothing is said."""

from __future__ import annotations

import msgspec
import pytest

from distwatch.state import events as ev
from tests.diagnosis.recorded import (
    HOST,
    PEER_LOST,
    READING,
    RecordedJob,
    frame,
    hung_job,
    judged,
    only_root,
    root,
)


def running_job() -> RecordedJob:
    job = RecordedJob(4)
    job.initialize(0, 1, 2, 3)
    for rank in range(4):
        job.pulse(rank, at=30.0, groups={"0": (9, 9, 29.9)})
    return job


def driver_says(job: RecordedJob, *xids: int, pid: int = 1002, at: float = 30.0) -> None:
    device = ev.Device(index=2, name="GPU 0000:b3:00", xid=xids, processes=(ev.DeviceUse(pid=pid),))
    job.see(at, ev.DevicesSampled(host=HOST, devices=(device,)))


def port_fails(job: RecordedJob, at: float, *, decides: bool = True) -> None:
    text = "Port module event[error]: module 0, Cable error"
    job.see(at, ev.PortErrorSeen(host=HOST, port="mlx5_2:1", text=text, decides=decides))


@pytest.mark.parametrize(
    ("xids", "code"),
    [
        ((79,), "device.lost"),
        ((45, 48), "device.memory_error"),
        ((74,), "device.xid"),
        ((31, 79), "device.lost"),
    ],
)
def test_the_worst_event_of_a_device_explains_the_rank_that_uses_it(
    xids: tuple[int, ...], code: str
) -> None:
    job = hung_job()
    driver_says(job, *xids)
    finding = only_root(job, code, 2)
    assert "GPU 0000:b3:00" in finding.summary
    assert set(finding.waiting_ranks) == {0, 1, 3}


@pytest.mark.parametrize("xids", [(45,), (63,), (92,)])
def test_consequences_and_notices_are_no_findings(xids: tuple[int, ...]) -> None:
    job = hung_job()
    driver_says(job, *xids)
    assert root(judged(job)).code == "collective.rank_missing"


def test_a_rank_whose_own_kernel_failed_is_named_by_its_exception() -> None:
    job = running_job()
    driver_says(job, 31)
    job.fail(2, 30.5, "RuntimeError", "CUDA error: an illegal memory access was encountered")
    assert root(judged(job)).code == "process.exited"


def test_a_device_of_nobody_names_no_rank() -> None:
    job = hung_job()
    driver_says(job, 79, pid=77)
    finding = root(judged(job))
    assert (finding.code, finding.culprit_ranks) == ("device.lost", ())
    assert finding.confidence < 0.9


def test_a_job_that_moves_is_only_warned_of_its_device() -> None:
    job = running_job()
    driver_says(job, 79)
    assert [f.severity for f in judged(job)] == ["warning"]


def test_a_failed_port_explains_ranks_that_lost_each_other() -> None:
    job = running_job()
    port_fails(job, 30.0)
    for rank in range(4):
        job.fail(rank, 31.0, "RuntimeError", PEER_LOST)
    finding = root(judged(job))
    assert (finding.code, finding.culprit_ranks) == ("network.link_error", ())
    assert "mlx5_2:1" in finding.summary
    assert finding.severity == "crash"


def test_a_failed_port_of_a_job_that_moves_is_no_finding() -> None:
    job = running_job()
    port_fails(job, 20.0)
    assert judged(job) == []


@pytest.mark.parametrize("decides", [True, False])
def test_failed_transfers_to_a_rank_that_ended_are_its_consequence(decides: bool) -> None:
    job = running_job()
    port_fails(job, 30.2, decides=decides)
    job.fail(1, 30.0, "ValueError", "mine")
    for rank in (0, 2, 3):
        job.fail(rank, 31.0, "RuntimeError", PEER_LOST)
    finding = root(judged(job))
    assert (finding.code, finding.culprit_ranks) == ("process.exited", (1,))


def device_is(job: RecordedJob, at: float = 30.0, pid: int = 1002, **seen: object) -> None:
    """The device of one rank; the others' devices are sound."""
    devices = tuple(
        ev.Device(index=n, name="H200", utilization=100, processes=(ev.DeviceUse(pid=1000 + n),))
        for n in range(4)
    )
    own = msgspec.structs.replace(devices[pid - 1000], **seen)
    devices = tuple(own if d.processes == own.processes else d for d in devices)
    job.see(at, ev.DevicesSampled(host=HOST, devices=devices))


@pytest.mark.parametrize(
    ("seen", "code", "says"),
    [
        ({"lost": "GPU is lost"}, "device.lost", "GPU is lost"),
        ({"ecc_new": 3}, "device.memory_error", "3 new uncorrected ECC errors"),
        ({"links_down": (4,)}, "device.xid", "NVLink 4 went down"),
    ],
)
def test_what_happens_to_a_device_without_an_xid_explains_its_rank(
    seen: dict[str, object], code: str, says: str
) -> None:
    job = hung_job()
    device_is(job, **seen)
    finding = only_root(job, code, 2)
    assert says in finding.summary
    assert "H200 2" in finding.summary


@pytest.mark.parametrize("seen", [{"rows_pending": True}, {"rows_failed": True}])
def test_what_may_have_been_there_before_the_job_is_a_warning(seen: dict[str, object]) -> None:
    job = hung_job()
    device_is(job, **seen)
    findings = judged(job)
    assert root(findings).code == "collective.rank_missing"
    assert ("device.memory_error", "warning") in [(f.code, f.severity) for f in findings]


@pytest.mark.parametrize(
    "seen",
    [{"ecc_uncorrected": 7, "ecc_new": 0}, {"throttle": ("power cap",), "throttled_s": 99.0}, {}],
)
def test_old_errors_and_full_load_are_no_findings(seen: dict[str, object]) -> None:
    job = hung_job()
    device_is(job, **seen)
    assert {finding.code for finding in judged(job)} == {"collective.rank_missing"}


def on_nccl(heat: tuple[str, ...] = (), lasted_s: float = 99.0) -> RecordedJob:
    """A job on NCCL that moves, and whose rank 2 may be hot."""
    job = RecordedJob(4)
    for rank in range(4):
        job.start(rank)
        job.say(rank, 1.0, ev.IdentityConfirmed(global_rank=rank, world_size=4))
        group = ev.GroupCreated(
            pg_name="0", pg_desc="default_pg", backend="nccl", members=(0, 1, 2, 3)
        )
        job.say(rank, 1.0, group)
        job.pulse(rank, at=30.0, groups={"0": (9, 9, 29.9)})
    device_is(job, throttle=heat, throttled_s=lasted_s, temperature_c=93)
    job.tick(30.0)
    return job


def test_a_device_that_heat_slows_down_makes_a_straggler() -> None:
    (finding,) = judged(on_nccl(("thermal (hardware)", "power cap")))
    assert (finding.code, finding.severity) == ("collective.straggler", "warning")
    assert finding.culprit_ranks == (2,)
    assert "thermal (hardware), 93 °C" in finding.summary
    assert "power cap" not in finding.summary


@pytest.mark.parametrize(("heat", "lasted_s"), [(("power cap",), 99.0), (("power brake",), 5.0)])
def test_what_belongs_to_full_load_or_has_just_begun_makes_none(
    heat: tuple[str, ...], lasted_s: float
) -> None:
    assert judged(on_nccl(heat, lasted_s)) == []


SYNCHRONIZES = (
    frame("main", "/job/train.py", 9),
    frame("synchronize", "/venv/lib/python3.11/site-packages/torch/cuda/__init__.py", 900),
)


def waits_for_its_device() -> RecordedJob:
    job = hung_job()
    job.stack(2, 30.0, SYNCHRONIZES)
    return job


def test_a_rank_whose_cpu_waits_for_its_device_is_stalled_by_that_device() -> None:
    job = waits_for_its_device()
    device_is(job)
    finding = only_root(job, "device.stalled", 2)
    assert set(finding.waiting_ranks) == {0, 1, 3}
    assert "H200 2, is 100 % busy" in str(finding.evidence)


def test_what_nvml_does_not_say_is_not_made_up() -> None:
    job = waits_for_its_device()
    assert "busy" not in str(only_root(job, "device.stalled", 2).evidence)


def test_ranks_that_wait_for_a_collective_on_their_devices_are_not_stalled() -> None:
    job = on_nccl()
    for rank in range(4):
        job.pulse(rank, at=60.0, groups={"0": (10 - (rank == 2), 9, 31.0)})
        job.stack(rank, 60.0, SYNCHRONIZES if rank != 2 else READING)
    job.tick(60.0)
    assert "device.stalled" not in {finding.code for finding in judged(job)}


def ports_are(job: RecordedJob, at: float, state: str, **grown: int) -> None:
    port = ev.Port(name="mlx5_0:1", state=state, was_up=True, grown=grown)
    job.see(at, ev.PortsSampled(host=HOST, ports=(port,)))


def full_job() -> RecordedJob:
    """All ranks have entered the same collective, and it does not complete."""
    job = RecordedJob(4)
    job.initialize(0, 1, 2, 3)
    for rank in range(4):
        job.pulse(rank, at=60.0, groups={"0": (10, 9, 31.0)})
    job.tick(60.0)
    return job


def test_a_port_that_went_down_explains_a_collective_that_all_have_entered() -> None:
    job = full_job()
    ports_are(job, 60.0, "DOWN, Polling", link_downed=1)
    finding = root(judged(job))
    assert (finding.code, finding.culprit_ranks) == ("network.link_error", ())
    assert finding.confidence == 0.9
    assert "was up, and now is DOWN, Polling; link_downed +1" in finding.summary


def test_transfers_that_failed_explain_it_with_less_confidence() -> None:
    job = full_job()
    ports_are(job, 60.0, "ACTIVE, LinkUp", local_ack_timeout_err=12)
    finding = root(judged(job))
    assert (finding.code, finding.confidence) == ("network.link_error", 0.6)


def test_links_that_had_to_recover_explain_it_with_less_confidence() -> None:
    job = full_job()
    device_is(job, at=60.0, link_errors={"recoveries": 2, "replays": 40})
    finding = root(judged(job))
    assert (finding.code, finding.confidence) == ("network.link_error", 0.6)
    assert finding.culprit_ranks == ()
    assert "H200 2" in finding.summary
    assert "NVLink recoveries +2" in finding.summary


def test_what_a_link_repeats_explains_nothing() -> None:
    sound, repeats = full_job(), full_job()
    device_is(sound, at=60.0)
    device_is(repeats, at=60.0, link_errors={"replays": 40})
    assert [f.code for f in judged(repeats)] == [f.code for f in judged(sound)]


def test_links_that_had_to_recover_excuse_no_rank_that_is_missing() -> None:
    job = hung_job()
    device_is(job, link_errors={"failed recoveries": 1})
    assert root(judged(job)).code == "collective.rank_missing"


def test_counters_that_grow_excuse_no_rank_that_is_missing() -> None:
    job = hung_job()
    ports_are(job, 30.0, "ACTIVE, LinkUp", local_ack_timeout_err=12, symbol_error=3)
    assert root(judged(job)).code == "collective.rank_missing"


def test_counters_of_a_sound_network_are_no_finding() -> None:
    job = full_job()
    ports_are(job, 60.0, "ACTIVE, LinkUp", symbol_error=3, out_of_sequence=40)
    assert root(judged(job)).code == "collective.device_behind"
