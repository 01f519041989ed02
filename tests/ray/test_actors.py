"""Real Ray actors: they enter one run, say who they are, and what hangs them is found."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from distwatch.diagnosis.facts.process_roles import role_text
from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.errors import NoSuchTarget
from distwatch.observer.targets.live import LiveRun
from distwatch.observer.targets.resolver import resolve
from distwatch.probes.discovery import job_of
from distwatch.ray import HOOK
from distwatch.runfolder import RunFolder
from distwatch.state.model import RunState
from tests.support.outcomes import outcomes_of
from tests.support.ranks import PATIENT, REPOSITORY, Job, empty_job, free_port, process_of
from tests.support.verdicts import assert_healthy

TRAINERS = Path(__file__).parent / "jobs" / "trainers.py"
OF_TORCH = "RANK WORLD_SIZE MASTER_ADDR MASTER_PORT"
STARTED_S = 120.0


@contextlib.contextmanager
def actors(*methods: str, given: str = OF_TORCH, by_run: bool = False, **env: str) -> Iterator[Job]:
    """A driver whose actors, one a rank, each run one method of `Trainer`.

    by_run: `distwatch run` turns them on, not RAY_RUNTIME_ENV_HOOK in the environment.
    """
    driver = [str(TRAINERS), *methods]
    env = {"TEST_GIVEN": given, "RAY_RUNTIME_ENV_HOOK": HOOK, **env}
    if by_run:
        del env["RAY_RUNTIME_ENV_HOOK"]
        driver = ["-m", "distwatch", "run", "--", sys.executable, *driver]
    with empty_job() as job:
        start(job, driver, env)
        yield job
        job.kill_everything(observer=True)  # Ray's own way of ending takes seconds


def start(job: Job, arguments: Sequence[str], env: dict[str, str]) -> None:
    settings = {
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_prestart_worker_first_driver": "0",
        "TEST_PORT": str(free_port()),
        **env,
    }
    job.start([sys.executable, *arguments], settings, "driver.log")


def pids(job: Job) -> dict[int, int]:
    ranks = [start for start in job.folder.starts() if start.get("role") == "rank"]
    return {int(start["RANK"]): int(start["pid"]) for start in ranks}


def test_actors_enter_the_run_of_their_ray_job_and_say_who_they_are() -> None:
    """Nothing names the run or the endpoint: Ray's job does, and rank 0's actor."""
    given = {"DISTWATCH_RUN_ID": "", "DISTWATCH_DEADLINES": PATIENT}
    methods = ("users_hook", "drivers_look", "form", "form")
    with actors(*methods, given="RANK WORLD_SIZE", **given) as job:
        job.wait_step("users hook", {0, 1}, STARTED_S)
        job.wait_step("formed", {0, 1}, STARTED_S)
        (name,) = [name for name in os.listdir(job.root) if name.startswith("ray-01000000-")]
        job.folder = RunFolder(os.path.join(job.root, name))

        def all_say_who_they_are(state: RunState) -> bool:
            ranks = [process_of(state, rank) for rank in (0, 1)]
            return all(one is not None and one.actor.endswith("in form") for one in ranks)

        state = job.wait_state(all_say_who_they_are)
        workers = {p.global_rank: p.worker for p in state.processes.values() if p.worker}
        for rank, pid in pids(job).items():
            process, worker = process_of(state, rank), workers[rank]
            assert process is not None
            assert process.pid == pid
            assert process.actor == f'Trainer "trainer-{rank}" in form'
            assert worker.job_id == "01000000"
            assert worker.actor_id.endswith("01000000")
            assert worker.node_id == workers[0].node_id
            assert process.planned is not None
            assert process.planned.endpoint == process_of(state, 0).planned.endpoint != ""
            found = resolve(str(pid), job.root).folder()
            assert found.run_id == name
            assert isinstance(resolve(str(pid), job.root).source(), LiveRun)
        assert resolve("ray-01000000", job.root).folder().run_id == name
        job.open_gate("look", 0)
        job.wait_step(f"driver of {name}", {0})
        job.wait_step(f"actor in {name}", {0, 1})
        with pytest.raises(NoSuchTarget):
            resolve("ray-02000000", job.root).folder()
        assert len({worker.actor_id for worker in workers.values()}) == 2
        assert_healthy(job.judged_blocking())
        assert not [finding.code for finding in diagnose(job.state())]


def test_an_actor_that_never_comes_is_blamed_and_not_the_one_that_waits() -> None:
    with actors("form_by_torch", "read_data") as job:
        job.wait_step("gate data", {1}, STARTED_S)
        finding = job.wait_verdict("rendezvous.rank_missing", {1}, mentions=("read_data",))
        assert 0 in finding.waiting_ranks


def test_an_actor_that_has_loaded_no_torch_and_has_no_rank_is_looked_at_though_nobody_waits_for_it() -> (
    None
):
    with actors("read_plainly", given="WORLD_SIZE") as job:
        job.wait_step("gate data", {0}, STARTED_S)

        def is_seen(state: RunState) -> bool:
            return any(
                role_text(state, process) == "actor"
                and any(frame.function.endswith("read_plainly") for frame in process.main_frames)
                for process in state.processes.values()
            )

        state = job.wait_state(is_seen, STARTED_S)
        assert not any(process.role == "rank" for process in state.processes.values())


def test_rank_0s_actor_that_never_chooses_an_endpoint_is_blamed() -> None:
    with actors("read_data", "form", given="RANK WORLD_SIZE") as job:
        job.wait_step("gate data", {0}, STARTED_S)
        finding = job.wait_verdict("rendezvous.rank_missing", {0})
        assert 1 in finding.waiting_ranks


def test_an_actor_that_is_killed_is_blamed_and_its_victim_is_not() -> None:
    with actors("sum_twice", "sum_twice", given="RANK WORLD_SIZE", by_run=True) as job:
        job.wait_step("gate before the second", {1}, STARTED_S)
        job.kill(1)
        job.wait_verdict(("process.killed", "process.exited"), {1})


@pytest.mark.parametrize("given", [OF_TORCH, "RANK WORLD_SIZE"], ids=["endpoint", "asks Ray"])
def test_whoever_waits_for_an_actor_that_died_in_its_constructor_is_told_at_once(
    given: str,
) -> None:
    """Long before the deadline of 100 s; where Ray chooses the endpoint, rank 0 is the one that died."""
    waits, died = (
        ("form_or_tell", "never_runs") if given == OF_TORCH else ("never_runs", "form_or_tell")
    )
    rank = 0 if given == OF_TORCH else 1
    with actors(waits, died, given=given, DISTWATCH_DEADLINES=PATIENT) as job:
        job.wait_step("failed", {rank}, STARTED_S)
        told = outcomes_of(job, {rank})[rank]
        assert (told["type"], told["code"]) == ("InitFailed", "rendezvous.rank_died")
        assert told["culprits"] == [1 - rank]
        assert "no checkpoint" in told["message"]


def test_an_actor_without_a_rank_is_told_how_to_pass_one() -> None:
    with actors("form", given="WORLD_SIZE MASTER_ADDR MASTER_PORT") as job:

        def somebody_was_told(state: RunState) -> bool:
            return any(f.code == "rendezvous.env_missing" for f in state.recorded_findings)

        state = job.wait_state(somebody_was_told, STARTED_S)
        (finding,) = [f for f in state.recorded_findings if f.code == "rendezvous.env_missing"]
        assert "RANK" in finding.summary
        assert 'runtime_env={"env_vars": {"RANK"' in finding.advice.replace("'", '"')


def test_from_outside_a_workers_pid_leads_to_all_actors() -> None:
    with actors("read_data", "read_data", DISTWATCH="0") as job:
        job.wait_step("gate data", {0, 1}, STARTED_S)
        (driver,) = job.launched
        (first, *_) = [one.pid for one in job_of(driver.pid) if one.identity.global_rank == 0]
        found = {one.identity.global_rank: one for one in job_of(first) if one.role == "rank"}
        assert set(found) == {0, 1}
        assert all(one.identity.launcher == "ray" for one in found.values())
        assert all(one.command[0] == "ray::Trainer.read_data" for one in found.values())


def test_the_example_forms_megatrons_layouts_in_ray() -> None:
    layouts = ["2,2,1", "1,4,1", "2,1,1", "1,2,1", "1,1,2"]
    example = REPOSITORY / "examples" / "megatron" / "layouts.py"
    with empty_job() as job:
        env = {"DISTWATCH_DEADLINES": PATIENT, "RAY_TMPDIR": str(job.work)}
        start(job, [str(example), "--ray", "4", *layouts], env)
        assert job.wait_ended(STARTED_S) == [0]
        # Ray's driver prints what actors say from a thread of its own: perhaps before the end of our line.
        said = job.output("driver.log")
        held, _ = json.JSONDecoder().raw_decode(said, said.index("[[{"))
        for rank, of_rank in enumerate(held):
            for layout, members in zip(layouts, of_rank, strict=True):
                sizes = [len(members[f"{axis}_parallel"]) for axis in
                         ("tensor_model", "pipeline_model", "context")]  # fmt: skip
                assert sizes == [int(size) for size in layout.split(",")]
                assert all(rank in ranks for ranks in members.values())
        assert_healthy(job.judged_blocking())


def test_the_example_where_an_actor_asks_for_other_sizes() -> None:
    example = REPOSITORY / "examples" / "megatron" / "layouts.py"
    with empty_job() as job:
        env = {"DISTWATCH_DEADLINES": PATIENT, "RAY_TMPDIR": str(job.work)}
        start(job, [str(example), "--ray", "2", "--odd", "1", "2,1,1"], env)
        assert job.wait_ended(STARTED_S) == [1]
        found = job.wait_verdict("group.layout_disagrees", {1})
        assert "rank 0 has tp=2; rank 1 has pp=2" in found.summary
        assert "parallel sizes differ" in job.output("driver.log")
