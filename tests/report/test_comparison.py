"""What a run did otherwise than a healthy one."""

from __future__ import annotations

from distwatch.report.comparison import Comparison, calls_of, compare
from distwatch.state import events as ev
from tests.diagnosis.recorded import SECOND, RecordedJob


def run_of(
    name: str, calls: dict[int, list[str]], *, torch: str = "2.8.0", usual_s: float = 1.0
) -> RecordedJob:
    """Two ranks with these calls, one of which has NCCL_DEBUG set."""
    job = RecordedJob(2)
    job.state.run_id = name
    for rank in calls:
        job.start(rank)
        job.plan(rank, versions={"torch": torch}, variables={"NCCL_DEBUG": name, "RANK": str(rank)})
    job.initialize(*calls)
    for rank, ops in calls.items():
        made = [job.operation(rank, op, n, at=5 + n, left=6 + n) for n, op in enumerate(ops, 1)]
        pulse = ev.Pulse(
            beat=1,
            groups=(ev.GroupProgress(pg_name="0", enqueued=len(ops), changed_ns=9 * SECOND),),
            training=ev.TrainingStep(step=len(ops), usual_s=usual_s),
        )
        # Not all of them are still in one pulse: older ones are in earlier records.
        for part in (made[:2], made[2:]):
            read = ev.PulseRead(process=job.key(rank), pulse=pulse, operations=tuple(part))
            job.see(20.0, read)
    job.tick(21)
    return job


def compared(run: RecordedJob, healthy: RecordedJob) -> Comparison:
    calls = (
        calls_of(
            (
                (getattr(event, "process", None) or stream, event)
                for stream, records in job.records.items()
                for _, _, event in records
            ),
            job.state,
        )
        for job in (run, healthy)
    )
    return compare(run.state, healthy.state, tuple(calls))  # type: ignore[arg-type]


def test_versions_environment_steps_and_the_first_other_call_are_told() -> None:
    hung = run_of(
        "hung", {0: ["allreduce"] * 3, 1: ["allreduce", "broadcast"]}, torch="2.9.0", usual_s=4.0
    )
    healthy = run_of("healthy", {0: ["allreduce"] * 3, 1: ["allreduce"] * 3})
    told = {(d.kind, d.what): (d.here, d.healthy) for d in compared(hung, healthy).differences}
    assert told == {
        ("version", "torch"): ("2.9.0", "2.8.0"),
        ("environment", "NCCL_DEBUG"): ("hung", "healthy"),
        ("step", "rank 0: usual length"): ("4.0 s", "1.0 s"),
        ("step", "rank 1: last step"): ("2", "3"),
        ("step", "rank 1: usual length"): ("4.0 s", "1.0 s"),
        ("calls", "rank 1, default_pg: first other call is #2"): ("broadcast", "all_reduce"),
    }


def test_a_run_is_no_different_from_itself() -> None:
    calls = {0: ["allreduce"] * 3, 1: ["allreduce"] * 3}
    same = compared(run_of("a", calls), run_of("a", calls))
    assert not same.differences
    assert not same.not_compared


def test_of_a_run_that_is_known_only_from_outside_nothing_is_called_not_set() -> None:
    inside = run_of("inside", {0: ["allreduce"] * 3, 1: ["allreduce"] * 3})
    outside = RecordedJob(2)
    outside.state.run_id = "outside"
    for rank in (0, 1):
        outside.sight(rank, 1.0)
    for pair in ((inside, outside), (outside, inside)):
        found = compared(*pair)
        assert not [one for one in found.differences if one.kind in ("version", "layout")]
        assert found.not_compared == tuple(
            f"outside: no {what} are on disk" for what in ("versions", "groups", "calls")
        )


def test_without_calls_on_disk_that_is_said() -> None:
    none: dict[int, list[str]] = {0: [], 1: []}
    assert compared(run_of("a", none), run_of("a", none)).not_compared == (
        "a: no calls are on disk",
        "a: no calls are on disk",
    )
