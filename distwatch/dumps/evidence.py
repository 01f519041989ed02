"""What each file holds, told apart by its content, and all of it together as evidence of one job."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from distwatch.dumps.assembly import Evidence
from distwatch.dumps.files import FoundFile, found_files
from distwatch.dumps.imported import RankDump
from distwatch.dumps.log.facts import Fact, Raised, Stacked, Who
from distwatch.dumps.log.job_log import LogFile, read_log
from distwatch.dumps.log.launchers import LOCAL_RANK
from distwatch.dumps.plain_pickle import LARGEST as LARGEST_PICKLE
from distwatch.dumps.ras import is_ras_text, read_ras_json, read_ras_text
from distwatch.dumps.recorder import NotARecorderDump, RecorderDump, read_recorder_dump
from distwatch.dumps.stack_texts import ProcessStacks, is_stack_text, read_stacks
from distwatch.errors import DistwatchError
from distwatch.garbage import without_collections
from distwatch.probes.error_files import parse_error_file
from distwatch.probes.stacks import parse_py_spy
from distwatch.state.bounds import MOST_RANKS

Kind = Literal[
    "recorder", "py-spy json", "error file", "ras json", "ras text", "stacks", "log", "unknown"
]
_RANK = re.compile(r"(?i)rank[_\-=.]?(\d{1,6})")
_NUMBER = re.compile(r"(\d{1,6})(?!.*\d)")
_SUFFIXES = (".json", ".pickle", ".pkl", ".txt", ".dump", ".pyspy")
_ATTEMPT = re.compile(
    r"(?:^|/)attempt_(\d{1,4})/(\d{1,6})/(?:stdout\.log|stderr\.log|error\.json)$"
)
_BESIDE_RANKS = (
    "torch/distributed/run.py",
    "torch/distributed/launcher/",
    "torch/utils/data/_utils/worker.py",
    "multiprocessing/resource_tracker.py",
    "deepspeed/launcher/",
)
_SNIFFED = 64 * 1024
_STACKS_AT_MOST = 64 << 20


def read_evidence(paths: Iterable[str]) -> Evidence:
    """Everything below these paths. A file that cannot be read is named with the reason, and ends nothing.

    Raises:
        NoSuchTarget: a path does not exist.
    """
    evidence = Evidence()
    with without_collections():
        for file in found_files(paths):
            _add(evidence, file)
    return evidence


def rank_of(name: str) -> int | None:
    """The rank in a dump's name: `nccl_trace_rank_3`, `rank3.json`, `trace_3`; else None."""
    stem = os.path.basename(name)
    while (parts := os.path.splitext(stem))[1].lower() in _SUFFIXES:
        stem = parts[0]
    said = _RANK.search(stem) or _NUMBER.search(stem)
    return int(said[1]) if said else None


def kind_of(content: bytes) -> Kind:
    """What a file is, by its content."""
    head = content[:_SNIFFED].lstrip()
    if head[:1] == b"\x80":
        return "recorder"
    if head[:1] in (b"{", b"["):
        return _kind_of_json(content)
    if b"\x00" in head:
        return "unknown"
    text = head.decode("utf-8", "replace")
    if is_ras_text(text):
        return "ras text"
    return "stacks" if is_stack_text(text) else "log"


def _kind_of_json(content: bytes) -> Kind:
    try:
        plain: Any = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # A log may begin with a brace: structured lines, a printed dict, a `[rank0]`.
        is_log = b"\n" in content.strip() or content.lstrip()[:1] == b"["
        return "log" if is_log else "recorder"
    if isinstance(plain, list):
        return "py-spy json"
    if "communicators" in plain:
        return "ras json"
    if "message" in plain and "entries" not in plain:
        return "error file"
    return "log" if set(plain) & {"log", "msg", "time"} and "entries" not in plain else "recorder"


def _add(evidence: Evidence, file: FoundFile) -> None:
    evidence.files += 1
    evidence.taken_ns = max(evidence.taken_ns, file.written_ns)
    if file.content is None:
        evidence.refused[file.name] = file.why_not
        return
    try:
        _read(evidence, file, file.content)
    except DistwatchError as error:
        evidence.refused[file.name] = str(error.args[0] if error.args else error)
    except Exception as error:
        # A damaged or hostile file fails in any of a dozen ways, and must not take the others with it.
        why = f"it is damaged, or of a format that distwatch does not know: {type(error).__name__}"
        evidence.refused[file.name] = why


def _read(evidence: Evidence, file: FoundFile, content: bytes) -> None:
    if not content.strip():
        # A log of a rank that wrote nothing says that; an empty dump says that nothing was written.
        if not _ATTEMPT.search(file.path) and not file.name.endswith((".log", ".out", ".err")):
            raise NotARecorderDump("it is empty: its rank ended before it wrote the dump")
        return
    kind = kind_of(content)
    year = time.gmtime(file.written_ns / 1e9).tm_year if file.written_ns else time.gmtime().tm_year
    if kind == "recorder":
        _add_dump(evidence, file, content)
    elif kind == "unknown":
        raise NotARecorderDump("it is a binary file of a format that distwatch does not know")
    elif kind == "py-spy json":
        threads = parse_py_spy(content.decode("utf-8", "replace"))
        who = _who(file, rank_of(file.name))
        evidence.facts.append(Stacked(who=who, time_ns=file.written_ns, threads=threads))
    elif kind == "error file":
        evidence.facts += _of_error_file(file, content)
    elif kind == "ras json":
        evidence.facts += read_ras_json(msgspec.json.decode(content), year)
    elif kind == "ras text":
        evidence.facts += read_ras_text(content.decode("utf-8", "replace"), year)
    else:
        if kind == "stacks" and len(content) <= _STACKS_AT_MOST:
            evidence.facts += _of_stacks(file, content.decode("utf-8", "replace"))
        log = LogFile(
            name=file.name, content=content, scope=_scope(file), who=_who(file), year=year
        )
        facts = read_log(log)
        evidence.facts += facts
        ranks = [rank for fact in facts if (rank := fact.who.global_rank) is not None]
        if ranks:
            evidence.spans.append((min(ranks), min(max(ranks), MOST_RANKS)))


def _add_dump(evidence: Evidence, file: FoundFile, content: bytes) -> None:
    if len(content) > LARGEST_PICKLE:
        raise NotARecorderDump(f"it is larger than {LARGEST_PICKLE >> 20} MiB")
    dump: RecorderDump = read_recorder_dump(content)
    rank = dump.rank if dump.rank is not None else rank_of(file.name)
    if rank is None:
        raise NotARecorderDump("neither its name nor its content gives the rank")
    if rank in evidence.dumps:
        raise NotARecorderDump(f"another file is of rank {rank}, too; distwatch uses the first one")
    evidence.dumps[rank] = RankDump(global_rank=rank, taken_ns=file.written_ns, recorder=dump)


def _of_stacks(file: FoundFile, text: str) -> Iterable[Fact]:
    processes = [one for one in read_stacks(text) if not _is_beside_ranks(one)]
    for process in processes:
        named = rank_of(file.name) if len(processes) == 1 and _RANK.search(file.name) else None
        who = _who(file, process.global_rank if process.global_rank is not None else named)
        labels = [f"pid:{process.pid}"] if process.pid else []
        if local := LOCAL_RANK.search(process.command):
            labels.append(f"local:{_scope(file)}:{local[1]}")
        who = msgspec.structs.replace(who, labels=(*who.labels, *labels))
        yield Stacked(
            who=who,
            time_ns=file.written_ns,
            threads=tuple(process.threads),
            pid=process.pid,
            command=process.command,
        )


def _is_beside_ranks(process: ProcessStacks) -> bool:
    """Whether it is a launcher or a data worker: who dumps all of a job's processes has those, too."""
    return any(
        part in frame.file
        for thread in process.threads
        for frame in thread.frames
        for part in _BESIDE_RANKS
    )


def _of_error_file(file: FoundFile, content: bytes) -> Iterable[Fact]:
    read = parse_error_file("", content)
    if read is None:
        raise NotARecorderDump("it has a `message`, but is not an error file of torchrun's")
    yield Raised(
        who=_who(file),
        type_name=read.type_name,
        message=read.message,
        traceback=read.traceback,
        uncaught=True,
    )


def _who(file: FoundFile, rank: int | None = None) -> Who:
    """Whom a file is of, by its place in torchrun's folders or by a rank in its name."""
    if found := _ATTEMPT.search(file.path):
        return Who(
            labels=(f"local:{_scope(file)}:{found[2]}",),
            global_rank=rank,
            attempt=int(found[1]),
        )
    if rank is None and (named := _RANK.search(os.path.basename(file.name))):
        rank = int(named[1])
    # A file in which one rank alone says who it is, is of that rank: its label is learned as any other.
    labels = [f"file:{file.path}"]
    folder, name = os.path.split(file.path)
    if rank is None and (numbered := _NUMBER.search(name)):
        pattern = os.path.join(folder, f"{name[: numbered.start()]}#{name[numbered.end() :]}")
        labels.append(f"numbered:{pattern}:{numbered[1]}")
    return Who(labels=tuple(labels), global_rank=rank)


def _scope(file: FoundFile) -> str:
    found = _ATTEMPT.search(file.path)
    return file.path[: found.start()] if found else file.path
