"""A client of torch's TCPStore that needs no torch: from inside a job, or from outside it.

Reading disturbs nobody: a client that only connects, pings and lists is not counted as a
worker. The wire protocol (u8 query, lengths of 8 bytes, little-endian on every machine that
torch runs on) is append-only from torch 2.4 to 2.15.
"""

from __future__ import annotations

import errno
import random
import socket
import struct
import time
from types import TracebackType
from typing import Literal

_VALIDATE, _SET, _COMPARE_SET, _GET, _ADD, _CHECK = 0, 1, 2, 3, 4, 5
_PING, _LIST_KEYS = 13, 17
_MAGIC = 0x3C85F7CE
_READY = 0
_MOST_BYTES = 16 << 20
CLIENTS_KEY = "init/"
"""The one key that torch writes without a leading slash: how many clients have joined."""

Outcome = Literal["refused", "silent", "no_answer", "unresolved", "foreign", "error"]


class StoreUnreachable(ConnectionError):
    """No TCPStore answers there.

    Attributes:
        outcome: refused (nobody listens), silent (accepts and says nothing), no_answer (packets
            vanish), unresolved (the name is unknown), foreign (no TCPStore), error.
        detail: what the system or the other side said.
    """

    def __init__(self, outcome: Outcome, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.detail = detail


class StoreClient:
    """One connection. Not for several threads at once."""

    def __init__(self, connection: socket.socket, timeout_s: float) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._until = 0.0

    @classmethod
    def connect(cls, host: str, port: int, *, timeout_s: float = 3.0) -> StoreClient:
        """Connects and makes sure that a TCPStore answers.

        Args:
            timeout_s: for the connection and then for the whole of each answer.

        Raises:
            StoreUnreachable: it does not; why.
        """
        try:
            connection = socket.create_connection((host, port), timeout=timeout_s)
        except OSError as error:
            raise StoreUnreachable(_outcome_of(error), _detail_of(error, host, port)) from error
        # A write has no answer: what follows it must not wait 40 ms for its acknowledgement.
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
        """Asks for a sign of life.

        Raises:
            StoreUnreachable: something else than a TCPStore answered.
            OSError: nobody did.
        """
        # It ends with a line feed: servers that read lines answer it at once, as no store.
        nonce = random.getrandbits(24) | 0x0A << 24
        self._send(struct.pack("=BI", _PING, nonce))
        answer = self._receive(4)
        if answer != struct.pack("=I", nonce):
            raise StoreUnreachable("foreign", f"it answered {answer!r} to a TCPStore ping")

    def set(self, key: str, value: bytes) -> None:
        """Writes a key; returns before the store has it."""
        self._send(struct.pack("=B", _SET) + _text(key) + _bytes(value))

    def compare_set(self, key: str, expected: bytes, desired: bytes) -> bytes:
        """Writes `desired` where the key holds `expected` (empty: is absent); what it then holds."""
        self._send(
            struct.pack("=B", _COMPARE_SET) + _text(key) + _bytes(expected) + _bytes(desired)
        )
        return self._receive_bytes()

    def get(self, key: str) -> bytes | None:
        """The value of a key; None where it is absent. Never waits for it."""
        if not self.has(key):
            return None
        self._send(struct.pack("=B", _GET) + _text(key))
        return self._receive_bytes()

    def has(self, *keys: str) -> bool:
        """Whether all the keys are there."""
        self._send(struct.pack("=BQ", _CHECK, len(keys)) + b"".join(map(_text, keys)))
        return self._receive(1)[0] == _READY

    def add(self, key: str, amount: int) -> int:
        """Adds to a counter, which begins at 0; its new value."""
        self._send(struct.pack("=B", _ADD) + _text(key) + struct.pack("=q", amount))
        return int(struct.unpack("=q", self._receive(8))[0])

    def list_keys(self) -> list[str]:
        """All keys (torch ≥ 2.10).

        Raises:
            OSError: the store does not know the query, and hung up.
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
        """How many of torch's own clients have joined; None where none has."""
        value = self.get(CLIENTS_KEY)
        return int(value) if value is not None and value.isdigit() else None

    def fileno(self) -> int:
        """The descriptor of the connection."""
        return self._connection.fileno()

    def close(self) -> None:
        """Hangs up."""
        self._connection.close()

    def __enter__(self) -> StoreClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _send(self, message: bytes) -> None:
        # For the answer as a whole: whoever answers byte by byte could hold us for ever.
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


def _outcome_of(error: OSError) -> Outcome:
    if isinstance(error, socket.gaierror):
        return "unresolved"
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    unreachable = (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH)
    return "no_answer" if isinstance(error, TimeoutError) or error.errno in unreachable else "error"


def _detail_of(error: OSError, host: str, port: int) -> str:
    if isinstance(error, socket.gaierror):
        return f"{host!r} does not resolve ({error.strerror})"
    if isinstance(error, ConnectionRefusedError):
        return f"nobody listens on {host}:{port}"
    if isinstance(error, TimeoutError):
        return f"{host}:{port} does not answer: host down, or a firewall drops the packets"
    return f"{host}:{port}: {error.strerror or error}"


def _talk_of(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "it accepts connections and does not answer a TCPStore ping"
    return f"it does not speak TCPStore: {error.strerror or error}"
