"""`distwatch attach PID|RUN`: the TUI on the whole run."""

from __future__ import annotations

import asyncio
import shutil
import time

import click

from distwatch.cli.options import WholeNumber, color_option, exit_code, root_option, shell_option
from distwatch.cli.terminal import Styled, echo, is_terminal, require_terminal
from distwatch.diagnosis.facts.stack_calls import STILL_S
from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.errors import NoSuchTarget, UsageError
from distwatch.observer.journals.pruning import run_folders
from distwatch.observer.journals.reading import any_alive, require_records
from distwatch.observer.targets.recorded_run import RecordedRun
from distwatch.observer.targets.resolver import resolve
from distwatch.observer.targets.run_source import RunSource
from distwatch.observer.targets.target import Target
from distwatch.state.model import RunState

SETTLE_S = 1.5
LONGEST_S = 8.8
"""Time for three looks: at the first one the job may still have moved."""
LATEST_S = 30.0
"""On a crowded host, where two looks far enough apart take longer than that."""
PARTIAL = 6


@click.command()
@click.argument("target", required=False, metavar="[PID|RUN]")
@click.option("--once", is_flag=True, help="Print one screen and exit; works without a terminal.")
@click.option(
    "--inject", "injects", is_flag=True,
    help="Bring distwatch into the ranks of a job that runs without it: one thread of each is stopped for "
    "some milliseconds, and a new thread there loads it; the hooks stay for the rest of the job.",
)  # fmt: skip
@click.option(
    "--dump-only", is_flag=True,
    help="With --inject: take the flight recorder's dump, and take distwatch out again.",
)  # fmt: skip
@click.option(
    "--hosts", metavar="H1,N[01-03],…",
    help="Look at the job on these hosts, too, as long as this command runs; where distwatch is not "
    "installed, it is brought along and removed again.",
)  # fmt: skip
@shell_option
@click.option("--address", default="", metavar="IP[:PORT]", help="Hosts: where this host listens.")
@click.option(
    "--slurm", "slurm", metavar="JOB[_TASK][.STEP]",
    help="A Slurm job by its number: looks from a step beside its own (srun --overlap) on its first node, and "
    "at its other nodes as with --hosts.",
)  # fmt: skip
@root_option
@color_option
def command(
    target: str | None,
    once: bool,
    injects: bool,
    dump_only: bool,
    hosts: str | None,
    shell: str,
    address: str,
    slurm: str | None,
    root: str,
) -> int:
    """Open the TUI on the run of a process: a rank, its launcher or a dataloader worker.

    In Ray, a driver's pid or an actor's name works, too.
    A job that runs without distwatch is watched from outside. Without a name: the one job that runs
    on this host, a choice where several do, the newest run where none does.
    """
    if dump_only and not injects:
        raise UsageError("--dump-only goes with --inject", advice="See `distwatch attach --help`.")
    if slurm:
        if target or hosts:
            raise UsageError(
                "--slurm finds the process and the hosts by itself",
                advice="Give it without a target and without --hosts.",
            )
        # It imports what only a job of Slurm needs.
        from distwatch.cli.slurm_job import step_into

        target, root, hosts, shell = step_into(slurm, root, once=once)
    meant = resolve(target or choose(root), root)
    if not once:
        require_terminal("`distwatch attach --once` prints one screen.")
    if hosts and injects:
        raise UsageError(
            "--inject is for the ranks of this host", advice="Give it without --hosts on each host."
        )
    source = _on_hosts(meant, hosts, shell, address) if hosts else meant.source()
    if injects:
        _prepare(source, dump_only=dump_only)
    if once:
        color = click.get_current_context().color
        return asyncio.run(print_once(source, bool(color)))
    show(source)
    return 0


def _on_hosts(meant: Target, named: str, shell: str, address: str) -> RunSource:
    # These place observers on hosts, which nobody needs who looks at a run.
    from distwatch.observer.cluster.hosts import named_hosts
    from distwatch.observer.targets.foreign_job import ForeignJob
    from distwatch.observer.targets.hosts_run import HostsRun

    hosts = named_hosts(named)
    if isinstance(meant, ForeignJob):
        return HostsRun(meant.folder_of_hosts(), hosts, shell, address, meant.identity())
    return HostsRun(meant.folder(), hosts, shell, address, None)


def _prepare(source: RunSource, *, dump_only: bool) -> None:
    """Has the agent brought in when the source opens, and says what that does to the job.

    Raises:
        UsageError: that job has distwatch already, or is not here.
    """
    if not source.can_inject:
        raise UsageError(
            f"{source.run_id} is not a job that runs here without distwatch",
            advice="--inject is only for such a job: attach without it.",
        )
    source.injects = "dump only" if dump_only else "for good"
    then = "takes a dump and leaves again" if dump_only else "stays for the rest of the job"
    echo(
        "distwatch: borrows one waiting thread of each rank for some milliseconds to start a thread "
        f"there, which loads distwatch, {then}; what came before is not observed",
        err=True,
    )


def choose(root: str) -> str | None:
    """The one job that runs on this host, or the one that a person picks; None where none runs.

    Raises:
        UsageError: several run, and there is no terminal to pick one at.
        NoSuchTarget: none runs, and none was recorded.
    """
    # It reads the whole process table, which whoever names a run does not need.
    from distwatch.observer.targets.unwatched import choice_text, moving_ranks, unwatched_jobs

    jobs = {one.run_id: f"run {one.run_id}" for one in run_folders(root) if any_alive(one)}
    unwatched = unwatched_jobs(root)
    jobs |= {str(job.pids[0]): job.text for job in unwatched}
    if not jobs and not any(run_folders(root)):
        raise NoSuchTarget(
            f"no distributed job that you may look at runs on this host, and no run is recorded under {root}",
            advice="Run this on a host of the job, as its user; or name one of its processes: `distwatch attach PID`.",
        )
    if len(jobs) < 2:
        return next(iter(jobs), None)
    for one, moving in zip(unwatched, moving_ranks(unwatched), strict=True):
        jobs[str(one.pids[0])] = choice_text(one, moving)
    if not is_terminal():
        raise UsageError(
            f"several jobs run here: {'; '.join(jobs.values())}",
            advice="Name one of them: `distwatch attach PID|RUN`.",
        )
    for number, job in enumerate(jobs.values(), 1):
        echo(f"{number}  {job}", err=True)
    picked: int = click.prompt("which", type=WholeNumber(1, len(jobs)), err=True)
    return list(jobs)[picked - 1]


def show(source: RunSource) -> None:
    """Opens the TUI; raises PartialData for an empty recording, before the TUI takes the screen."""
    if isinstance(source, RecordedRun):
        require_records(source.folder)
    from distwatch.tui.app import DistwatchApp

    asyncio.run(DistwatchApp(source).show())


async def _settle(source: RunSource) -> None:
    """Waits a moment; without an agent, as long as it takes to tell a stuck stack from a busy one."""
    began = time.monotonic()
    await asyncio.sleep(SETTLE_S)
    await source.poll()
    injected = bool(source.injects)
    if any(process.instrumented for process in source.state.processes.values()) and not injected:
        return
    how = "watching the ranks" if injected else "no rank runs distwatch; watching from outside"
    echo(
        f"distwatch: {how} for up to {LONGEST_S:.0f} s, {LATEST_S:.0f} s on a crowded host",
        err=True,
    )
    first: dict[str, int] = {}
    while True:
        twice, decided = _looked_twice(source.state, first), _is_decided(source)
        # Where numbers decide at once, the second look still shows what holds up the rank that they blame.
        if decided and (twice or not injected):
            break
        if time.monotonic() - began >= (LONGEST_S if twice else LATEST_S):
            break
        await source.wait(0.25)
        await source.poll()


def _looked_twice(state: RunState, first: dict[str, int]) -> bool:
    """Whether each rank was looked at twice, far enough apart to tell one that stands from one that moves.

    Args:
        first: when each rank was first looked at, in monotonic ns by process key; filled in here.
    """
    looks = {
        process.key: process.outside.stack_ns
        for process in state.processes.values()
        if process.role == "rank"
        and process.ended_ns is None
        and "stack" not in process.outside.not_observed
    }
    first.update({key: at for key, at in looks.items() if at is not None and key not in first})
    return all(at is not None and at - first[key] >= STILL_S * 1e9 for key, at in looks.items())


def _is_decided(source: RunSource) -> bool:
    """A warning or a note may become a hang with the second look, and a symptom gets its cause."""
    return any(finding.blocks and finding.role == "root" for finding in diagnose(source.state))


async def print_once(source: RunSource, color: bool) -> int:
    """Opens the source, waits a moment for evidence, and prints one screen."""
    from distwatch.tui.once import render_once

    try:
        await source.open()
        for why in source.not_injected:
            echo(f"distwatch: not brought in: {why}", err=True)
        for why in source.left_out:
            echo(f"distwatch: {why}", err=True)
        if source.live:
            await _settle(source)
        await source.poll()
        width = shutil.get_terminal_size((100, 24)).columns
        findings = source.findings
        if findings is None:
            findings = diagnose(source.state)
        text = render_once(
            source.state, width, run_id=source.run_id, color=color, findings=findings
        )
    finally:
        await source.close()
    # Each part was made visible before Rich coloured it.
    echo(Styled(text), nl=False)
    return exit_code(findings) or (PARTIAL if source.left_out else 0)
