"""The documents of each path: runs, statuses, reports and metrics, made on request."""

from __future__ import annotations

import logging

from distwatch.errors import NoSuchTarget
from distwatch.observer.journals.pruning import run_folders
from distwatch.observer.journals.reading import any_alive
from distwatch.observer.lock import lock_holder
from distwatch.observer.targets.resolver import resolve
from distwatch.observer.targets.runs import list_runs, runs_document
from distwatch.observer.targets.target import RunHere
from distwatch.report.formats import CONTENT_TYPES, render
from distwatch.report.prometheus import CONTENT_TYPE, render_metrics
from distwatch.report.stacks import recorded_stacks_document
from distwatch.report.status import rank_document, status_document
from distwatch.runfolder import RunFolder
from distwatch.state.bounds import whole_number
from distwatch.visible_text import visible
from distwatch.web.answer import Answer, document

log = logging.getLogger("distwatch.web")


class Pages:
    """The documents of the runs under a root; `target`, or the newest run, is the first page.

    No file is opened by a name from a request: the name is compared with the existing names.
    """

    def __init__(self, root: str, target: str | None = None) -> None:
        self.root = root
        self._target = target

    def named(self) -> RunFolder:
        """The run of the first page; raises NoSuchTarget where there is none."""
        return resolve(self._target, self.root).folder()

    def folder(self, run_id: str) -> RunFolder:
        """The run of that name; raises NoSuchTarget where there is none."""
        for folder in self._folders():
            if folder.run_id == run_id:
                return folder
        raise NoSuchTarget("there is no such run", advice="/runs lists the runs.")

    def runs(self) -> Answer:
        """As `distwatch ps -o json`, with every run."""
        return _visible(document(runs_document(list_runs(self.root))))

    def report(self, run_id: str, output: str) -> Answer:
        """As `distwatch report`."""
        report = RunHere(self.folder(run_id)).report()
        return Answer(200, CONTENT_TYPES[output], render(report, output))

    def status(self, run_id: str) -> Answer:
        """As `distwatch status -o json`."""
        return _visible(document(status_document(RunHere(self.folder(run_id)).report())))

    def rank(self, run_id: str, number: str) -> Answer:
        """One rank, as a line of `distwatch status -o ndjson`."""
        wanted = whole_number(number)
        for rank in RunHere(self.folder(run_id)).report().ranks:
            if rank.global_rank == wanted:
                return _visible(document(rank_document(rank)))
        raise NoSuchTarget("there is no such rank in this run")

    def stacks(self, run_id: str) -> Answer:
        """As `distwatch stacks -o json`, of what is recorded: nothing is asked of the ranks."""
        return _visible(document(recorded_stacks_document(RunHere(self.folder(run_id)).state())))

    def metrics(self) -> Answer:
        """Of all living runs."""
        reports, unreadable = [], []
        for folder in self._folders():
            if any_alive(folder) or lock_holder(folder) is not None:
                try:
                    reports.append(RunHere(folder).report())
                except Exception:
                    # One run that cannot be read must not take the others' numbers with it.
                    log.warning("%s cannot be read", ascii(folder.path), exc_info=True)
                    unreadable.append(folder.run_id)
        return _visible(Answer(200, CONTENT_TYPE, render_metrics(reports, unreadable)))

    def _folders(self) -> list[RunFolder]:
        """The folders of all runs under the root, and of the named run, which may be elsewhere."""
        folders = run_folders(self.root)
        named = self.named() if self._target else None
        if named is None or any(folder.path == named.path for folder in folders):
            return folders
        return [*folders, named]


def _visible(answer: Answer) -> Answer:
    """The same answer, which may be read on a terminal."""
    body = visible(answer.body.decode("utf-8", "replace")).encode()
    return Answer(answer.status, answer.content_type, body)
