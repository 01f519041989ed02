"""The detail of a rank or process: identity, steps, groups, operations, stack, end, evidence."""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.diagnosis.facts.framework_places import places_of
from distwatch.diagnosis.facts.operations import operation_name
from distwatch.state.events import ThreadStack
from distwatch.state.model import Process, Step
from distwatch.tui.cells import format_age, format_bytes, state_cell
from distwatch.tui.picture import Picture
from distwatch.tui.styles import CULPRIT, FAINT, MUTED, RED, STRONG, UNKNOWN, YELLOW
from distwatch.tui.views.line import join_lines, section
from distwatch.tui.visible_text import Text
from distwatch.views.event_text import event_text
from distwatch.views.ray_rows import rank_row

_CLOSED_STEPS = 6
_OPERATIONS = 10


def rank_detail(picture: Picture, global_rank: int) -> Text | None:
    """Everything about a rank, including unobserved ranks."""
    status = picture.status(global_rank)
    if status is None:
        return None
    head = Text.assemble((f"rank {global_rank}", STRONG), "  ", state_cell(status))
    if global_rank in picture.culprits:
        head.append(f"  {CULPRIT} blamed by the verdict", f"bold {RED}")
    lines = [head, Text(status.doing or UNKNOWN)]
    if status.where:
        since = f", no progress for {format_age(status.since_s)}" if status.blocked else ""
        lines.append(Text.assemble(f"at {status.where}", (since, YELLOW)))
    lines += section("evidence", list(_evidence(picture, global_rank)))
    if (row := rank_row(picture.state, global_rank)) is not None:
        lines.append(
            Text.assemble((f"Ray: {row.name} ", MUTED), (row.state, YELLOW), f"  {row.text}")
        )
    process = picture.process(global_rank)
    if process is None:
        lines.append(Text("no process of this rank was ever seen", YELLOW))
        return join_lines(lines)
    return join_lines([*lines, *_process_lines(picture, process)])


def process_detail(picture: Picture, process: Process) -> Text:
    """Everything about a process that is not a rank."""
    head = Text(f"{process.role} pid {process.pid} on {process.host}", STRONG)
    return join_lines([head, *_process_lines(picture, process)])


def _process_lines(picture: Picture, process: Process) -> Iterable[Text]:
    host = picture.state.hosts.get(process.host)
    now_ns = host.now_ns if host else process.last_ns
    yield from section("identity", list(_identity(process)))
    yield from section("exception", list(exception_lines(process)))
    yield from section("end", list(end_lines(process)))
    yield from section("steps", list(step_lines(process, now_ns)))
    yield from section("groups", list(_groups(process, now_ns)))
    yield from section("operations, newest last", list(operation_lines(process, now_ns)))
    yield from section(_stack_title(process, now_ns), list(_stack(process)))
    yield from section("kernel", list(_kernel(process)))
    yield from section("integrations", list(_integrations(process)))
    yield from section("not observed", list(_not_observed(process)))


def _pairs(*told: tuple[str, object]) -> Iterable[Text]:
    """Known values with their names; None and empty values are left out."""
    for name, value in told:
        if value not in (None, ""):
            yield Text.assemble((f"{name:<14} ", MUTED), str(value))


def _evidence(picture: Picture, global_rank: int) -> Iterable[Text]:
    for finding in picture.shown_findings:
        blamed = global_rank in finding.culprit_ranks
        if not blamed and global_rank not in finding.waiting_ranks:
            continue
        role = "culprit" if blamed else "waits"
        told = "suspected" if finding is picture.verdict.suspicion else finding.role
        yield Text.assemble((f"{finding.code} ", STRONG), (f"({told}, {role})", MUTED))
        for evidence in finding.evidence:
            if evidence.global_rank in (None, global_rank):
                text = evidence.text.replace("\n", "\n      ")
                yield Text.assemble((f"  {evidence.source}: ", MUTED), text)


def _identity(process: Process) -> Iterable[Text]:
    identity, worker = process.identity, process.worker
    world = process.world_size if process.world_size is not None else "not known"
    source = "torch" if process.confirmed else "its environment"
    yield from _pairs(
        ("process", f"pid {process.pid} on {process.host}, parent {process.ppid}"),
        ("rank", f"{process.global_rank} of {world} (from {source})"),
        ("local rank", identity.local_rank),
        ("node rank", identity.node_rank),
        ("restart", identity.restart or None),
        ("endpoint", identity.endpoint),
        *(("place", place) for place in places_of(process)),
        ("launcher", identity.launcher),
        ("actor", process.actor if worker else ""),
        ("actor id", worker.actor_id if worker else ""),
        ("Ray job", worker.job_id if worker else ""),
        ("Ray node", worker.node_id if worker else ""),
        ("command", " ".join(process.command) or UNKNOWN),
    )
    if not process.instrumented:
        yield Text("runs without distwatch: seen only from outside", YELLOW)


def exception_lines(process: Process) -> Iterable[Text]:
    """The exception that ended it, with its traceback."""
    error = process.exception
    if error is None:
        return
    yield Text(f"{error.type_name}: {error.message}", f"bold {RED}")
    if error.site:
        yield Text(f"at {error.site}")
    for part in error.traceback:
        yield from (Text(line, FAINT) for line in part.splitlines())


def end_lines(process: Process) -> Iterable[Text]:
    """How it ended; nothing while it lives."""
    if process.outside.exit is not None:
        yield Text(event_text(process.outside.exit), RED)
        if process.outside.exit.how:
            yield Text(f"source: {process.outside.exit.how}", MUTED)
    if process.ending is not None:
        yield Text(f"ended normally: {process.ending.reason}")


def step_lines(process: Process, now_ns: int, *, outermost: bool = False) -> Iterable[Text]:
    """Its newest completed steps, then those that it is in; or of the completed only the outermost."""
    closed = [
        step
        for step in process.steps.values()
        if step.ended_ns is not None and not (outermost and step.parent is not None)
    ]
    for step in sorted(closed, key=lambda step: step.step)[-_CLOSED_STEPS:]:
        yield Text.assemble(("✓ " if not step.error else "✗ ", MUTED), _step(step, now_ns))
    for step in process.open_steps():
        yield Text.assemble(("… ", YELLOW), _step(step, now_ns))


def _step(step: Step, now_ns: int) -> Text:
    end_ns = step.ended_ns if step.ended_ns is not None else now_ns
    text = Text.assemble((step.name, STRONG), f" {step.label}".rstrip())
    if step.total is not None:
        text.append(f" {step.done} of {step.total}")
    text.append(f"  {format_age(max(0, end_ns - step.started_ns) / 1e9)}", MUTED)
    if step.ended_ns is None and step.deadline_s is not None:
        text.append(f" of {format_age(step.deadline_s)} allowed", MUTED)
    if step.error:
        text.append(f"  {step.error}", RED)
    if step.site:
        text.append(f"  {step.site}", FAINT)
    return text


def _groups(process: Process, now_ns: int) -> Iterable[Text]:
    pulse = process.outside.pulse
    progress = {p.pg_name: p for p in (pulse.groups if pulse else ())}
    for group in process.groups.values():
        axis = f", axis {group.axis}" if group.axis else ""
        name = f"{group.pg_desc or 'group'} ({group.pg_name}, {group.backend or '?'}{axis})"
        seen = progress.get(group.pg_name)
        if group.destroyed_ns is not None:
            yield Text(f"{name}: destroyed", FAINT)
        elif seen is None:
            yield Text(f"{name}: progress not observed", MUTED)
        else:
            moved = format_age(max(0, now_ns - seen.changed_ns) / 1e9)
            yield Text(
                f"{name}: entered #{seen.enqueued}, completed #{seen.completed}, last moved {moved} ago"
            )


def operation_lines(process: Process, now_ns: int) -> Iterable[Text]:
    """Its newest calls of a process group, the newest last."""
    for operation in process.outside.operations[-_OPERATIONS:]:
        number = f" #{operation.seq}" if operation.seq >= 0 else ""
        size = f" {operation.numel} × {operation.dtype}" if operation.numel >= 0 else ""
        peer = f" with {operation.peer}" if operation.peer >= 0 else ""
        took_ns = (operation.left_ns or now_ns) - operation.entered_ns
        state = "took" if operation.left_ns else "has not returned for"
        site = process.sites.get(operation.site)
        yield Text.assemble(
            f"{operation_name(operation.op)}{number} in {operation.pg_name}{size}{peer}  ",
            (f"{state} {format_age(max(0, took_ns) / 1e9)}", MUTED if operation.left_ns else YELLOW),
            (f"  {site}" if site else "", FAINT),
        )  # fmt: skip


def _stack_title(process: Process, now_ns: int) -> str:
    if process.outside.stack_ns is None:
        return "stack"
    age = format_age(max(0, now_ns - process.outside.stack_ns) / 1e9)
    return f"stack, innermost frame last, taken {age} ago"


def _stack(process: Process) -> Iterable[Text]:
    stack = process.outside.stack
    if stack is None:
        yield Text(
            f"not observed: {process.outside.not_observed.get('stack', 'none was taken')}", MUTED
        )
        return
    for thread in stack.main_first(process.pid):
        yield from thread_lines(thread)


def thread_lines(thread: ThreadStack) -> Iterable[Text]:
    """A thread's name and frames, the outermost first."""
    marks = [
        word for word, on in (("active", thread.active), ("owns the GIL", thread.owns_gil)) if on
    ]
    name = thread.name or f"thread {thread.os_thread_id}"
    yield Text.assemble((name, STRONG), (f"  {', '.join(marks)}" if marks else "", MUTED))
    for frame in thread.frames:
        place = f"{frame.file}:{frame.line}" if frame.line else frame.file
        yield Text.assemble(f"  {frame.function}  ", (place, FAINT))


def _kernel(process: Process) -> Iterable[Text]:
    sample = process.outside.sample
    if sample is None:
        return
    yield from _pairs(
        ("state", sample.state),
        ("cpu time", UNKNOWN if sample.cpu_s is None else f"{sample.cpu_s:.1f} s"),
        ("memory", format_bytes(sample.rss_bytes)),
        ("waits in", sample.wchan),
        ("call", sample.syscall),
        ("on", sample.blocked_on),
    )


def _integrations(process: Process) -> Iterable[Text]:
    for name, change in sorted(process.integrations.items()):
        reason = f": {change.reason}" if change.reason else ""
        told = f"{change.status} {change.version}{reason}".replace(" :", ":").rstrip()
        yield from _pairs((name, told))
    for hook, error in process.hook_failures.items():
        yield Text(f"{hook} switched itself off: {error}", YELLOW)


def _not_observed(process: Process) -> Iterable[Text]:
    yield from _pairs(*process.outside.not_observed.items())
    if process.gaps:
        yield Text(f"{process.gaps} events were lost", YELLOW)
