"""`distwatch check PLAN`: checks a plan against its world and this machine, before a launch."""

from __future__ import annotations

import sys
from itertools import islice
from typing import Any

import click
import msgspec

from distwatch.cli.options import WholeNumber, color_option, exit_code, output_option, root_option
from distwatch.cli.terminal import echo, echo_json, styled, verdict_style
from distwatch.diagnosis.facts.worlds import worlds_of
from distwatch.errors import NoSuchTarget, UsageError
from distwatch.foreign_files import FileRefused, read_named
from distwatch.preflight.model_config import read_model
from distwatch.preflight.plan import Plan
from distwatch.preflight.plan_against_job import JobLayout, compare_with_job
from distwatch.preflight.plan_check import CheckResult, examine_sections
from distwatch.preflight.plan_file import read_plans
from distwatch.preflight.rank_groups import Axis
from distwatch.preflight.values import SIZE_LIMIT, Section
from distwatch.state.codes import code_of
from distwatch.state.layouts import layout_of
from distwatch.state.model import RunState
from distwatch.visible_text import visible_line

SCHEMA = "distwatch.check/1"
_HELPS = {
    "world_size": "Number of ranks.",
    "nodes": "Number of hosts.",
    "ranks_per_node": "Ranks on each host.",
    "tensor": "Ranks that share a tensor.",
    "pipeline": "Stages.",
    "context": "Ranks that share a sequence.",
    "expert": "Ranks that share the experts.",
    "data": "Replicas (default: what the other sizes leave).",
}
_SHOWN = 4
_LARGEST = 4 << 20
_MOST_RANKS = 20_000


def _sizes(function: Any) -> Any:
    """Adds an option for each size of a plan, named after its field."""
    for name, text in reversed(_HELPS.items()):
        option = f"--{name.replace('_', '-')}"
        sizes = WholeNumber(1, SIZE_LIMIT)
        function = click.option(option, name, type=sizes, metavar="N", help=text)(function)
    return function


@click.command()
@click.argument("plan", required=False, metavar="[PLAN|-]")
@_sizes
@click.option("--backend", metavar="NAME", help="gloo, nccl, xla, …")
@click.option("--model", metavar="DIR", help="Folder with the model's config.json.")
@click.option(
    "--against", metavar="RUN|PID", help="Also compare the plan with the layout of this run."
)
@root_option
@output_option("table", "json", "md")
@color_option
def command(plan: str | None, output: str, against: str | None, root: str, **options: Any) -> int:
    """Check a plan before a launch: sizes that do not divide, the groups, what this machine lacks.

    PLAN is YAML with distwatch's keys (tensor: 2, pipeline: 4, …) or a training framework's file
    (tensor_model_parallel_size and the like, anywhere in it; files of Hydra's defaults list are read, too).
    Options override the file's values, in each of its layouts; without a file, the options are the plan.
    """
    given = _given(**options)
    if plan is None and not given:
        raise UsageError(
            "there is no plan to check",
            advice="distwatch check PLAN.yaml, or distwatch check --world-size 16 --tensor 4",
        )
    sections = _read(plan) if plan else [Section(name="options", plan=Plan())]
    results = examine_sections([_with_options(section, given) for section in sections])
    if against is not None:
        results = _compared(results, against, root)
    if output == "json":
        echo_json(_document(results))
    else:
        for number, result in enumerate(results):
            if number:
                echo()
            _print(result, markdown=output == "md")
    return exit_code([finding for result in results for finding in result.findings])


def _compared(results: list[CheckResult], against: str, root: str) -> list[CheckResult]:
    """Adds the differences between each layout and the job."""
    from distwatch.observer.targets.resolver import resolve

    job = _layouts_of_job(resolve(against, root).state())
    return [
        msgspec.structs.replace(one, findings=[*one.findings, *compare_with_job(one.section, job)])
        for one in results
    ]


def _layouts_of_job(state: RunState) -> list[JobLayout]:
    """The parallel states that a run's ranks hold: one for each framework of each world."""
    found = []
    for world in worlds_of(state):
        for framework in dict.fromkeys(name for process in world for name in process.layouts):
            held = {
                process.global_rank: process.layouts[framework]
                for process in world
                if framework in process.layouts and process.global_rank is not None
            }
            sizes = [process.world_size for process in world if process.world_size]
            size = max(sizes, default=len(held))
            found.append(JobLayout(framework=framework, world=size, layout=layout_of(held)))
    return found


def _given(backend: str | None, model: str | None, **sizes: int | None) -> dict[str, Any]:
    """The fields of a plan that the options set."""
    given: dict[str, Any] = {name: size for name, size in sizes.items() if size is not None}
    if backend:
        given["backend"] = backend.lower()
    if model:
        facts = msgspec.structs.asdict(read_model(model))
        given |= {name: value for name, value in facts.items() if value not in (None, False)}
    return given


def _read(plan: str) -> list[Section]:
    try:
        if plan == "-":
            return read_plans(sys.stdin.buffer.read(_LARGEST).decode("utf-8"), "stdin")
        return read_plans(read_named(plan, _LARGEST).decode("utf-8"), plan, composes=True)
    except FileNotFoundError:
        raise NoSuchTarget(
            f"there is no file {plan}", advice="Name a YAML file, or - for stdin."
        ) from None
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{plan} is not a text file: {error}", advice="Name a YAML file."
        ) from None
    except FileRefused as error:
        raise UsageError(str(error), advice="Name a YAML file, or - for stdin.") from None


def _with_options(section: Section, given: dict[str, Any]) -> Section:
    changes = dict(given)
    # A number of ranks from the command line is not to be held against the file's nodes.
    if "world_size" in given:
        changes.setdefault("nodes", None if section.plan.ranks_per_node else section.plan.nodes)
    elif "nodes" in given or "ranks_per_node" in given:
        changes["world_size"] = None
    plan = msgspec.structs.replace(section.plan, **changes)
    left = tuple(axis for axis in section.undecided if axis not in given)
    return msgspec.structs.replace(section, plan=plan, undecided=left)


def _document(results: list[CheckResult]) -> dict[str, Any]:
    layouts = [
        {
            "name": one.section.name,
            "world_size": one.section.plan.ranks,
            "plan": {
                k: v for k, v in msgspec.to_builtins(one.section.plan).items() if v is not None
            },
            "axes": [_axis(axis) for axis in one.axes],
            "undecided": one.section.undecided,
            "notes": one.section.notes,
            "findings": msgspec.to_builtins(one.findings),
        }
        for one in results
    ]
    sound = not any(finding.blocks for one in results for finding in one.findings)
    return {"schema": SCHEMA, "sound": sound, "layouts": layouts}


def _axis(axis: Axis) -> dict[str, Any]:
    """At most `_MOST_RANKS` ranks are listed; size, stride and count describe the rest."""
    groups = list(islice(axis.groups(), _MOST_RANKS // axis.size))
    return {
        **msgspec.to_builtins(axis),
        "groups": [list(group) for group in groups],
        "groups_left_out": axis.count - len(groups),
    }


def _print(result: CheckResult, *, markdown: bool) -> None:
    from distwatch.cli.tables import lay_out, terminal_width

    section = result.section
    name = visible_line(section.name)
    echo(f"## {name}\n" if markdown else styled(name))
    echo(visible_line(_heading(section)))
    if result.axes:
        rows: list[tuple[str, ...]] = [("AXIS", "RANKS", "GROUPS", "MEMBERS")]
        rows += [
            (axis.name, str(axis.size), str(axis.count), _members(axis)) for axis in result.axes
        ]
        for line in ([""] if markdown else []) + lay_out(
            rows, markdown=markdown, width=terminal_width()
        ):
            echo(line if markdown else f"  {line}")
        if markdown:
            echo()
    for finding in result.findings:
        severity = verdict_style(finding.severity, f"{finding.severity}:")
        echo("- " if markdown else "", severity, f" {visible_line(finding.summary)}")
        if code_of(finding.code).compares:
            for evidence in finding.evidence:
                echo(f"    {visible_line(evidence.text)}")
        if finding.advice:
            echo(f"  do: {visible_line(finding.advice)}")
    if not result.findings:
        echo("- sound" if markdown else "sound")
    for note in section.notes:
        echo(f"distwatch: {name}: {visible_line(note)}", err=True)


def _heading(section: Section) -> str:
    plan = section.plan
    ranks = f"{plan.ranks} ranks" if plan.ranks else "an unknown number of ranks"
    if plan.nodes and plan.ranks_per_node:
        ranks += f" ({plan.nodes} × {plan.ranks_per_node})"
    words = [ranks, *filter(None, (plan.framework, plan.backend))]
    words += [
        f"{name} {size}"
        for name, size in (*plan.replica.items(), ("expert", plan.expert))
        if size > 1
    ]
    if plan.timeout_s:
        words.append(f"timeout {plan.timeout_s:g} s")
    return ", ".join(words)


def _members(axis: Axis) -> str:
    shown = [_ranks(group) for group in islice(axis.groups(), _SHOWN)]
    more = f" … {axis.count - _SHOWN} more" if axis.count > _SHOWN else ""
    return " ".join(f"[{group}]" for group in shown) + more


def _ranks(group: range) -> str:
    if group.step == 1 and len(group) > 1:
        return f"{group[0]}-{group[-1]}"
    if len(group) <= _SHOWN:
        return ",".join(map(str, group))
    return f"{group[0]},{group[1]},…,{group[-1]}"
