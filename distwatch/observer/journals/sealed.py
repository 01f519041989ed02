"""Files beside the journals that only save time: all that they hold can be made again from the journals.

Such a file counts only if this version wrote it, and whole: its head holds a checksum, and the shape of what
is inside.
"""

from __future__ import annotations

import zlib
from functools import cache
from typing import Any

import msgspec

from distwatch import __version__
from distwatch.foreign_files import read_ours, write_whole

LONGEST = 512 * 1024 * 1024
UNREADABLE = (
    msgspec.DecodeError, ValueError, TypeError, KeyError, IndexError, RecursionError,
)  # fmt: skip
"""What decoding the content of a damaged or foreign file raises."""


def write_sealed(path: str, magic: bytes, kind: type, content: bytes) -> bool:
    """Writes content of that kind; False where the folder cannot be written, or it would be too large."""
    whole = seal(magic, kind, content)
    if whole is None:
        return False
    try:
        write_whole(path, whole)
    except OSError:
        return False
    return True


def read_sealed(path: str, magic: bytes, kind: type) -> bytes | None:
    """The content; None where there is none that this version wrote whole."""
    try:
        return unseal(magic, kind, read_ours(path, LONGEST))
    except OSError:
        return None


def seal(magic: bytes, kind: type, content: bytes) -> bytes | None:
    """Content of that kind as bytes that can be told from any other; None where they would be too many.

    Args:
        magic: the first bytes, which also hold a number that changes with the content's meaning.
    """
    if len(content) > LONGEST:
        return None  # nobody would inflate it
    body = zlib.compress(content, 1)
    return _head(magic, kind, body) + body


def unseal(magic: bytes, kind: type, whole: bytes) -> bytes | None:
    """Reverses `seal`; None where this version did not make it, or it is not whole."""
    size = len(_head(magic, kind, b""))
    body = whole[size:]
    if whole[:size] != _head(magic, kind, body):
        return None
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(body, LONGEST)
    except zlib.error:
        return None
    return content if inflater.eof and not inflater.unconsumed_tail else None


def form_of(magic: bytes, kind: type) -> str:
    """A name for how such content is written: only who has the same can read it."""
    return f"{magic.decode().strip()} {_shape(kind):08x}"


def _head(magic: bytes, kind: type, body: bytes) -> bytes:
    # By the shape of what is inside, so that no one has to remember to raise a number.
    return magic + b"%08x %08x\n" % (_shape(kind), zlib.crc32(body))


@cache
def _shape(kind: type) -> int:
    seen: dict[str, Any] = {}
    waiting: list[Any] = [kind]
    while waiting:
        one = waiting.pop()
        if isinstance(one, type) and issubclass(one, msgspec.Struct):
            name = f"{one.__module__}.{one.__qualname__}"
            if name not in seen:
                fields = msgspec.structs.fields(one)
                seen[name] = [(field.encode_name, str(field.type)) for field in fields]
                waiting += [field.type for field in fields]
        waiting += getattr(one, "__args__", ())
    return zlib.crc32(repr((__version__, sorted(seen.items()))).encode())
