"""Whole jobs found from one process of theirs, by real processes."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from distwatch.errors import AttachDenied, NoSuchTarget
from distwatch.probes.discovery import job_of, ranks_here, ranks_of, sight
from distwatch.probes.procfs import children_of, state_of
from distwatch.probes.table import is_launcher, read_environ
from distwatch.runfolder import start_ticks
from distwatch.state.events import ProcessSighted
from distwatch.state.frames import process_key
from distwatch.state.identity import identify
from tests.probes.others import NOBODY, Other, as_nobody, other
from tests.support.waiting import wait_until
from tests.support.without_torch import needs_torch

# One write, since several processes may share the pipe.
WAIT = "import os; os.write(1, b'%d\\n' % os.getpid()); os.read(0, 1)"


@pytest.fixture(scope="module")
def ports() -> int:
    return 20_000 + os.getpid() % 10_000


def variables(rank: int, port: int, size: int = 2) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


@contextlib.contextmanager
def rank(number: int, port: int, code: str = WAIT) -> Iterator[Other]:
    with other(code, environ=variables(number, port)) as process:
        yield process


def seen(pid: int) -> ProcessSighted:
    found = sight(pid)
    assert found is not None
    return found


def roles(found: list[ProcessSighted]) -> dict[int, str]:
    return {one.pid: one.role for one in found}


def test_ranks_that_a_shell_started_find_each_other(ports: int) -> None:
    with rank(1, ports) as one, rank(0, ports) as zero, rank(0, ports + 1) as foreign:
        for process in (one, zero, foreign):
            process.line()
        found = job_of(one.pid)
        assert [(p.pid, p.role, p.identity.global_rank) for p in found] == [
            (zero.pid, "rank", 0),
            (one.pid, "rank", 1),
        ]
        assert {p.pid for p in ranks_of(identify(variables(0, ports)))} == {zero.pid, one.pid}
        assert [p.pid for p in job_of(foreign.pid)] == [foreign.pid]


def test_what_is_told_of_a_rank(ports: int) -> None:
    code = f"{WAIT}  # api_key=123456789"
    with other(code, "--token", "hf_abcdefghijklmnopqrst", environ=variables(1, ports)) as child:
        child.line()
        found = seen(child.pid)
        host, ticks = os.uname().nodename, start_ticks(child.pid)
        assert found.process == process_key(host, child.pid, ticks)
        assert (found.host, found.start_ticks, found.ppid) == (host, ticks, os.getpid())
        assert (found.role, found.instrumented) == ("rank", False)
        assert found.identity == identify(variables(1, ports))
        text = " ".join(found.command)
        assert "--token" in text
        assert "hf_abc" not in text
        assert "123456789" not in text
        assert (read_environ(child.pid) or {})["RANK"] == "1"


def test_a_subprocess_that_inherited_the_rank_is_a_child(ports: int) -> None:
    # In one write, as the child's: unbuffered, `print` writes the end of its line by itself.
    code = f"""
    import os, subprocess, sys
    child = subprocess.Popen([sys.executable, "-c", {WAIT!r}])
    shell = subprocess.Popen(["/bin/sh", "-c", "read line"], stdin=subprocess.PIPE)
    os.write(1, b"%d\\n" % shell.pid)
    child.wait()
    """
    with rank(0, ports, code) as zero:
        pids = {zero.number(), zero.number()}
        wait_until(lambda: len(children_of(zero.pid)) == 2)
        for pid in (zero.pid, *pids):
            assert roles(job_of(pid)) == {zero.pid: "rank", **dict.fromkeys(pids, "child")}


def test_a_subprocess_with_a_rank_of_its_own_is_a_rank(ports: int) -> None:
    code = f"""
    import os, subprocess, sys
    subprocess.Popen([sys.executable, "-c", {WAIT!r}], env={{**os.environ, "RANK": "1"}}).wait()
    """
    with rank(0, ports, code) as zero:
        one = zero.number()
        assert roles(job_of(zero.pid)) == {zero.pid: "rank", one: "rank"}


def test_a_shell_around_a_rank_is_none(ports: int) -> None:
    command = ["/bin/sh", "-c", f"{sys.executable} -c {shlex.quote(WAIT)}; true"]
    with other("", command=command, environ=variables(0, ports)) as shell:
        zero = shell.number()
        assert seen(shell.pid).role == "other"
        assert roles(job_of(shell.pid)) == {shell.pid: "other", zero: "rank"}
        assert roles(job_of(zero)) == {zero: "rank"}


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_multiprocessing_are_dataloaders(
    method: str, ports: int, tmp_path: Path
) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent(f"""
        import multiprocessing, os, sys
        def work(writer):
            os.write(writer.fileno(), f"{{os.getpid()}}\\n".encode())
            os.read(0 if "{method}" == "fork" else writer.fileno(), 1)
        if __name__ == "__main__":
            context = multiprocessing.get_context("{method}")
            reader, writer = context.Pipe()
            worker = context.Process(target=work, args=(writer,))
            worker.start()
            print(int(os.read(reader.fileno(), 100)), flush=True)
            worker.join()
        """)
    )
    command = [sys.executable, str(script)]
    with other("", command=command, environ=variables(0, ports)) as zero:
        worker = zero.number()
        found = roles(job_of(worker))
        assert found.pop(zero.pid) == "rank"
        assert found.pop(worker) == "dataloader"
        assert set(found.values()) <= {"child"}  # multiprocessing's own servers


LAUNCHER = f"""
import os, subprocess, sys
ranks = [
    subprocess.Popen([sys.executable, "-c", {WAIT!r}], env={{**os.environ, "RANK": str(rank),
        "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": sys.argv[1],
        "TORCHELASTIC_RUN_ID": "none"}})
    for rank in range(2)
]
ranks[0].wait()
"""


@pytest.mark.parametrize("name", ["torchrun", "agent.py"])
def test_a_launcher_and_its_ranks_find_each_other(name: str, ports: int, tmp_path: Path) -> None:
    script = tmp_path / name
    script.write_text(LAUNCHER)
    command = [sys.executable, str(script), str(ports)]
    with other("", command=command) as launcher:
        pids = {launcher.number(), launcher.number()}
        wanted = {launcher.pid: "launcher", **dict.fromkeys(pids, "rank")}
        for pid in wanted:
            found = job_of(pid)
            assert roles(found) == wanted
            assert found[0].role == "launcher"
        assert seen(launcher.pid).identity.global_rank is None


@needs_torch
def test_a_real_torchrun(ports: int, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(f"{WAIT.replace('os.read(0, 1)', '')}import signal; signal.pause()")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += [f"--master-port={ports}", str(script)]
    with other("", command=command) as launcher:
        pids = [launcher.number(), launcher.number()]
        for pid in (launcher.pid, *pids):
            found = job_of(pid)
            assert roles(found) == {launcher.pid: "launcher", **dict.fromkeys(pids, "rank")}
        assert [one.identity.global_rank for one in found[1:]] == [0, 1]
        assert found[1].identity.launcher == "torchrun"
        # torchrun puts each rank into a session of its own, where ending the launcher's misses it.
        launcher.process.terminate()
        launcher.process.wait()
        wait_until(lambda: not any(state_of(pid) for pid in pids))


def test_a_launcher_whose_ranks_are_gone_is_still_found(tmp_path: Path) -> None:
    script = tmp_path / "torchrun"
    script.write_text(WAIT)
    with other("", command=[sys.executable, str(script)]) as launcher:
        launcher.line()
        assert roles(job_of(launcher.pid)) == {launcher.pid: "launcher"}


def test_distwatch_itself_is_no_rank(ports: int, tmp_path: Path) -> None:
    script = tmp_path / "distwatch"
    script.write_text(WAIT)
    with (
        rank(0, ports) as zero,
        other("", command=[sys.executable, str(script)], environ=variables(0, ports)) as observer,
    ):
        zero.line()
        observer.line()
        assert seen(observer.pid).role == "other"
        assert roles(job_of(zero.pid)) == {zero.pid: "rank"}


def test_ray_workers_whose_ranks_no_environment_shows(ports: int) -> None:
    def worker(job: str, title: str) -> contextlib.AbstractContextManager[Other]:
        environ = {"RAY_RAYLET_PID": str(ports), "RAY_JOB_ID": job}
        # Ray renames its workers: their first argument is what they do.
        script = f"exec -a {title} {sys.executable} -c {shlex.quote(WAIT)}"
        command = ["/bin/bash", "-c", script]
        return other("", command=command, environ=environ)

    with (
        worker("01000000", "ray::Trainer.fit") as one,
        worker("01000000", "ray::Trainer.fit") as two,
        worker("01000000", "ray::IDLE") as idle,
        worker("02000000", "ray::Other.run") as foreign,
    ):
        for process in (one, two, idle, foreign):
            process.line()
        found = job_of(one.pid)
        assert {process.pid for process in found} == {one.pid, two.pid}
        assert {process.identity.launcher for process in found} == {"ray"}


def test_a_process_without_a_launchers_variables_is_a_job_of_one() -> None:
    with other(WAIT, environ={}) as script:
        script.line()
        assert roles(job_of(script.pid)) == {script.pid: "rank"}


def test_a_launcher_of_one_process_and_its_script_are_a_job_of_one(tmp_path: Path) -> None:
    script = tmp_path / "accelerate"
    script.write_text(f"import subprocess, sys; subprocess.call([sys.executable, '-c', {WAIT!r}])")
    with other("", command=[sys.executable, str(script), "launch"], environ={}) as launcher:
        pid = launcher.number()
        for named in (launcher.pid, pid):
            assert roles(job_of(named)) == {launcher.pid: "launcher", pid: "rank"}


def test_the_ranks_of_this_user_are_listed_with_their_environments(ports: int) -> None:
    with rank(0, ports) as zero, other(WAIT, environ={}) as none:
        zero.line()
        none.line()
        here = {sighted.pid: environ for sighted, environ in ranks_here()}
        assert here[zero.pid]["MASTER_PORT"] == str(ports)
        assert none.pid not in here


def test_no_such_process() -> None:
    with other("") as child:
        child.process.wait()
        pid = child.pid
    for wrong in (pid, 0, -1, 1 << 40):
        with pytest.raises(NoSuchTarget, match="there is no process") as raised:
            job_of(wrong)
        assert raised.value.exit_code == 5
        assert sight(wrong) is None
    assert read_environ(pid) is None


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_anothers_process_is_denied_with_advice(ports: int) -> None:
    with rank(0, ports) as zero:
        zero.line()

        def look() -> str:
            assert sight(zero.pid) is None
            assert read_environ(zero.pid) is None
            try:
                job_of(zero.pid)
            except AttachDenied as denied:
                return f"{denied.exit_code} {denied}"
            return "not denied"

        said = as_nobody(look)
        assert said.startswith(f"4 process {zero.pid} cannot be read: it belongs to root (uid 0)")
        assert "run distwatch as that user" in said


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_process_of_ours_that_forbids_it_is_denied_with_advice() -> None:
    with other("", command=["/bin/cat"], uid=NOBODY) as child:
        # Its group is still root's, so that not even its own user may read it.
        wait_until(lambda: state_of(child.pid) == "S")

        def look() -> str:
            with pytest.raises(AttachDenied) as raised:
                job_of(child.pid)
            return str(raised.value)

        assert "or forbids reading" in as_nobody(look)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_neighbour_of_another_user_does_not_disturb() -> None:
    with other("", command=["/bin/cat"], uid=NOBODY, gid=NOBODY) as child:
        wait_until(lambda: state_of(child.pid) == "S")

        def look() -> str:
            return str([one.pid for one in job_of(child.pid)])

        assert as_nobody(look) == str([child.pid])


@pytest.mark.parametrize(
    ("command", "launches"),
    [
        ("/opt/bin/torchrun train.py", True),
        ("python /opt/bin/torchrun --nproc-per-node 8 train.py", True),
        ("/usr/bin/python3.11 -u -m torch.distributed.run train.py", True),
        ("python -X importtime -m torch.distributed.launch train.py", True),
        ("python3 /opt/bin/accelerate launch train.py", True),
        ("python -m accelerate.commands.launch train.py", True),
        ("/opt/bin/python /opt/bin/deepspeed train.py", True),
        ("python -u -m deepspeed.launcher.launch --world_info x train.py", True),
        ("python -u /lib/deepspeed/launcher/launch.py train.py", True),
        ("mpirun -np 8 python train.py", True),
        ("python train.py torchrun", False),
        ("python train.py -m torch.distributed.run", False),
        ("python -c torchrun", False),
        ("vim torchrun", False),
        ("bash -c torchrun", False),
        ("python -m torch.distributed.runner", False),
        ("", False),
    ],
)
def test_launchers_by_their_command_line(command: str, launches: bool) -> None:
    assert is_launcher(tuple(command.split())) is launches
