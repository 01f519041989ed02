"""`attach --slurm JOB`: from any machine with Slurm's commands to the ranks of a job, through a step of its own."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from typing import NoReturn

import click
import msgspec
from click.core import ParameterSource

from distwatch.errors import DistwatchError, NoSuchTarget, UsageError
from distwatch.observer.cluster.hosts import named_hosts
from distwatch.probes.discovery import ranks_here
from distwatch.settings import run_root

_WORD = re.compile(r"(?P<job>\d{1,12}(?:_\d{1,9})?)(?:\.(?P<step>\d{1,9}))?")
_ASK = ("squeue", "--noheader", "--format=%A|%i|%T|%r|%N")
_ANSWERS_WITHIN_S = 30.0
_ELSEWHERE = "Run this where Slurm's commands work."


class SlurmSilent(DistwatchError):
    """Slurm's commands are missing here, or its controller does not answer."""


class SlurmJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job that has nodes.

    Attributes:
        job_id: its own number, also of one task of an array.
        step: the step that was asked for; None is the one with ranks.
        nodes: its nodes, the first one first.
    """

    job_id: str
    step: str | None
    nodes: tuple[str, ...]

    def step_on(self, node: str) -> tuple[str, ...]:
        """What begins a command that runs beside the job's own steps on one of its nodes."""
        return (
            "srun", "--overlap", f"--jobid={self.job_id}", "--nodes=1", "--ntasks=1",
            f"--nodelist={node}",
        )  # fmt: skip

    def is_here(self, environ: Mapping[str, str]) -> bool:
        """Whether that environment is of the job's first node, inside the job."""
        there = environ.get("SLURMD_NODENAME") == self.nodes[0]
        return there and environ.get("SLURM_JOB_ID") == self.job_id

    def rank_here(self) -> tuple[int, dict[str, str]]:
        """The pid of a rank of the job on this host, and the environment that it started with.

        Raises:
            NoSuchTarget: there is none.
            UsageError: several steps have ranks, and none was asked for.
        """
        ranks = [
            (sighted.pid, environ)
            for sighted, environ in ranks_here()
            if environ.get("SLURM_JOB_ID") == self.job_id
            and self.step in (None, environ.get("SLURM_STEP_ID"))
        ]
        steps = sorted({environ.get("SLURM_STEP_ID", "batch") for _, environ in ranks})
        if len(steps) > 1:
            raise UsageError(
                f"steps {', '.join(steps)} of job {self.job_id} have ranks",
                advice=f"Name one: --slurm {self.job_id}.{steps[-1]}",
            )
        if not ranks:
            raise NoSuchTarget(
                f"no rank of job {self.job_id} runs on {self.nodes[0]}",
                advice="It may not have begun, or have ended: `distwatch ps` there lists its runs.",
            )
        return min(ranks)


def ask_slurm(word: str) -> SlurmJob:
    """The job with that number: `12`, `12_3` of an array, either with `.STEP`.

    Raises:
        UsageError: it is no such number, or names several tasks of an array.
        NoSuchTarget: Slurm does not know it, or it has no node yet, or none any more.
        SlurmSilent: Slurm cannot be asked.
    """
    said = _WORD.fullmatch(word)
    if said is None:
        raise UsageError(
            f"{word[:80]!r} is no number of a job", advice="For instance 1234, 1234_7 or 1234.0."
        )
    rows = [line.strip().split("|") for line in _squeue(said["job"]).splitlines() if line.strip()]
    living = [row for row in rows if len(row) == 5 and row[4]] or rows
    if not living or len(living[0]) != 5:
        raise NoSuchTarget(
            f"Slurm knows no job {said['job']}",
            advice="`squeue --me` lists yours; of a job that has ended, `distwatch ps` on its nodes the runs.",
        )
    if len(living) > 1:
        raise UsageError(
            f"job {said['job']} is an array: {', '.join(sorted(row[1] for row in living)[:8])} run",
            advice=f"Name one of its tasks: --slurm {living[0][1]}",
        )
    ((job_id, _, state, reason, nodes),) = living
    if not nodes:
        raise NoSuchTarget(
            f"job {said['job']} is {state} ({reason}): no process of it exists",
            advice=f"`squeue --start --jobs={said['job']}` says when it may begin.",
        )
    return SlurmJob(job_id=job_id, step=said["step"], nodes=tuple(named_hosts(nodes)))


def _squeue(job: str) -> str:
    try:
        done = subprocess.run(
            [*_ASK, f"--jobs={job}"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False, timeout=_ANSWERS_WITHIN_S,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmSilent(f"squeue cannot be asked: {error}", advice=_ELSEWHERE) from error
    if done.returncode and "Invalid job id" not in done.stderr:
        raise SlurmSilent(f"squeue: {done.stderr.strip()[:300]}", advice=_ELSEWHERE)
    return done.stdout


def step_into(word: str, root: str, *, once: bool) -> tuple[str, str, str | None, str]:
    """Goes to the job's first node, where it says what to attach to: (pid, root, other nodes, shell).

    Elsewhere it does not return: this process becomes the same command there.

    Raises:
        as `ask_slurm` and `SlurmJob.rank_here`.
    """
    job = ask_slurm(word)
    context = click.get_current_context()
    dir_given = context.get_parameter_source("root") is not ParameterSource.DEFAULT
    if not job.is_here(os.environ):
        _go_there(job, word, _options(context, root if dir_given else None), at_terminal=not once)
    pid, environ = job.rank_here()
    # Where the job's observers were told from the start who is the root, they are linked already.
    linked = ":" in environ.get("DISTWATCH_OBSERVER", "")
    others = None if linked else ",".join(job.nodes[1:]) or None
    return (
        str(pid),
        root if dir_given else run_root(environ),
        others,
        shlex.join(job.step_on("{host}")),
    )


def _options(context: click.Context, root: str | None) -> list[str]:
    """Those of this command that also hold there; colour is decided here, where the terminal is."""
    given = context.params
    flags = {"--once": "once", "--inject": "injects", "--dump-only": "dump_only"}
    options = [flag for flag, name in flags.items() if given[name]]
    options += ["--color", "always" if context.color else "never"]
    options += ["--address", given["address"]] if given["address"] else []
    return [*options, "--dir", root] if root else options


def _go_there(job: SlurmJob, word: str, options: list[str], *, at_terminal: bool) -> NoReturn:
    terminal = ("--pty",) if at_terminal else ()
    again = (sys.executable, "-m", "distwatch", "attach", "--slurm", word, *options)
    command = [*job.step_on(job.nodes[0]), *terminal, *again]
    try:
        os.execvp(command[0], command)
    except OSError as error:
        raise SlurmSilent(f"srun cannot be run: {error}", advice=_ELSEWHERE) from error
