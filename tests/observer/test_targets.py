"""A word means one run or job, whatever kind of word it is; what means nothing says what there is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distwatch.errors import NoSuchTarget, PartialData, UsageError
from distwatch.observer.cluster.root_registry import Card, write_cards
from distwatch.observer.journals.reading import write_attached
from distwatch.observer.targets import ray_jobs
from distwatch.observer.targets.foreign_job import ForeignJob
from distwatch.observer.targets.remote_runs import RemoteRun
from distwatch.observer.targets.resolver import resolve
from distwatch.observer.targets.runs import list_runs
from distwatch.observer.targets.target import RunHere
from distwatch.probes.ray_cluster import Tables
from distwatch.probes.raylets import Raylet
from distwatch.runfolder import RunFolder, host_name, start_ticks, write_start
from distwatch.state.ray_events import RayActorSeen, RayJobSeen, RayNodeSeen
from tests.cli.runs import save
from tests.diagnosis.recorded import RecordedJob
from tests.diagnosis.recorded_ray import RecordedActors
from tests.observer.rank_process import RankProcess

RAYLET = Raylet(pid=7, address="10.0.0.1:6379", node_id="here", session="session_20260101_1")
NODES = (
    RayNodeSeen(host="n", node_id="here", address="10.0.0.1", host_name="n1"),
    RayNodeSeen(host="n", node_id="there", address="10.0.0.2", host_name="n2"),
)
NOBODY = 4194304
"""Above any pid."""


@pytest.fixture
def root(tmp_path: Path) -> str:
    place = tmp_path / "run"
    place.mkdir()
    return str(place)


def record(root: str, *names: str) -> list[RunFolder]:
    """Runs with one rank, the later the name the later begun."""
    folders = []
    for number, name in enumerate(names, 1):
        job = RecordedJob(1)
        job.start(0, at=float(number))
        folders.append(save(job, Path(root), name))
    return folders


def with_actor(root: str, name: str) -> RunFolder:
    """A run that has ended, with the actor t0."""
    job = RecordedActors(1)
    job.start(0)
    job.place(0)
    return save(job, Path(root), name)


def revive(folder: RunFolder) -> None:
    """This process becomes a rank of the run."""
    write_start(folder, "rank", {})


def run_of(word: str | None, root: str) -> str:
    target = resolve(word, root)
    assert isinstance(target, RunHere)
    return target.folder().run_id


class Cluster:
    """A Ray cluster with a raylet on this machine, as the probes show it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.actors: list[RayActorSeen] = []
        self.drivers: dict[str, int] = {}
        self.here = [RAYLET]
        patch.setattr(ray_jobs, "clusters_here", lambda: {RAYLET.address: self.here})
        patch.setattr(ray_jobs, "raylet_of", self._raylet_of)
        patch.setattr(ray_jobs, "has_loaded_ray", lambda pid: pid in self.drivers.values())
        patch.setattr(ray_jobs, "read_tables", self._read)

    def add(self, name: str, pid: int, *, node: str = "here", job: str = "01000000") -> None:
        self.actors.append(
            RayActorSeen(
                host="n", actor_id=f"{name}{pid}", job_id=job, name=name, pid=pid,
                state="ALIVE" if pid else "PENDING_CREATION", node_id=node if pid else "",
                worker_id="w" if pid else "",
            )
        )  # fmt: skip

    def _raylet_of(self, pid: int) -> Raylet | None:
        return RAYLET if any(actor.pid == pid for actor in self.actors) else None

    def _read(self, _: object, *, driver: int, name: str, within_s: float) -> Tables:
        jobs = [
            RayJobSeen(host="n", job_id=job, driver_pid=pid, driver_node="here")
            for job, pid in self.drivers.items()
            if driver in (0, pid)
        ]
        actors = [actor for actor in self.actors if name in ("", actor.name)]
        return Tables(actors=tuple(actors), jobs=tuple(jobs), nodes=NODES)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


@pytest.fixture
def child() -> Iterator[int]:
    """A child of this process, without a run of its own."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process.pid
    process.communicate(b"\n")


# ---- no word, names and folders ----------------------------------------------------------------


def test_without_a_word_the_newest_living_run_is_meant(root: str) -> None:
    with pytest.raises(NoSuchTarget, match=r"no run is recorded under .*DISTWATCH_DIR"):
        resolve(None, root)
    first, _ = record(root, "first", "second")
    assert run_of(None, root) == run_of("", root) == "second"
    revive(first)
    assert run_of(None, root) == "first"


def test_a_name_means_its_newest_launch(root: str) -> None:
    record(root, "r", "r~2", "r~10", "ray-01000000-20260101-1", "ray-01000000-20260202-1", "ray-02")
    assert run_of("r", root) == "r~10"
    assert run_of("r~2", root) == "r~2"
    assert run_of("ray-01000000", root) == "ray-01000000-20260202-1"
    assert run_of("ray-02", root) == "ray-02"


def test_a_folder_an_incident_and_a_file_in_it_mean_their_run(root: str, tmp_path: Path) -> None:
    (folder,) = record(root, "r")
    incident = Path(folder.incidents, "1")
    incident.mkdir(parents=True)
    for path in (
        folder.path,
        str(incident),
        str(incident / "report.json"),
        f"{folder.path}/x.ring",
    ):
        assert run_of(path, root) == "r"
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(PartialData, match="does not hold a run"):
        resolve(str(empty), root)


def test_a_folder_that_only_has_the_name_of_a_run_does_not_hide_it(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(root, "r")
    (tmp_path / "r").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run_of("r", root) == "r"


def test_a_name_is_the_runs_and_a_path_the_folders(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (of_that_name,) = record(root, "r")
    (copied,) = record(str(tmp_path / "elsewhere"), "r")
    monkeypatch.chdir(os.path.dirname(copied.path))
    assert resolve("r", root).folder().path == of_that_name.path
    for path in ("./r", copied.path):
        assert resolve(path, root).folder().path == copied.path


def test_what_means_nothing_is_answered_with_what_there_is(root: str, cluster: Cluster) -> None:
    with pytest.raises(NoSuchTarget, match=r"there is no run 'nope'\. No run is recorded"):
        resolve("nope", root)
    record(root, "a", "b")
    with pytest.raises(
        NoSuchTarget, match=r"there is no run 'nope'\. Recorded under .*: a, b"
    ) as told:
        resolve("nope", root)
    assert told.value.exit_code == 5


# ---- processes ---------------------------------------------------------------------------------


def test_a_rank_its_launcher_its_child_and_what_it_left_mean_its_run(
    folder: RunFolder, start_rank: Callable[[], RankProcess], child: int
) -> None:
    rank, root = start_rank(), os.path.dirname(folder.path)
    assert run_of(str(rank.pid), root) == "r"
    assert run_of(str(os.getpid()), root) == "r"  # it launched the rank
    assert isinstance(resolve(str(child), root), ForeignJob)
    rank.kill()
    rank.close()
    assert run_of(str(rank.pid), root) == "r"
    revive(folder)
    assert run_of(str(child), root) == "r"


def test_a_supervisor_above_a_launcher_means_the_run_below_it(
    root: str, started: Callable[..., subprocess.Popen[str]]
) -> None:
    """`timeout`, a shell, a supervisor: whatever is above has started the run."""
    (folder,) = record(root, "r")
    shell = started("bash", "-c", f"{_start_in(folder)}; true")
    assert run_of(str(shell.pid), root) == "r"


def test_a_process_above_several_runs_is_asked_which(
    root: str, started: Callable[..., subprocess.Popen[str]]
) -> None:
    one, other = record(root, "a", "b")
    shell = started("bash", "-c", f"{_start_in(one)} & {_start_in(other)}; wait", lines=2)
    with pytest.raises(UsageError, match=f"process {shell.pid} has started several runs: a, b"):
        resolve(str(shell.pid), root)


def _start_in(folder: RunFolder) -> str:
    """A shell command: a rank of that run, which stays until its pipe closes.

    It says so in one write: unbuffered, `print` writes the end of its line by itself, and another's may come between.
    """
    code = (
        "import os; from distwatch.runfolder import RunFolder, write_start; "
        f"write_start(RunFolder({folder.path!r}), 'rank', {{}}); os.write(1, bytes((49, 10))); open(3).read()"
    )
    return f'{sys.executable} -c "{code}"'


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a command; each process below it prints a line when it is there, and stays until the end."""
    reading, writing = os.pipe()
    begun: list[subprocess.Popen[str]] = []

    def start(*command: str, lines: int = 1) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            ["bash", "-c", f"exec 3<&{reading}; exec \"$@\"", "bash", *command],
            stdout=subprocess.PIPE, text=True, pass_fds=[reading],
        )  # fmt: skip
        begun.append(process)
        assert process.stdout is not None
        for _ in range(lines):
            assert process.stdout.readline() == "1\n"
        return process

    yield start
    os.close(writing)
    os.close(reading)
    for process in begun:
        process.communicate()


def test_a_process_of_no_run_is_a_foreign_job(root: str, cluster: Cluster, child: int) -> None:
    job = resolve(str(child), root)
    assert isinstance(job, ForeignJob)
    assert job.name == f"process {child}"
    assert job.rank_pids() == {0: child}
    with pytest.raises(
        NoSuchTarget, match=f"belongs to no run. `distwatch attach {child}` watches"
    ):
        job.report()
    source = job.source()
    assert source.run_id == f"attached-{child}"


def test_what_an_attach_has_written_is_found_again_and_the_next_one_begins_afresh(
    root: str, cluster: Cluster, child: int
) -> None:
    key = f"{host_name()}-{child}.{start_ticks(child)}"
    for folder in record(root, f"attached-{child}", "another"):
        write_attached(folder, [key if folder.run_id != "another" else "elsewhere-1.1"])
    job = resolve(str(child), root)
    assert isinstance(job, ForeignJob)
    assert job.folder().run_id == f"attached-{child}"
    assert len(job.report().ranks) == 1
    assert job.source().run_id == f"attached-{child}~2"
    told = {run.run_id: run.alive for run in list_runs(root)}
    assert told == {f"attached-{child}": True, "another": False}


def test_a_process_that_does_not_exist_is_said_to_be_none(root: str, cluster: Cluster) -> None:
    with pytest.raises(NoSuchTarget, match=f"there is no process {NOBODY}"):
        resolve(str(NOBODY), root)


# ---- other nodes -------------------------------------------------------------------------------


def test_a_run_of_other_nodes_is_known_by_its_card(root: str) -> None:
    card = Card(
        cluster="a:1", place="127.0.0.1:1", token="0" * 16, host="n7", since_ns=1, ended=True
    )
    write_cards(root, "a:1", {"far": card, "near": card})
    record(root, "near")
    remote = resolve("far", root)
    assert isinstance(remote, RemoteRun)
    assert remote.source().run_id == remote.name == "far"
    with pytest.raises(NoSuchTarget, match="far is recorded on n7, not here"):
        remote.folder()
    with pytest.raises(NoSuchTarget, match="far has ended"):
        remote.state()
    assert run_of("near", root) == "near"


# ---- Ray ---------------------------------------------------------------------------------------


def test_an_actors_name_means_the_living_run_that_holds_it(root: str, cluster: Cluster) -> None:
    with_actor(root, "ended")
    later = with_actor(root, "later")
    assert run_of("t0", root) == "later"
    living = with_actor(root, "alive")
    revive(living)
    assert run_of("t0", root) == "alive"
    revive(later)
    with pytest.raises(UsageError, match="several runs have an actor named 't0': alive, later"):
        resolve("t0", root)


def test_an_actor_that_no_run_knows_is_asked_of_the_clusters(
    root: str, cluster: Cluster, child: int
) -> None:
    cluster.add("a", child)
    job = resolve("a", root)
    assert isinstance(job, ForeignJob)
    assert job.name == f"process {child}"
    cluster.add("a", NOBODY)
    with pytest.raises(UsageError, match=rf"several actors are named 'a': pid {child} on n1"):
        resolve("a", root)


def test_an_actor_elsewhere_means_its_jobs_run_or_nothing(root: str, cluster: Cluster) -> None:
    cluster.add("far", 12, node="there")
    with pytest.raises(NoSuchTarget, match=r"not on this machine \(pid 12 on n2 .*attach ray://"):
        resolve("far", root)
    cluster.add("none", 0)
    with pytest.raises(NoSuchTarget, match=r"PENDING_CREATION, on no node.*pid of its driver"):
        resolve("none", root)
    record(root, "ray-01000000-20260101-1")
    assert run_of("far", root) == run_of("none", root) == "ray-01000000-20260101-1"


def test_an_actor_without_a_worker_means_its_driver(
    root: str, cluster: Cluster, child: int
) -> None:
    cluster.add("none", 0)
    cluster.drivers["01000000"] = child
    assert resolve("none", root).name == f"process {child}"


def test_a_driver_and_a_worker_mean_the_run_of_their_job(
    root: str, cluster: Cluster, child: int
) -> None:
    cluster.drivers["01000000"] = child
    cluster.add("a", NOBODY)
    assert isinstance(resolve(str(child), root), ForeignJob)
    record(root, "ray-01000000-20260101-1")
    assert run_of(str(child), root) == "ray-01000000-20260101-1"
    assert run_of(str(NOBODY), root) == "ray-01000000-20260101-1"


def test_a_driver_means_a_run_that_was_given_another_name(
    root: str, cluster: Cluster, child: int
) -> None:
    cluster.drivers["01000000"] = child
    cluster.add("a", os.getpid())
    (folder,) = record(root, "mine")
    cluster.add("b", NOBODY, job="02000000")
    assert isinstance(resolve(str(NOBODY), root), ForeignJob)
    revive(folder)
    assert run_of(str(child), root) == "mine"
