"""DISTWATCH_ON_HANG=restart-node: marks the host of a failed device or port, and calls a command to drain it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable

import msgspec

from distwatch.diagnosis.facts.case import Case
from distwatch.foreign_files import write_whole
from distwatch.observer.background import end_tasks, in_background
from distwatch.observer.journals.recording import Recording
from distwatch.observer.responses.delivery import notice_environment, run_command
from distwatch.observer.responses.endings import SURE
from distwatch.report.notice import Notice
from distwatch.runfolder import RunFolder, folder_name, make_private
from distwatch.state import events as ev
from distwatch.state.finding import Finding
from distwatch.state.model import RunState
from distwatch.visible_text import visible_line

RESTART_NODE = "restart-node"
WITHIN_S = 60.0
PAUSES_S = (5.0, 20.0)


class Drains:
    """Marks each host once in a run."""

    def __init__(
        self, folder: RunFolder, state: RunState, recording: Recording, command: str
    ) -> None:
        self._folder = folder
        self._recording = recording
        self._command = command
        self._marked = {host.host for host in state.hosts.values() if host.marked is not None}
        self._tasks: set[asyncio.Task[None]] = set()

    def consider(self, incident: int, findings: Iterable[Finding], cases: list[Case]) -> None:
        """Marks the hosts of this verdict; `incident` is complete on disk."""
        for finding in findings:
            for node in sorted(nodes_to_drain(finding, cases) - self._marked):
                self._marked.add(node)
                task = asyncio.get_running_loop().create_task(self._mark(node, incident, finding))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def holds_on(self) -> bool:
        return bool(self._tasks)

    async def close(self) -> None:
        await end_tasks(*self._tasks)

    async def _mark(self, node: str, incident: int, finding: Finding) -> None:
        mark = ev.NodeMarked(
            host=self._recording.header.host,
            node=node,
            incident=incident,
            code=finding.code,
            summary=visible_line(finding.summary)[:500],
        )
        try:
            folder = os.path.join(self._folder.path, "drain")
            make_private(folder)
            write_whole(f"{folder}/{folder_name(node)}.json", msgspec.json.encode(mark) + b"\n")
        except OSError as error:
            self._recording.miss("drain", f"the mark of {node} was not written: {error}")
        self._recording.record(mark)
        self._recording.flush()
        if self._command:
            drained = await self._drain(mark, finding)
            self._recording.record(msgspec.structs.replace(mark, drained=drained))
            self._recording.flush()

    async def _drain(self, mark: ev.NodeMarked, finding: Finding) -> str:
        notice = Notice(
            phase="new",
            run=self._folder.run_id,
            incident=mark.incident,
            severity=finding.severity,
            code=mark.code,
            summary=mark.summary,
            culprit_ranks=finding.culprit_ranks,
            hosts=(mark.node,),
        )
        variables = {**notice_environment(notice), "DISTWATCH_DRAIN_HOST": mark.node}
        given, said = msgspec.json.encode(mark) + b"\n", ""
        for pause_s in (*PAUSES_S, None):
            ended = await in_background(
                run_command, self._command, variables, given, WITHIN_S, within_s=None
            )
            if ended.code == 0:
                return "the drain command has ended well"
            how = "did not end in time" if ended.code is None else f"ended with {ended.code}"
            said = f"the drain command {how}{': ' + ended.said if ended.said else ''}"
            if pause_s is None:
                break
            await asyncio.sleep(pause_s)
        self._recording.miss("drain", f"{mark.node}: {said}")
        return said


def nodes_to_drain(finding: Finding, cases: list[Case]) -> set[str]:
    """The hosts of the culprits whose device or port has failed, where their job asked for it."""
    failed = finding.code.startswith("device.") or finding.code == "network.link_error"
    if not failed or not finding.blocks or finding.role != "root" or finding.confidence < SURE:
        return set()
    culprits = (
        case.job.ranks[rank]
        for case in cases
        for rank in finding.culprit_ranks
        if rank in case.job.ranks
    )
    return {p.host for p in culprits if p.started is not None and p.started.on_hang == RESTART_NODE}
