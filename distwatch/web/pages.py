"""The answer of each path: runs, statuses, reports and metrics, made on request."""

from __future__ import annotations

import logging
from urllib.parse import unquote

import msgspec

from distwatch.errors import DistwatchError, NoSuchTarget
from distwatch.observer.journals.pruning import run_folders
from distwatch.observer.journals.reading import any_alive
from distwatch.observer.lock import lock_holder
from distwatch.observer.targets.resolver import resolve
from distwatch.observer.targets.runs import list_runs, runs_document
from distwatch.observer.targets.target import RunHere
from distwatch.report.formats import CONTENT_TYPES, render
from distwatch.report.prometheus import CONTENT_TYPE, render_metrics
from distwatch.report.status import status_document
from distwatch.runfolder import RunFolder
from distwatch.visible_text import visible

log = logging.getLogger("distwatch.web")
_TEXT = "text/plain; charset=utf-8"
_JSON = CONTENT_TYPES["json"]


class Answer(msgspec.Struct, frozen=True):
    """What a client gets."""

    status: int
    content_type: str
    body: bytes


def sentence(status: int, text: str) -> Answer:
    """An answer for people."""
    return Answer(status, _TEXT, f"distwatch: {text}\n".encode("utf-8", "replace"))


class Pages:
    """The pages of the runs under a root; `/` shows `target`, or the newest run.

    No file is opened by a name from a request: the name is compared with the existing names.
    """

    def __init__(self, root: str, target: str | None = None) -> None:
        self._root = root
        self._target = target

    def answer(self, path: str) -> Answer:
        """The answer to a request's path, without its query; it may be read on a terminal."""
        answer = self._answer(path)
        body = visible(answer.body.decode("utf-8", "replace")).encode()
        return msgspec.structs.replace(answer, body=body)

    def _answer(self, path: str) -> Answer:
        parts = [unquote(part) for part in path.split("/")[1:]]
        try:
            match parts:
                case [""]:
                    return self._report(self._named(), "html")
                case ["runs"]:
                    return self._json(runs_document(list_runs(self._root)))
                case ["metrics"]:
                    return self._metrics()
                case ["runs", run_id, "status.json"]:
                    return self._json(status_document(RunHere(self._folder(run_id)).report()))
                case ["runs", run_id, file] if file in _REPORTS:
                    return self._report(self._folder(run_id), _REPORTS[file])
        except NoSuchTarget as error:
            return sentence(404, str(error))
        except DistwatchError as error:
            return sentence(500, str(error))
        return sentence(404, f"there is no such page; the pages are {', '.join(_PAGES)}")

    def _named(self) -> RunFolder:
        return resolve(self._target, self._root).folder()

    def _folders(self) -> list[RunFolder]:
        """The folders of all runs under the root, and of the named run, which may be elsewhere."""
        folders = run_folders(self._root)
        named = self._named() if self._target else None
        if named is None or any(folder.path == named.path for folder in folders):
            return folders
        return [*folders, named]

    def _folder(self, run_id: str) -> RunFolder:
        for folder in self._folders():
            if folder.run_id == run_id:
                return folder
        raise NoSuchTarget("there is no such run", advice="/runs lists the runs.")

    def _metrics(self) -> Answer:
        reports, unreadable = [], []
        for folder in self._folders():
            if any_alive(folder) or lock_holder(folder) is not None:
                try:
                    reports.append(RunHere(folder).report())
                except Exception:
                    # One run that cannot be read must not take the others' numbers with it.
                    log.warning("%s cannot be read", ascii(folder.path), exc_info=True)
                    unreadable.append(folder.run_id)
        return Answer(200, CONTENT_TYPE, render_metrics(reports, unreadable))

    def _report(self, folder: RunFolder, output: str) -> Answer:
        return Answer(200, CONTENT_TYPES[output], render(RunHere(folder).report(), output))

    def _json(self, document: object) -> Answer:
        return Answer(200, _JSON, msgspec.json.encode(document) + b"\n")


_REPORTS = {f"report.{output}": output for output in CONTENT_TYPES}
_PAGES = (
    "/",
    "/runs",
    "/runs/ID/status.json",
    *(f"/runs/ID/{file}" for file in _REPORTS),
    "/metrics",
)
