"""The user's exception as text, in bounded time, whatever it contains.

This runs while a process dies and its peers wait. Of a chain of thousands of exceptions, a traceback
of a million frames or a message of gigabytes, both ends are kept.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Sequence
from itertools import islice
from types import TracebackType, WrapperDescriptorType
from typing import Any

from distwatch.agent.guard import is_users, run_within
from distwatch.foreign_files import open_named, read_and_close
from distwatch.redaction import redact_text
from distwatch.state.events import ExceptionHeld, ExceptionUncaught, Site

MESSAGE_KEPT = 4000
LINES_KEPT = 60
_LINE_KEPT = 500
_MESSAGE_LINES = 12
_CHAIN_KEPT = 4
_FRAMES_WALKED = 50_000
_FIRST_FRAMES, _LAST_FRAMES = 4, 16
_SOURCE_READ = 256 * 1024
_WAITED_S = 0.025
_LARGE = 64 * 1024
_ITEMS = 1000
_ARGUMENTS = 8
_CONTAINERS = (list, tuple, dict, set, frozenset)
_PLAIN = (str, bytes, int, float, bool, type(None))
_LIBRARY = ("/site-packages/", "/dist-packages/", "/lib/python3", "<frozen")
_LINKS = {
    True: "The above exception was the direct cause of the following exception:",
    False: "During handling of the above exception, another exception occurred:",
}


def describe_uncaught(error: BaseException, traceback: TracebackType | None) -> ExceptionUncaught:
    """The exception with its causes, secrets redacted."""
    chain = list(islice(chain_of(error, traceback), _CHAIN_KEPT))
    told = [error, *(one for one, _, _ in chain[1:]), *_grouped(error)]
    messages = [redact_text(text, MESSAGE_KEPT) for text in messages_of(told)]
    lines: list[str] = []
    for (one, frames, is_cause), message in reversed(list(zip(chain, messages, strict=False))):
        if is_cause is not None:
            lines += ["", _LINKS[is_cause], ""]
        lines += [*_frame_lines(frames), *_final_lines(one, message)]
    for one, message in zip(told[len(chain) :], messages[len(chain) :], strict=True):
        lines += [f"  | {line}" for line in _final_lines(one, message)]
    return ExceptionUncaught(
        type_name=_qualified(type(error)),
        message=messages[0][:MESSAGE_KEPT],
        traceback=tuple(redact_text(line, _LINE_KEPT) for line in lines[-LINES_KEPT:]),
        site=_user_site(chain[0][1]),
        cause=_first_told(chain, messages),
    )


def _first_told(chain: Sequence[tuple[BaseException, object, object]], messages: list[str]) -> str:
    """The innermost exception of the chain; empty where that is the whole chain."""
    innermost = chain[-1][0]
    text = f"{_qualified(type(innermost))}: {messages[len(chain) - 1]}"
    return text[:MESSAGE_KEPT] if len(chain) > 1 else ""


def describe_held(error: BaseException) -> ExceptionHeld:
    """An exception that another thread handles now. Runs none of the user's code."""
    frames = list(islice(_walk(field_of(error, "__traceback__")), _FRAMES_WALKED))
    catching = frames[0] if frames else None
    code = catching.tb_frame.f_code if catching else None
    return ExceptionHeld(
        type_name=_qualified(type(error)),
        message=redact_text(_plain(error) or "", MESSAGE_KEPT),
        site=_user_site(frames),
        caught_at=Site(file=code.co_filename, line=catching.tb_lineno, function=code.co_name)
        if code and catching
        else None,
    )


def messages_of(errors: Sequence[BaseException]) -> list[str]:
    """The message of each exception; where it is not available in time, the reason.

    The user's `__str__` is called in a separate thread, which is abandoned if it takes too long: it may
    wait for a device, or for ever.
    """
    said = {place: text for place, one in enumerate(errors) if (text := _plain(one)) is not None}
    rest = [(place, one) for place, one in enumerate(errors) if place not in said]

    def ask() -> None:
        for place, one in rest:
            try:
                said[place] = str(one)
            except BaseException as failure:
                said[place] = f"<str() raises {type(failure).__name__}>"

    if rest:
        run_within(_WAITED_S, "str", ask)
    return [said.get(place, "<str() takes too long>") for place in range(len(errors))]


def _plain(error: BaseException) -> str | None:
    """Its text, where that runs none of the user's code."""
    arguments: tuple[object, ...] = field_of(error, "args")
    if not isinstance(type(error).__str__, WrapperDescriptorType):
        return None
    if _grouped(error):
        arguments = arguments[:1]
    are_large = [_is_large(argument) for argument in arguments[:_ARGUMENTS]]
    if None in are_large or len(arguments) > _ARGUMENTS:
        return None
    if not any(are_large):
        return str(error)
    # str() would first copy it and look at every character.
    return ", ".join(
        redact_text(one, MESSAGE_KEPT) if isinstance(one, str) else f"<{type(one).__name__}>"
        for one in arguments
    )


def _is_large(argument: object) -> bool | None:
    """Whether its repr would block this process for long; None: the user's code makes the repr."""
    waiting, size = [argument], 0
    while waiting:
        one = waiting.pop()
        if isinstance(one, _CONTAINERS) and type(one) in _CONTAINERS:
            if len(one) > _ITEMS:
                return True
            waiting += one.items() if isinstance(one, dict) else one
        elif type(one) not in _PLAIN:
            return None
        size += _size(one)
        if size > _LARGE or len(waiting) > _ITEMS:
            return True
    return False


def _size(argument: object) -> int:
    if isinstance(argument, int):
        return argument.bit_length()
    return len(argument) if isinstance(argument, str | bytes) else 16


def chain_of(
    error: BaseException, traceback: TracebackType | None
) -> Iterator[tuple[BaseException, list[TracebackType], bool | None]]:
    """The exception and its causes; for each, whether its cause was explicit (None: it has none)."""
    one: BaseException | None = error
    while one is not None:
        frames = list(islice(_walk(traceback), _FRAMES_WALKED))
        cause: BaseException | None = field_of(one, "__cause__")
        inner = cause
        if inner is None and not field_of(one, "__suppress_context__"):
            inner = field_of(one, "__context__")
        yield one, frames, None if inner is None else cause is not None
        one, traceback = inner, None if inner is None else field_of(inner, "__traceback__")


def field_of(error: BaseException, name: str) -> Any:
    """One of the exception's own attributes."""
    # The user's class may have a property of that name, which would run their code.
    return vars(BaseException)[name].__get__(error)


def _grouped(error: BaseException) -> list[BaseException]:
    """The first exceptions of an ExceptionGroup, which Python has from 3.11."""
    group = getattr(builtins, "BaseExceptionGroup", None)
    if group is None or not isinstance(error, group):
        return []
    return list(vars(group)["exceptions"].__get__(error)[:_CHAIN_KEPT])


def _walk(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def _frame_lines(frames: list[TracebackType]) -> Iterator[str]:
    if not frames:
        return
    yield "Traceback (most recent call last):"
    sources: dict[str, bytes] = {}
    left_out = len(frames) - _FIRST_FRAMES - _LAST_FRAMES
    for place, one in enumerate(frames):
        if _FIRST_FRAMES <= place < _FIRST_FRAMES + left_out:
            continue
        if place and place == _FIRST_FRAMES + left_out:
            yield f"  … {left_out} frames left out …"
        code = one.tb_frame.f_code
        yield f'  File "{code.co_filename}", line {one.tb_lineno}, in {code.co_name}'
        if source := _source_line(code.co_filename, one.tb_lineno, sources):
            yield f"    {source}"


def _source_line(file: str, line: int, sources: dict[str, bytes]) -> str:
    """That line of the file; '' where it is beyond the part that is read, or the file is unreadable."""
    if file not in sources:
        try:
            sources[file] = read_and_close(open_named(file), _SOURCE_READ)
        except (OSError, ValueError):
            sources[file] = b""
    lines = sources[file].split(b"\n", line)
    return lines[line - 1].decode("utf-8", "replace").strip() if 0 < line < len(lines) else ""


def _final_lines(error: BaseException, message: str) -> list[str]:
    name = _qualified(type(error))
    notes = object.__getattribute__(error, "__dict__").get("__notes__")
    told = [message, *(notes[:_CHAIN_KEPT] if type(notes) is list else ())]
    texts = [redact_text(text, MESSAGE_KEPT) for text in told if type(text) is str]
    lines = [line for text in texts for line in text.split("\n")[:_MESSAGE_LINES]]
    return [f"{name}: {lines[0]}" if lines[0] else name, *lines[1:]]


def _qualified(kind: type[BaseException]) -> str:
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    return name[:_LINE_KEPT]


def _user_site(frames: list[TracebackType]) -> Site | None:
    """The innermost line of the user's own code, else the innermost of all."""
    if not frames:
        return None
    own: dict[str, bool] = {}
    for one in reversed(frames):
        file = one.tb_frame.f_code.co_filename
        if file not in own:
            own[file] = _is_own(file)
        if own[file]:
            break
    else:
        one = frames[-1]
    code = one.tb_frame.f_code
    return Site(file=code.co_filename, line=one.tb_lineno, function=code.co_name)


def _is_own(file: str) -> bool:
    # Where a hook calls the original, our own frames are between the user's and torch's.
    return is_users(file, ()) and not any(part in file for part in _LIBRARY)
