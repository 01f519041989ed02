"""`distwatch demo`: a real job that hangs, seen live and explained."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import secrets
import subprocess
import tempfile
import time
from typing import TYPE_CHECKING

import click
import psutil

from distwatch.cli.options import root_option
from distwatch.cli.run import environment_for
from distwatch.cli.terminal import echo, echo_verdict, is_terminal
from distwatch.demo import CASES, DEFAULT_CASE, DemoCase, environment
from distwatch.demo import command as job_command
from distwatch.errors import DistwatchError, NoSuchTarget

if TYPE_CHECKING:
    from distwatch.diagnosis.verdict.headline import Headline
    from distwatch.observer.targets.run_source import RunSource
    from distwatch.state.finding import Finding
    from distwatch.state.model import RunState

VERDICT_WITHIN_S = 90.0


class DemoImpossible(DistwatchError):
    """The demo cannot run here."""


@click.command()
@click.argument("case", default=DEFAULT_CASE, type=click.Choice(list(CASES)), metavar="[CASE]")
@click.option("--no-tui", is_flag=True, help="Print the verdict even where there is a terminal.")
@root_option
def command(case: str, no_tui: bool, root: str) -> int:
    """Run a real torchrun job (4 gloo ranks, a small Llama, DDP) that goes wrong, and explain why.

    \b
    Cases: data_stall (default), rank_missing, load_stall, gil_held, exited,
    killed, healthy.
    """
    for module in ("torch", "transformers"):
        if importlib.util.find_spec(module) is None:
            raise DemoImpossible(
                f"the demo needs {module}",
                advice="Install torch, numpy, transformers and safetensors beside distwatch, "
                "or run `make demo` in a checkout.",
            )
    chosen = CASES[case]
    echo(f"demo: {chosen.summary}", err=True)
    with tempfile.TemporaryDirectory(prefix="distwatch-demo-") as folder:
        job = _Job(chosen, folder, root)
        try:
            if is_terminal() and not no_tui:
                return asyncio.run(job.show())
            return asyncio.run(job.explain())
        finally:
            job.end()


class _Job:
    """The demo's job, and how it is watched."""

    def __init__(self, case: DemoCase, folder: str, root: str) -> None:
        self._case = case
        self._root = root
        self._run_id = f"demo-{case.name}-{secrets.token_hex(2)}"
        environ = {**environment_for({"dir": root, "run_id": self._run_id}), **environment()}
        self._log = os.path.join(folder, "job.log")
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                job_command(case.name, folder),
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def show(self) -> int:
        """Shows the TUI while the job hangs."""
        from distwatch.tui.app import DistwatchApp

        source = await self._source()
        await DistwatchApp(source).show()
        # The TUI takes its screen with it: the verdict stays in the scrollback.
        self._print(self._recorded())
        return 0

    async def explain(self) -> int:
        """Waits for the verdict and prints it, with the paths of the report."""
        from distwatch.observer.targets.run_source import SourceLost
        from distwatch.observer.targets.target import report_on

        source = await self._source()
        await source.open()
        try:
            await self._await_verdict(source)
            verdict = report_on(source.state).verdict
        except SourceLost:
            verdict = self._recorded()
        finally:
            await source.close()
        return self._print(verdict)

    def end(self) -> None:
        """Ends the launcher and its ranks; their observer ends by itself, once it has recorded their end."""
        if self._process.poll() is not None:
            return  # its number may be another process's by now
        launcher = psutil.Process(self._process.pid)
        launcher.suspend()  # it starts no rank any more
        # A rank has a session of its own, and is tied to the launcher only once it has imported torch.
        for process in (launcher, *launcher.children()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()

    async def _source(self) -> RunSource:
        """The job's observer, once its first rank has started one."""
        from distwatch.observer.targets.live import LiveRun
        from distwatch.observer.targets.resolver import resolve

        deadline = time.monotonic() + VERDICT_WITHIN_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None and not self._case.expected_code:
                break
            with contextlib.suppress(NoSuchTarget):
                source = resolve(self._run_id, self._root).source()
                if isinstance(source, LiveRun) or self._process.poll() is not None:
                    return source
            await asyncio.sleep(0.2)
        with open(self._log, encoding="utf-8", errors="replace") as log:
            tail = log.read()[-2000:]
        raise DemoImpossible(f"the demo's job did not start:\n{tail}")

    async def _await_verdict(self, source: RunSource) -> None:
        """Reads until the expected finding has its evidence, or the job has ended."""
        from distwatch.diagnosis.verdict.diagnose import diagnose

        deadline = time.monotonic() + VERDICT_WITHIN_S
        while time.monotonic() < deadline:
            ended = self._process.poll() is not None
            await source.wait(1.0)
            await source.poll()
            findings = diagnose(source.state)
            if self._case.expected_code and self._is_complete(findings, source.state):
                break
            # The job's last events have arrived by now: no others will.
            if ended and not self._case.expected_code:
                break

    def _is_complete(self, findings: list[Finding], state: RunState) -> bool:
        if not any(finding.code == self._case.expected_code for finding in findings):
            return False
        recorded = state.recorded_findings
        return (
            bool(recorded) and recorded[0].code == findings[0].code and self._has_evidence(findings)
        )

    def _has_evidence(self, findings: list[Finding]) -> bool:
        root = findings[0]
        dead = root.severity == "crash"
        return dead or any(evidence.source == "stack" for evidence in root.evidence)

    def _recorded(self) -> Headline:
        from distwatch.observer.targets.resolver import resolve

        return resolve(self._run_id, self._root).report().verdict

    def _print(self, verdict: Headline) -> int:
        from distwatch.observer.targets.resolver import resolve

        folder = resolve(self._run_id, self._root).folder()
        echo_verdict(verdict)
        for name in ("report.md", "report.html"):
            if os.path.exists(path := f"{folder.incidents}/1/{name}"):
                echo(path)
        echo(f"demo: `distwatch report {self._run_id}` prints the whole report", err=True)
        found = verdict.suspicion is None and (verdict.code, verdict.culprit_ranks)
        return 0 if found == (self._case.expected_code, self._case.culprit_ranks) else 1
