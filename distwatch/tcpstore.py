"""A client of torch's TCPStore that does not need torch, for use inside and outside a job.

Reading does not disturb the job: a client that only connects, pings and lists is not counted as a
worker. The wire protocol (u8 query, lengths of 8 bytes, little-endian on all of torch's machines) was
only extended from torch 2.4 to 2.15.
"""

from __future__ import annotations

import errno
import random
import socket
import struct
import time
from typing import Literal

_VALIDATE, _SET, _COMPARE_SET, _GET, _ADD, _CHECK = 0, 1, 2, 3, 4, 5
_PING, _LIST_KEYS = 13, 17
_MAGIC = 0x3C85F7CE
_READY = 0
_MOST_BYTES = 16 << 20
CLIENTS_KEY = "init/"
"""The number of clients that have joined; torch's only key without a leading slash."""

Outcome = Literal["refused", "silent", "no_answer", "unresolved", "foreign", "error"]


class StoreUnreachable(ConnectionError):
    """No TCPStore answers there.

    Attributes:
        outcome: refused (nobody listens), silent (accepts but does not answer), no_answer (packets
            are dropped), unresolved (the name is unknown), foreign (not a TCPStore), error.
        detail: the message of the system or the other side.
    """

    def __init__(self, outcome: Outcome, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.detail = detail


class StoreClient:
    """One connection. Not thread-safe."""

    def __init__(self, connection: socket.socket, timeout_s: float) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._until = 0.0

    @classmethod
    def connect(cls, host: str, port: int, *, timeout_s: float = 3.0) -> StoreClient:
        """Connects and checks that a TCPStore answers.

        Args:
            timeout_s: for connecting, and then for each complete answer.

        Raises:
            StoreUnreachable: none answers; with the reason.
        """
        try:
            connection = socket.create_connection((host, port), timeout=timeout_s)
        except OSError as error:
            raise _unreachable(error, host, port) from error
        # A write has no answer, and the next message must not wait 40 ms for its acknowledgement.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = cls(connection, timeout_s)
        try:
            client._send(struct.pack("=BI", _VALIDATE, _MAGIC))
            client.ping()
        except StoreUnreachable:
            client.close()
            raise
        except OSError as error:
            client.close()
            silent = isinstance(error, TimeoutError)
            raise StoreUnreachable("silent" if silent else "foreign", _talk_of(error)) from error
        return client

    def ping(self) -> None:
        """Checks that the store answers.

        Raises:
            StoreUnreachable: something other than a TCPStore answered.
            OSError: nothing answered.
        """
        # Ends with a line feed, so that servers that read lines answer at once (wrongly).
        nonce = random.getrandbits(24) | 0x0A << 24
        self._send(struct.pack("=BI", _PING, nonce))
        answer = self._receive(4)
        if answer != struct.pack("=I", nonce):
            raise StoreUnreachable("foreign", f"it answered {answer!r} to a TCPStore ping")

    def set(self, key: str, value: bytes) -> None:
        """Writes a key; returns before the store has it."""
        self._send(struct.pack("=B", _SET) + _text(key) + _bytes(value))

    def compare_set(self, key: str, expected: bytes, desired: bytes) -> bytes:
        """Writes `desired` if the key's value is `expected` (empty: absent); returns the value afterwards."""
        self._send(
            struct.pack("=B", _COMPARE_SET) + _text(key) + _bytes(expected) + _bytes(desired)
        )
        return self._receive_bytes()

    def get(self, key: str) -> bytes | None:
        """The value of a key; None where it is absent. Does not wait for the key."""
        if not self.has(key):
            return None
        self._send(struct.pack("=B", _GET) + _text(key))
        return self._receive_bytes()

    def has(self, *keys: str) -> bool:
        """Whether all the keys are there."""
        self._send(struct.pack("=BQ", _CHECK, len(keys)) + b"".join(map(_text, keys)))
        return self._receive(1)[0] == _READY

    def add(self, key: str, amount: int) -> int:
        """Adds to a counter, which begins at 0; returns its new value."""
        self._send(struct.pack("=B", _ADD) + _text(key) + struct.pack("=q", amount))
        return int(struct.unpack("=q", self._receive(8))[0])

    def list_keys(self) -> list[str]:
        """All keys (torch ≥ 2.10).

        Raises:
            OSError: an older store does not know this query and closes the connection.
        """
        self._send(struct.pack("=B", _LIST_KEYS))
        (count,) = struct.unpack("=Q", self._receive(8))
        if count > _MOST_BYTES // 8:
            raise StoreUnreachable("foreign", f"it claims to hold {count} keys")
        keys: list[str] = []
        left = _MOST_BYTES
        for _ in range(count):
            key = self._receive_bytes(left)
            left -= len(key)
            keys.append(key.decode("utf-8", "replace"))
        return keys

    def count_clients(self) -> int | None:
        """How many of torch's own clients have joined; None before the first."""
        value = self.get(CLIENTS_KEY)
        return int(value) if value is not None and value.isdigit() else None

    def fileno(self) -> int:
        """The descriptor of the connection."""
        return self._connection.fileno()

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()

    def __enter__(self) -> StoreClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, message: bytes) -> None:
        # A deadline for the whole answer: byte by byte it could take for ever.
        self._until = time.monotonic() + self._timeout_s
        self._connection.settimeout(self._timeout_s)
        self._connection.sendall(message)

    def _receive_bytes(self, most: int = _MOST_BYTES) -> bytes:
        (length,) = struct.unpack("=Q", self._receive(8))
        if length > most:
            raise StoreUnreachable("foreign", f"it announces a value of {length} bytes")
        return self._receive(length)

    def _receive(self, length: int) -> bytes:
        parts: list[bytes] = []
        while length:
            left_s = self._until - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("it did not answer in time")
            self._connection.settimeout(left_s)
            part = self._connection.recv(min(length, 1 << 16))
            if not part:
                said = b"".join(parts)
                raise ConnectionResetError(
                    errno.ECONNRESET, f"it hung up{f' after {said!r}' if said else ''}"
                )
            parts.append(part)
            length -= len(part)
        return b"".join(parts)


def _text(value: str) -> bytes:
    return _bytes(value.encode())


def _bytes(value: bytes) -> bytes:
    return struct.pack("=Q", len(value)) + value


def _unreachable(error: OSError, host: str, port: int) -> StoreUnreachable:
    if isinstance(error, socket.gaierror):
        return StoreUnreachable("unresolved", f"{host!r} does not resolve ({error.strerror})")
    if isinstance(error, ConnectionRefusedError):
        return StoreUnreachable("refused", f"nobody listens on {host}:{port}")
    if isinstance(error, TimeoutError):
        why = "does not answer: host down, or a firewall drops the packets"
        return StoreUnreachable("no_answer", f"{host}:{port} {why}")
    dropped = error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH)
    detail = f"{host}:{port}: {error.strerror or error}"
    return StoreUnreachable("no_answer" if dropped else "error", detail)


def _talk_of(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "it accepts connections but does not answer a TCPStore ping"
    return f"it does not speak TCPStore: {error.strerror or error}"
