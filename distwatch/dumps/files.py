"""The dump files of a folder, and the rank of each."""

from __future__ import annotations

import gc
import os
import re

from distwatch.dumps.imported import RankDump
from distwatch.dumps.plain_pickle import LARGEST
from distwatch.dumps.recorder import NotARecorderDump, RecorderDump, read_recorder_dump
from distwatch.errors import DistwatchError, NoSuchTarget
from distwatch.foreign_files import open_named
from distwatch.probes.stacks import parse_py_spy
from distwatch.state.events import ThreadStack

FILES_AT_MOST = 200_000
_RANK = re.compile(r"(?i)rank[_\-=]?(\d+)")
_NUMBER = re.compile(r"(\d+)(?!.*\d)")
_SUFFIXES = (".json", ".pickle", ".pkl", ".txt", ".dump", ".pyspy")


def read_dumps(path: str) -> tuple[list[RankDump], dict[str, str]]:
    """The dumps of each rank in a folder or one file; and the files that were not read, with reasons.

    Raises:
        NoSuchTarget: there is no such folder or file.
    """
    if not os.path.exists(path):
        raise NoSuchTarget(f"there is no {path}", advice="Name the folder that holds the dumps.")
    found: dict[int, RankDump] = {}
    refused: dict[str, str] = {}
    # Millions of objects, all of which stay: looking for cycles among them again and again would
    # take most of the reading time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        _read_all(path, found, refused)
    finally:
        if collecting:
            gc.enable()
    return list(found.values()), refused


def _read_all(path: str, found: dict[int, RankDump], refused: dict[str, str]) -> None:
    for file in _files(path):
        name = os.path.relpath(file, path) if os.path.isdir(path) else os.path.basename(file)
        try:
            _add(found, *_read(file))
        except DistwatchError as error:
            refused[name] = error.args[0] if error.args else str(error)
        except OSError as error:
            refused[name] = f"not readable: {error.strerror or error}"


def rank_of(name: str) -> int | None:
    """The rank in a file's name: `nccl_trace_rank_3`, `rank3.json`, `trace_3`; else None."""
    stem = os.path.basename(name)
    while (parts := os.path.splitext(stem))[1].lower() in _SUFFIXES:
        stem = parts[0]
    said = _RANK.search(stem) or _NUMBER.search(stem)
    return int(said[1]) if said else None


def _files(path: str) -> list[str]:
    if not os.path.isdir(path):
        return [path]
    files = [
        os.path.join(folder, name)
        for folder, _, names in os.walk(path)
        for name in names
        if not name.startswith(".")
    ]
    if len(files) > FILES_AT_MOST:
        raise NoSuchTarget(
            f"{path} holds {len(files)} files", advice="Name a folder that holds only the dumps."
        )
    return sorted(files)


def _read(file: str) -> tuple[int, int, RecorderDump | tuple[ThreadStack, ...]]:
    """(rank, time of writing, content) of one file."""
    with os.fdopen(open_named(file), "rb") as opened:
        status = os.fstat(opened.fileno())
        if status.st_size > LARGEST:
            raise NotARecorderDump(f"it is larger than {LARGEST >> 20} MiB")
        if not status.st_size:
            raise NotARecorderDump("it is empty: its rank ended before it wrote the dump")
        content = opened.read(LARGEST)
    dump: RecorderDump | tuple[ThreadStack, ...]
    # A list is what py-spy writes; a recorder's dump is an object.
    is_stacks = content.lstrip()[:1] == b"["
    dump = (
        parse_py_spy(content.decode("utf-8", "replace"))
        if is_stacks
        else read_recorder_dump(content)
    )
    rank = rank_of(file)
    if isinstance(dump, RecorderDump) and dump.rank is not None:
        rank = dump.rank
    if rank is None:
        raise NotARecorderDump("neither its name nor its content gives the rank")
    return rank, status.st_mtime_ns, dump


def _add(
    found: dict[int, RankDump],
    rank: int,
    taken_ns: int,
    content: RecorderDump | tuple[ThreadStack, ...],
) -> None:
    known = found.get(rank) or RankDump(global_rank=rank, taken_ns=taken_ns)
    if isinstance(content, RecorderDump):
        if known.recorder is not None:
            raise NotARecorderDump(
                f"another file is of rank {rank}, too; distwatch uses the first one"
            )
        found[rank] = RankDump(
            global_rank=rank, taken_ns=taken_ns, recorder=content, threads=known.threads
        )
    else:
        found[rank] = RankDump(
            global_rank=rank,
            taken_ns=known.taken_ns if known.recorder else taken_ns,
            recorder=known.recorder,
            threads=content,
        )
