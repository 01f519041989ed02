"""Model loads that stop, on real ranks: the right phase, the right file, the right rank."""

from __future__ import annotations

from pathlib import Path

import pytest

from distwatch.diagnosis.facts.loads import loads_of
from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.state.finding import Finding
from distwatch.state.model import RunState
from tests.support.checkpoints import environment_of, make_checkpoint
from tests.support.hub import held_lock, hub, hub_environment, refusing_endpoint
from tests.support.ranks import PATIENT, Job, launch_ranks
from tests.support.stalling_disk import stalling_disk, stalling_disk_missing
from tests.support.verdicts import assert_healthy, text_of

HUB, GENERATION = "load.hub_unreachable", "load.generation_config_stalled"
SHORT = {"DISTWATCH_DEADLINES": "init=30,group=30,load=4,collective=4"}
PATIENCE = {"DISTWATCH_DEADLINES": PATIENT}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "llama"
    assert len(make_checkpoint(folder)) == 4
    return folder


def test_shard_that_cannot_be_read() -> None:
    with launch_ranks("load_stalls", 2) as job:
        job.wait_step("loading", {0, 1}, timeout_s=90)
        finding = job.wait_verdict("load.stalled", {1}, mentions=("from_pretrained",))
        assert finding.waiting_ranks == (0,)


@pytest.mark.parametrize(
    ("where", "phase", "words"),
    [
        ("own code", "finalize", "by the model's code"),
        ("dispatch", "dispatch", "nvidia-smi"),
        ("lock", "finalize", "holds that lock"),
        ("model", "model", "constructors"),
    ],
)
def test_a_stall_where_no_file_is_read_is_not_sent_to_the_file_system(
    where: str, phase: str, words: str
) -> None:
    with launch_ranks("load_phases", 1, env=SHORT, args=[where]) as job:
        job.wait_step("stalled", {0}, timeout_s=90)
        finding = job.wait_verdict("load.stalled", {0}, mentions=("load_phases.py",))
        assert f"phase {phase}" in finding.summary
        assert "it reads no file in this phase" in finding.summary
        assert ("after all 5 files were read" in finding.summary) == (phase != "model")
        assert words in finding.advice
        assert "file system" not in finding.advice


def test_the_setting_raise_ends_a_load_that_waits_in_python() -> None:
    env = {**SHORT, "DISTWATCH_ON_HANG": "raise"}
    with launch_ranks("load_phases", 1, env=env, args=["own code"]) as job:
        job.wait_step("stalled", {0}, timeout_s=90)
        assert job.wait_ended() == [1]
        told = f"InitTimeout: from_pretrained({job.work / 'checkpoint'}): finalize did not finish"
        assert f"{told} within 4 s, at load_phases.py:" in job.output()


@pytest.mark.parametrize(("major", "offset"), [(5, 0), (5, 100_000), (4, 100_000)])
def test_disk_stalls_in_a_shard_with_the_gil_held(
    checkpoint: Path, major: int, offset: int
) -> None:
    if reason := stalling_disk_missing():
        pytest.skip(reason)
    shard = "model-00002-of-00004.safetensors"
    env = {**environment_of(major), **SHORT}
    with (
        stalling_disk(checkpoint, {shard: offset}) as disk,
        launch_ranks("loads", 2, env=env, args=("on_one_rank", str(disk.path))) as job,
    ):
        disk.wait_stalled(shard)
        # The last are the kernel's words for a page that does not come.
        mentions = (f"shards 2 of 4 ({shard})", "folio_wait_bit_common")
        finding = job.wait_verdict("load.stalled", {1}, mentions=mentions)
        assert finding.waiting_ranks == (0,)
        job.kill_everything(observer=True)
        assert diagnose(job.state())[0].code == "load.stalled", "the verdict did not survive"


@pytest.mark.parametrize(
    ("major", "pattern", "kind", "code", "mentions"),
    [
        (5, "generation_config", "blackhole", GENERATION, ("generation_config.json", "127.0.0.1")),
        (4, "generation_config", "blackhole", GENERATION, ("generation_config.json", "127.0.0.1")),
        (5, "GET /api/models", "blackhole", HUB, ("/api/models/org/model",)),
        (4, "HEAD .*/config.json", "blackhole", HUB, ("config.json",)),
        (5, "GET .*00002-of", "drip", HUB, ("the body of", "00002-of-00004")),
    ],
)
def test_hub_does_not_answer(
    checkpoint: Path, tmp_path: Path, major: int, pattern: str, kind: str, code: str,
    mentions: tuple[str, ...],
) -> None:  # fmt: skip
    """All ranks share a cache: where one waits for the hub, another one may wait for its lock."""
    with hub(checkpoint) as here:
        here.fault(pattern, kind)  # type: ignore[arg-type]
        env = {**environment_of(major), **SHORT, **hub_environment(here.endpoint, tmp_path)}
        with launch_ranks("loads", 2, env=env, args=("on_all", "org/model")) as job:
            here.wait_request(pattern, timeout_s=90)
            wait_involved(job, code, mentions)


def test_hub_refuses(tmp_path: Path) -> None:
    with refusing_endpoint() as endpoint:
        env = {**SHORT, **hub_environment(endpoint, tmp_path)}
        with launch_ranks("loads", 2, env=env, args=("on_all", "org/model")) as job:
            job.wait_verdict(HUB, {0, 1}, mentions=("refused", "attempt"))


def test_lock_of_the_cache_is_held_by_somebody_else(checkpoint: Path, tmp_path: Path) -> None:
    with hub(checkpoint) as here:
        lock = here.lock_file(tmp_path, "config.json")
        env = {**SHORT, **hub_environment(here.endpoint, tmp_path)}
        with (
            held_lock(lock),
            launch_ranks("loads", 2, env=env, args=("on_all", "org/model")) as job,
        ):
            job.wait_verdict("load.stalled", {0, 1}, mentions=(str(lock), "which pid"))


def test_lock_that_nobody_holds(checkpoint: Path, tmp_path: Path) -> None:
    """Where there is no flock the file is the lock, and a killed process leaves it behind."""
    with hub(checkpoint) as here:
        lock = here.lock_file(tmp_path, "config.json")
        lock.parent.mkdir(parents=True)
        lock.touch()
        env = {**SHORT, **hub_environment(here.endpoint, tmp_path)}
        with launch_ranks("loads", 2, env=env, args=("without_flock", "org/model")) as job:
            job.wait_verdict("load.lock_stale", {0, 1}, mentions=(str(lock), "nobody"))


def test_rank_is_missing_in_a_tensor_parallel_load(checkpoint: Path) -> None:
    env = {"DISTWATCH_DEADLINES": "init=6,group=6,load=4,collective=4"}
    args = ("tensor_parallel", str(checkpoint))
    with launch_ranks("loads", 3, ranks=[0, 1], env=env, args=args) as job:
        finding = job.wait_verdict("rendezvous.rank_never_started", {2})
        assert finding.waiting_ranks == (0, 1)


def test_a_tensor_parallel_load_is_healthy(checkpoint: Path) -> None:
    args = ("tensor_parallel", str(checkpoint))
    with launch_ranks("loads", 2, env=PATIENCE, args=args) as job:
        assert job.wait_ended(90) == [0, 0]
        job.wait_observer_ended()
        assert_healthy(job.judged_blocking())
        loads = loads_of(job.state())
        held = [load.placement.bytes_on("cpu") for load in loads if load.placement]
        size = sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
        assert len(held) == 2
        assert all(size / 3 < one < 0.9 * size for one in held), "each holds its shards only"


def test_offloaded_weights_are_read_back_from_a_disk_that_stalls(checkpoint: Path) -> None:
    args = ("offload_reread", str(checkpoint))
    with launch_ranks("loads", 2, env=SHORT, args=args) as job:
        mentions = ("load_checkpoint_and_dispatch", "offload re-read", "of 39", "TMPDIR")
        finding = wait_involved(job, "load.stalled", mentions[:3])
        assert mentions[3] in finding.advice


def test_models_that_lie_in_different_places(checkpoint: Path) -> None:
    args = ("different_places", str(checkpoint))
    with launch_ranks("loads", 2, env=PATIENCE, args=args) as job:
        job.wait_step("loaded", {0, 1}, timeout_s=90)

        def told(state: RunState) -> bool:
            return {"load.device_map_conflict", "load.offloaded"} <= codes_of(state)

        findings = diagnose(job.wait_state(told))
        assert_healthy(findings)
        offloaded = next(f for f in findings if f.code == "load.offloaded")
        assert offloaded.culprit_ranks == (1,)
        assert "on disk" in offloaded.summary


@pytest.mark.parametrize("major", [5, 4])
def test_parameters_that_nothing_will_fill(checkpoint: Path, major: int) -> None:
    args = ("missing_parameters", str(checkpoint))
    env = {**environment_of(major), **PATIENCE}
    with launch_ranks("loads", 2, env=env, args=args) as job:
        job.wait_step("loaded", {0, 1}, timeout_s=90)
        findings = diagnose(job.wait_state(lambda state: "load.meta_leaked" in codes_of(state)))
        assert_healthy(findings)
        leaked = next(f for f in findings if f.code == "load.meta_leaked")
        assert leaked.culprit_ranks == (0, 1)
        assert "9 of its parameters" in leaked.summary
        assert "model.layers.4.self_attn.q_proj.weight" in leaked.summary


def wait_involved(job: Job, code: str, mentions: tuple[str, ...]) -> Finding:
    """The first finding, once it has that code and those words, and is about both ranks.

    One of them is overdue a moment before the other.
    """

    def is_it(finding: Finding) -> bool:
        right = finding.code == code and finding.severity == "hang"
        both = {*finding.culprit_ranks, *finding.waiting_ranks} == {0, 1}
        return right and both and all(words in text_of(finding) for words in mentions)

    def judged(state: RunState) -> bool:
        findings = diagnose(state)
        return bool(findings) and is_it(findings[0])

    return diagnose(job.wait_state(judged))[0]


def codes_of(state: RunState) -> set[str]:
    return {finding.code for finding in diagnose(state)}
