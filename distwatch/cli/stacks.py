"""`distwatch stacks RUN|PID`: one tree of all ranks' stacks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import click
import msgspec

from distwatch.cli.options import output_option, put_out, root_option
from distwatch.cli.terminal import echo, echo_json
from distwatch.diagnosis.facts.outside_view import largest_job
from distwatch.errors import AttachDenied, NoSuchTarget
from distwatch.observer.journals.reading import lives
from distwatch.observer.targets.foreign_job import ForeignJob
from distwatch.observer.targets.resolver import resolve
from distwatch.observer.targets.target import Target
from distwatch.probes.stacks import take_stack
from distwatch.report.markdown import fence, tree_lines
from distwatch.report.speedscope import speedscope
from distwatch.report.stacks import none_recorded, stacks_document
from distwatch.runfolder import host_name
from distwatch.state.events import Frame, StackTaken, ThreadStack
from distwatch.state.observer_events import MAIN_THREAD
from distwatch.state.rank_sets import format_ranks, name_ranks
from distwatch.views.stack_tree import StackNode, merge
from distwatch.visible_text import visible_line

_Stacks = dict[int, tuple[ThreadStack, ...]]


class Collected(msgspec.Struct, kw_only=True):
    """Threads by global rank, the main thread first; and which stacks are old or missing."""

    run_id: str | None = None
    fresh: _Stacks = {}
    recorded: _Stacks = {}
    problems: dict[int, str] = {}

    @property
    def stacks(self) -> _Stacks:
        """All of them: a recorded stack is better than none."""
        return {**self.recorded, **self.fresh}

    def by_thread(self, *, all_threads: bool) -> dict[str, dict[int, tuple[Frame, ...]]]:
        """By thread name: frames by global rank; only of the main thread unless `all_threads`."""
        found: dict[str, dict[int, tuple[Frame, ...]]] = {MAIN_THREAD: {}}
        for rank, threads in self.stacks.items():
            found[MAIN_THREAD][rank] = threads[0].frames
            for number, thread in enumerate(threads[1:] if all_threads else (), 1):
                name = thread.name or f"unnamed thread {number}"
                held = found.setdefault(name, {})
                held.setdefault(rank, thread.frames)
        return {name: stacks for name, stacks in found.items() if stacks}

    @property
    def old(self) -> list[int]:
        return sorted(set(self.recorded) - set(self.fresh))


@click.command()
@click.argument("target", required=False, metavar="[RUN|PID]")
@click.option("--native", is_flag=True, help="Also show C frames; pauses each rank for a moment.")
@click.option("--threads", is_flag=True, help="Show all threads (default: main threads only).")
@output_option("tree", "json", "speedscope", "md")
@root_option
def command(target: str | None, native: bool, threads: bool, output: str, root: str) -> int:
    """Merge all ranks' Python stacks into one tree with rank sets.

    Stacks of ranks that live on this node are taken now; for other ranks, the last recorded ones are
    shown. Exits with 6 if a rank's stack is not known. `-o speedscope` is for
    https://www.speedscope.app (or `npx speedscope FILE`), where each rank weighs 1.
    """
    collected = collect(resolve(target, root), native=native)
    _print(collected, output, all_threads=threads)
    return 6 if collected.problems else 0


def collect(target: Target, *, native: bool = False) -> Collected:
    """Stacks of all ranks of a run or a foreign job; reports on stderr what is old or missing.

    Raises:
        NoSuchTarget: there is no such run, or no stack of it.
        AttachDenied: the system does not permit it.
    """
    if isinstance(target, ForeignJob):
        fresh, problems = asyncio.run(_take(target.rank_pids(), native))
        collected = Collected(fresh=fresh, problems=problems)
    else:
        collected = _of_run(target, native)
    if collected.old:
        ranks = format_ranks(collected.old)
        echo(f"distwatch: last recorded stacks, not current ones: ranks {ranks}", err=True)
    for problem, affected in _by_problem(collected.problems).items():
        who = name_ranks(affected)
        echo(f"distwatch: {who}: {problem}", err=True)
    if not collected.stacks:
        reason = next(iter(collected.problems.values()), "none was recorded")
        error = AttachDenied if "permi" in reason or "ptrace" in reason.lower() else NoSuchTarget
        raise error(f"could not get any stack of {target.name}: {reason}")
    return collected


def speedscope_file(collected: Collected, *, all_threads: bool) -> bytes:
    """The stacks as a file for speedscope, on one line."""
    by_thread = collected.by_thread(all_threads=all_threads)
    return msgspec.json.encode(speedscope(collected.run_id or "distwatch", by_thread)) + b"\n"


def _of_run(target: Target, native: bool) -> Collected:
    state = target.state()
    ranks = largest_job(state).ranks
    recorded = {
        rank: threads
        for rank, process in ranks.items()
        if (stack := process.outside.stack) and (threads := stack.main_first(process.pid))
    }
    here = host_name()
    living = {
        rank: process.pid
        for rank, process in ranks.items()
        if process.host == here and lives(process.key)
    }
    fresh, problems = asyncio.run(_take(living, native))
    for rank, process in ranks.items():
        if rank not in living and rank not in recorded:
            problems[rank] = none_recorded(process)
    return Collected(run_id=state.run_id, fresh=fresh, recorded=recorded, problems=problems)


def _by_problem(problems: dict[int, str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for rank, problem in sorted(problems.items()):
        found.setdefault(problem, []).append(rank)
    return found


async def _take(pids: dict[int, int], native: bool) -> tuple[_Stacks, dict[int, str]]:
    gate = asyncio.Semaphore(4)

    async def take(rank: int, pid: int) -> tuple[int, StackTaken]:
        async with gate:
            return rank, await take_stack(str(rank), pid, native=native)

    stacks: _Stacks = {}
    problems: dict[int, str] = {}
    for rank, taken in await asyncio.gather(*(take(rank, pid) for rank, pid in pids.items())):
        if taken.threads:
            stacks[rank] = taken.main_first(pids[rank])
        else:
            problems[rank] = taken.error or "no threads were seen"
    return stacks, problems


def _print(collected: Collected, output: str, *, all_threads: bool) -> None:
    if output == "speedscope":
        put_out(speedscope_file(collected, all_threads=all_threads), None)
        return
    by_thread = collected.by_thread(all_threads=all_threads)
    trees = {name: merge(stacks) for name, stacks in by_thread.items()}
    if output == "json":
        document = stacks_document(
            collected.run_id,
            trees.get(MAIN_THREAD, []),
            recorded=collected.old,
            unobserved=collected.problems,
            threads=trees if all_threads else None,
        )
        echo_json(document)
        return
    lines = [visible_line(line) for line in _lines(trees, titled=all_threads)]
    echo("\n".join(fence(lines) if output == "md" else lines))


def _lines(trees: dict[str, list[StackNode]], *, titled: bool) -> Iterable[str]:
    for name, tree in trees.items():
        if titled:
            yield f"thread {name}"
        yield from tree_lines(tree, 1 if titled else 0)
