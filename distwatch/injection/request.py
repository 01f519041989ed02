"""Asks a process to take distwatch in, and waits for its answer."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import time
from collections.abc import Mapping

from distwatch.foreign_files import open_ours, read_ours
from distwatch.injection.refusal import NoThreadWaits, Refused, require_injectable
from distwatch.injection.remote_exec import run_at_next_bytecode
from distwatch.injection.thread_start import run_python
from distwatch.runfolder import RunFolder, host_name, start_ticks
from distwatch.state.steps import DEADLINES

TAKEN_WITHIN_S = 3.0
DONE_WITHIN_S = 20.0
HUNG_AFTER_S = 5.0
"""The deadline of everything while somebody is attached; then the job's own or the usual ones hold."""
_LONGEST = 4096
_HERE = os.path.dirname(os.path.abspath(__file__))


def bring_in(pid: int, folder: RunFolder, role: str, *, for_good: bool) -> None:
    """Brings the agent into a process of this user; blocks until it runs there and has dumped.

    Args:
        folder: the run that the agent enters.
        role: what the process is in its job.
        for_good: else it leaves when it is asked to, or when this process has ended; until then
            everything has a deadline of HUNG_AFTER_S.

    Raises:
        Refused: it was not brought in, and why.
        OSError: the run folder cannot be written.
    """
    require_injectable(pid)
    if not _sees_same(pid, folder.path) or not _sees_same(pid, _HERE):
        raise Refused(
            f"process {pid} is in a container that does not see {folder.path} or distwatch's own "
            "files: run distwatch there"
        )
    path = os.path.join(folder.path, f"{host_name()}-{pid}.request")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{path}.taken")
    os.close(open_ours(path, os.O_WRONLY | os.O_CREAT))
    request = {
        "path": path,
        "folder": folder.path,
        "role": role,
        "for_good": for_good,
        "asker": (os.getpid(), start_ticks(os.getpid())),
        "deadlines": ",".join(f"{kind}={HUNG_AFTER_S:g}" for kind in DEADLINES),
        "environment": {
            "DISTWATCH_DIR": os.path.dirname(folder.path),
            "DISTWATCH_HOST": host_name(),
        },
        "packages": {name: _folder_of(name) for name in ("distwatch", "msgspec")},
    }
    text = _text(request)
    try:
        try:
            run_python(pid, text)
        except NoThreadWaits:
            if not run_at_next_bytecode(pid, f"{path}.py", text):
                raise
        said = _wait_for_answer(pid, path)
    finally:
        for left in (path, f"{path}.taken"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(left)
    if said != "ok":
        raise Refused(f"process {pid}: {said.removeprefix('failed ')}")


def _text(request: Mapping[str, object]) -> str:
    """One expression: it runs in the job's `__main__`, in which it must leave no name."""
    start = os.path.join(_HERE, "bootstrap.py")
    return (
        f"(lambda b: b.exec(b.compile(b.open({start!r}, 'rb').read(), {start!r}, 'exec'), "
        f"{{'__name__': 'distwatch.injection.bootstrap', 'REQUEST': {request!r}}}))"
        "(__import__('builtins'))"
    )


def _wait_for_answer(pid: int, path: str) -> str:
    began = time.monotonic()
    while True:
        waited_s = time.monotonic() - began
        with contextlib.suppress(FileNotFoundError):
            if said := read_ours(f"{path}.taken", _LONGEST).decode("utf-8", "replace").strip():
                return said
        if not os.path.isdir(f"/proc/{pid}"):
            return "it has ended"
        if waited_s > TAKEN_WITHIN_S:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)  # from now on nobody can take it up
                return "it did not give its GIL to another thread: the request is withdrawn"
        if waited_s > DONE_WITHIN_S:
            return f"distwatch was not loaded there within {DONE_WITHIN_S:.0f} s"
        time.sleep(0.01)


def _sees_same(pid: int, path: str) -> bool:
    """Whether a path names the same file for that process as here."""
    with contextlib.suppress(OSError):
        return os.path.samestat(os.stat(f"/proc/{pid}/root{path}"), os.stat(path))
    return False


def _folder_of(package: str) -> str:
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    return places[0] if places else ""
