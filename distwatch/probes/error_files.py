"""The exception that torchelastic's `record` writes for a rank: a JSON file named in its environment."""

from __future__ import annotations

import msgspec

from distwatch.foreign_files import read_ours
from distwatch.probes.table import read_environ
from distwatch.redaction import redact_text
from distwatch.state.events import ErrorFileRead

VARIABLE = "TORCHELASTIC_ERROR_FILE"
_LARGEST = 256 * 1024
_LINES = 20


class _ExtraInfo(msgspec.Struct):
    py_callstack: str = ""


class _Inner(msgspec.Struct):
    message: str = ""
    extraInfo: _ExtraInfo = msgspec.field(default_factory=_ExtraInfo)


class _Content(msgspec.Struct):
    message: _Inner | str = ""


def error_file_of(pid: int) -> str:
    """The path that a process's environment names; '' where there is none or it is not readable."""
    return (read_environ(pid) or {}).get(VARIABLE, "")


def read_error_file(key: str, path: str) -> ErrorFileRead | None:
    """The exception in the file, secrets redacted; None where nothing readable was left."""
    try:
        raw = read_ours(path, _LARGEST)
    except OSError:
        return None
    return parse_error_file(key, raw)


def parse_error_file(key: str, raw: bytes) -> ErrorFileRead | None:
    """The same for the file's bytes."""
    try:
        content = msgspec.json.decode(raw, type=_Content)
    except (msgspec.DecodeError, RecursionError):
        return None
    inner = (
        content.message if isinstance(content.message, _Inner) else _Inner(message=content.message)
    )
    type_name, _, message = inner.message.partition(": ")
    if not type_name or not type_name.replace(".", "").replace("_", "").isalnum():
        type_name, message = "Error", inner.message
    lines = redact_text(inner.extraInfo.py_callstack).splitlines()
    return ErrorFileRead(
        process=key,
        type_name=type_name,
        message=redact_text(message)[:2000],
        traceback=tuple(lines[-_LINES:]),
    )
