"""The arguments of the call of torch.distributed that a thread waits in, by `py-spy dump --locals`.

py-spy reads the values of every frame, so what is not needed here is dropped at once: only torch's own frames
count, only the names below, and only numbers, lists of numbers and names of groups.
"""

from __future__ import annotations

import asyncio
import re

import msgspec

from distwatch.probes.stacks import StackUnreadable, dump_text, parse_py_spy
from distwatch.state.events import ArgumentsRead
from distwatch.state.observer_events import MAIN_THREAD

WITHIN_S = 2.0
_FILES = re.compile(r"/torch/distributed/(distributed_c10d|c10d_logger)\.py$")
_NAMES = frozenset("src dst tag group_src group_dst ranks group_name".split())
_VALUE = re.compile(r"-?\d{1,9}|\[[\d, ]{0,200}\]|\"[\w.:\-]{1,64}\"")
_GIVEN, _DEFAULT = "given", "default"


class _Local(msgspec.Struct):
    name: str
    repr: str | None = None


class _Frame(msgspec.Struct):
    name: str
    filename: str | None = None
    locals: tuple[_Local, ...] | None = None


class _Thread(msgspec.Struct):
    frames: tuple[_Frame, ...]
    thread_name: str | None = None


_decoder = msgspec.json.Decoder(tuple[_Thread, ...])


async def take_arguments(key: str, pid: int) -> ArgumentsRead | None:
    """One look; None where the process cannot be read. Never raises, and does not pause the process."""
    try:
        text = await asyncio.wait_for(dump_text(pid, "--nonblocking", "--locals"), WITHIN_S)
        threads = parse_py_spy(text)
    except (asyncio.TimeoutError, StackUnreadable, OSError):
        return None
    main = next((thread for thread in threads if thread.name == MAIN_THREAD), None)
    if main is None:
        return None
    return ArgumentsRead(process=key, frames=main.frames, arguments=parse_arguments(text))


def parse_arguments(text: str) -> dict[str, str]:
    """The arguments that count, of the main thread; empty where the text is something else."""
    try:
        threads = _decoder.decode(text.encode("utf-8", "replace"))
    except (msgspec.DecodeError, RecursionError):
        return {}
    found: dict[str, str] = {}
    # The innermost frame comes first and knows best: what a caller left out, torch has filled in there.
    for thread in threads:
        for frame in thread.frames if thread.thread_name == MAIN_THREAD else ():
            if _FILES.search(frame.filename or ""):
                _take(frame, found)
    return found


def _take(frame: _Frame, found: dict[str, str]) -> None:
    is_wrapper = frame.name.endswith("wrapper")
    for local in frame.locals or ():
        value = local.repr or ""
        if is_wrapper and local.name in ("args", "kwargs"):
            # Inside, torch has put the default group where the caller named none.
            given = "ProcessGroup" in value or found.get("group") == _GIVEN
            found["group"] = _GIVEN if given else _DEFAULT
        elif not is_wrapper and local.name in _NAMES and _VALUE.fullmatch(value):
            found.setdefault(local.name, value.strip('"'))
