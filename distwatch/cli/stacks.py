"""`distwatch stacks RUN|PID`: one tree of all ranks' stacks."""

from __future__ import annotations

import asyncio

import click
import msgspec

from distwatch.cli.options import newest_run, output_option, root_option
from distwatch.diagnosis.job import Job, main_frames
from distwatch.diagnosis.stack_tree import StackNode, merge
from distwatch.errors import AttachDenied, NoSuchTarget
from distwatch.observer.runs import find_run, find_run_of_pid, load_state
from distwatch.probes import discovery
from distwatch.probes.stacks import take_stack
from distwatch.report.markdown import fence, tree_lines
from distwatch.state.events import Frame, StackTaken

SCHEMA = "distwatch.stacks/1"
_Stacks = dict[int, tuple[Frame, ...]]


@click.command()
@click.argument("target", required=False, metavar="RUN|PID")
@click.option("--native", is_flag=True, help="Also C frames; pauses each rank for a moment.")
@output_option("tree", "json", "md")
@root_option
def command(target: str | None, native: bool, output: str, root: str) -> int:
    """All ranks' Python stacks merged into one tree with rank sets.

    Fresh ones of ranks that live on this node; the last recorded ones of those that do not.
    """
    target = target or newest_run(root)
    stacks, problems = _collect(target, root, native)
    for rank, problem in sorted(problems.items()):
        click.echo(f"distwatch: rank {rank}: {problem}", err=True)
    if not stacks:
        reason = next(iter(problems.values()), "none was recorded")
        error = AttachDenied if "permi" in reason or "ptrace" in reason.lower() else NoSuchTarget
        raise error(f"no stack of {target} could be had: {reason}")
    _print(merge(stacks), output)
    return 6 if problems else 0


def _collect(target: str, root: str, native: bool) -> tuple[_Stacks, dict[int, str]]:
    recorded: _Stacks = {}
    pids: dict[int, int] = {}
    if target.isdigit() and find_run_of_pid(int(target), root) is None:
        for sighted in discovery.job_of(int(target)):
            if sighted.role == "rank" and sighted.identity.global_rank is not None:
                pids[sighted.identity.global_rank] = sighted.pid
        pids = pids or {0: int(target)}
    else:
        job = Job(load_state(find_run(target, root)))
        recorded = {rank: frames for rank, p in job.ranks.items() if (frames := main_frames(p))}
        pids = {
            rank: process.pid for rank, process in job.ranks.items() if process.ended_ns is None
        }
    fresh, problems = asyncio.run(_take(pids, native))
    # A stack from a minute ago beats none, and its rank is named as not fresh.
    return {**recorded, **fresh}, problems


async def _take(pids: dict[int, int], native: bool) -> tuple[_Stacks, dict[int, str]]:
    gate = asyncio.Semaphore(4)

    async def take(rank: int, pid: int) -> tuple[int, StackTaken]:
        async with gate:
            return rank, await take_stack(str(rank), pid, native=native)

    stacks: _Stacks = {}
    problems: dict[int, str] = {}
    for rank, taken in await asyncio.gather(*(take(rank, pid) for rank, pid in pids.items())):
        if taken.threads:
            main = next((t for t in taken.threads if t.name == "MainThread"), taken.threads[0])
            stacks[rank] = main.frames
        else:
            problems[rank] = taken.error or "no threads were seen"
    return stacks, problems


def _print(tree: list[StackNode], output: str) -> None:
    if output == "json":
        document = {"schema": SCHEMA, "stacks": msgspec.to_builtins(tree)}
        click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
    elif output == "md":
        click.echo("\n".join(fence(tree_lines(tree))))
    else:
        click.echo("\n".join(tree_lines(tree)))
