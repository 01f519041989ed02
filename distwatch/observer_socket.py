"""A request to this node's observer, and its answer. Ranks import this: keep it light."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from typing import Any

import msgspec

from distwatch.runfolder import RunFolder
from distwatch.socket_path import within_limit

LENGTH = struct.Struct("<I")
_CREDENTIALS = struct.Struct("3i")
_LIMIT = 4 << 20


def ask_observer(folder: RunFolder, request: dict[str, Any], timeout_s: float) -> bytes:
    """The body of the answer. Blocks for at most `timeout_s`.

    Raises:
        OSError: there is no observer, it does not answer in time, or it belongs to another user.
        ValueError: the answer is not a frame.
    """
    until = time.monotonic() + timeout_s
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as connection:
        connection.settimeout(timeout_s)
        with within_limit(folder.socket) as path:
            connection.connect(path)
        _require_ours(connection)
        connection.sendall(framed(request))
        (length,) = LENGTH.unpack(_receive(connection, LENGTH.size, until))
        if length > _LIMIT:
            raise ValueError(f"an answer of {length} bytes")
        return _receive(connection, length, until)


def framed(message: object) -> bytes:
    """A message in its form on the socket: a u32 length and msgpack."""
    body = msgspec.msgpack.encode(message)
    return LENGTH.pack(len(body)) + body


def peer_uid(connection: socket.socket) -> int:
    """The user at the other end of a Unix socket, according to the kernel."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(raw)[1])


def _require_ours(connection: socket.socket) -> None:
    """Requests may carry a token, and another user may have created the folder and listen there."""
    uid = peer_uid(connection)
    if uid not in (os.getuid(), 0):
        raise PermissionError(f"the observer there belongs to uid {uid}")


def _receive(connection: socket.socket, length: int, until: float) -> bytes:
    parts: list[bytes] = []
    while length:
        connection.settimeout(max(0.01, until - time.monotonic()))
        part = connection.recv(min(length, 1 << 16))
        if not part:
            raise ConnectionResetError("the observer hung up")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)
