"""Python's tracebacks in a log, wherever other ranks' lines are between theirs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

import msgspec

from distwatch.diagnosis.facts.communication import is_communication_error
from distwatch.dumps.log.facts import Raised, Who
from distwatch.redaction import redact_text
from distwatch.state.events import Frame

HEADER = "Traceback (most recent call last)"
_CHAINED = (
    "During handling of the above exception, another exception occurred",
    "The above exception was the direct cause of the following exception",
)
_FRAME = re.compile(r'\s*File "([^"]*)", line (\d{1,9}), in (.+)')
_ERROR = re.compile(
    r"((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit|Timeout|Fail(?:ed|ure)|Abort|Full|Empty"
    r"|Iteration)(?:\([\w.]+\))?|(?:[A-Za-z_]\w*\.)+[A-Z]\w*|[A-Z][a-z]+[A-Z]\w*)(?:: (.*)|:?\s*$)",
    re.S,
)
_RAY_ERROR = re.compile(r"\w+\.?RayTaskError\(([\w.]+)\)|(?:[\w.]+\.)?RayTaskError$")
_RAY_WHO = re.compile(r"ray::([\w.:<>-]+)\(?\)? ?\(pid=(\d+)(?:, ip=([\w.:-]+))?")
_LIBRARY = ("/site-packages/", "/dist-packages/", "/lib/python3", "<frozen")
LINES_AT_MOST = 400
LINES_SCANNED = 1000
"""Another rank's lines may lie between those of one traceback."""
Place = Literal["part", "other", "end"]
_MESSAGE_LINES = 12
_KEPT = 20
_LAUNCHERS = (
    "ChildFailedError",
    "SignalException",
    "CalledProcessError",
    "RendezvousConnectionError",
)
"""What a launcher raises about its children: it says nothing that they did not."""
_NOT_A_FAILURE = ("SystemExit", "GeneratorExit", "StopIteration")


class Block(msgspec.Struct, kw_only=True):
    """The lines of one writer from `Traceback` on."""

    who: Who
    time_ns: int
    hooked: bool
    """torch's own hook wrote it, which sees only what leaves the main thread."""
    lines: list[str]
    scanned: int = 0
    """Lines of the file since it began, whoever wrote them."""
    over: bool = False
    """The exception's own line was read."""


class _One(msgspec.Struct, kw_only=True):
    frames: list[tuple[str, int, str]]
    type_name: str
    message: str


def raised_in(block: Block) -> Iterator[Raised]:
    """The exception that the block tells of, the first cause where one led to another."""
    chain = _chain_of(block.lines)
    if not chain:
        return
    last = chain[-1]
    who = _ray_writer(block.lines) or block.who
    if last.type_name.rpartition(".")[2] in (*_LAUNCHERS, *_NOT_A_FAILURE):
        return
    told = _telling(chain)
    users = [frame for frame in told.frames if not any(part in frame[0] for part in _LIBRARY)]
    file, line, function = users[-1] if users else ("", 0, "")
    yield Raised(
        who=who,
        time_ns=block.time_ns,
        type_name=told.type_name,
        message=redact_text(told.message)[:2000],
        traceback=tuple(redact_text(line) for line in block.lines[-_KEPT:]),
        file=file,
        line=line,
        function=function,
        frames=tuple(Frame(function=f[2], file=f[0], line=f[1]) for f in told.frames),
        uncaught=block.hooked,
    )


def _telling(chain: list[_One]) -> _One:
    """The last exception; but where only one of a chain is about a lost peer, the first of it."""
    kinds = {is_communication_error(one.type_name, one.message) for one in chain}
    return chain[0] if len(kinds) > 1 else chain[-1]


def _chain_of(lines: list[str]) -> list[_One]:
    chain: list[_One] = []
    frames: list[tuple[str, int, str]] = []
    message: list[str] | None = None
    for text in lines:
        if text.startswith(HEADER) or any(words in text for words in _CHAINED):
            message, frames = None, []
        elif found := _FRAME.match(text):
            frames.append((found[1], int(found[2]), found[3].strip()))
        elif message is not None:
            if len(message) < _MESSAGE_LINES:
                message.append(text)
                chain[-1].message = "\n".join(message).strip()
        elif text[:1] not in (" ", "\t", "") and (error := _ERROR.match(text)):
            name = error[1]
            if ray := _RAY_ERROR.match(name):
                name = ray[1] or name
            message = [error[2] or ""]
            chain.append(_One(frames=frames, type_name=name, message=message[0].strip()))
    return chain


def _ray_writer(lines: list[str]) -> Who | None:
    """The worker whose exception a driver prints."""
    found = next((m for text in lines if (m := _RAY_WHO.search(text))), None)
    if found is None:
        return None
    where = f"@{found[3]}" if found[3] else ""
    return Who(labels=(f"pid:{found[2]}{where}",))


def place_of(text: str, block: Block, hooked: bool) -> Place:
    """What a later line of the block's writer is to it.

    Args:
        hooked: the line has the prefix of torch's own hook, as the whole of such a block has.
    """
    if len(block.lines) >= LINES_AT_MOST:
        return "end"
    is_blank = not text.strip()
    if is_blank or text.startswith(HEADER) or any(words in text for words in _CHAINED):
        return "part"
    if text[0] in " \t" or (_ERROR.match(text) and not block.over):
        return "part"
    if not block.over:
        return "other"
    return "part" if hooked and block.hooked else "end"


def is_error(text: str) -> bool:
    """Whether the line is an exception's name and message."""
    return bool(_ERROR.match(text))
