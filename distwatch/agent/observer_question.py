"""A rank asks the observer of its node why its world does not form."""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
import time

import msgspec

from distwatch.runfolder import RunFolder
from distwatch.state.verdict import Verdict

_LENGTH = struct.Struct("<I")
_LIMIT = 4 << 20
log = logging.getLogger("distwatch")


def ask_verdict(folder: RunFolder, timeout_s: float) -> Verdict | None:
    """The verdict of this moment, with stacks of ranks that wait; None where no observer answers.

    Blocks for at most `timeout_s`.
    """
    until = time.monotonic() + timeout_s
    try:
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as connection:
            connection.settimeout(timeout_s)
            connection.connect(folder.socket)
            request = msgspec.msgpack.encode({"want": "verdict"})
            connection.sendall(_LENGTH.pack(len(request)) + request)
            (length,) = _LENGTH.unpack(_receive(connection, _LENGTH.size, until))
            if length > _LIMIT:
                raise ValueError(f"an answer of {length} bytes")
            return msgspec.msgpack.decode(_receive(connection, length, until), type=Verdict)
    except (OSError, ValueError, msgspec.DecodeError) as error:
        log.info("distwatch: the observer was asked for its verdict in vain: %s", error)
        return None


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
