"""The keys through which ranks exchange messages while their world forms.

On a TCPStore they have a prefix of their own beside torch's keys; with `file://` they are small files
beside the FileStore's; a single rank keeps them in memory.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from typing import Literal

from distwatch.foreign_files import open_ours, read_ours, write_whole
from distwatch.runfolder import make_private
from distwatch.tcpstore import StoreClient

_COUNT = "count"
_LARGEST = 16 * 1024 * 1024
LIST_EVERY_S = 1.0
GLOO_ADDRESS = re.compile(r"/default_pg/0//\w+//\d+/\d+")
"""The key where a rank publishes its address when it enters the default group, in torch 2.10 to 2.13."""
Others = Literal["clients", "addresses", "unknown"]


class KeyValueStore:
    """Keys and values. Every method returns soon, or raises OSError where the store is lost."""

    def claim(self, key: str, value: bytes, instead_of: bytes = b"") -> bytes:
        """Writes a key that is absent, or has the value `instead_of`; returns its value afterwards."""
        raise NotImplementedError

    def set(self, key: str, value: bytes) -> None:
        """Writes a key."""
        raise NotImplementedError

    def get(self, key: str) -> bytes | None:
        """Reads a key; None where it is absent."""
        raise NotImplementedError

    def below(self, name: str) -> KeyValueStore:
        """A separate store below this one, under a name; it is closed with this one."""
        raise NotImplementedError

    def count(self) -> None:
        """Counts this rank as arrived, where its claim of `counted/RANK` alone does not."""

    def counted(self) -> int:
        """How many ranks have arrived here."""
        return 1

    def count_others(self) -> int:
        """How many ranks have visibly arrived through torch alone."""
        return 0

    def close(self) -> None:
        """Closes the connection."""


class StoreKeyValues(KeyValueStore):
    """On the TCPStore at the endpoint."""

    def __init__(self, client: StoreClient, prefix: str, others: Others = "unknown") -> None:
        """
        Args:
            others: how the store shows ranks that call torch directly: by its count of clients, by the
                gloo addresses that they publish, or not at all.
        """
        self._client = client
        # torch's clients write a slash before every key.
        self._prefix = f"/{prefix.strip('/')}/"
        self._others = others
        self._listed = (0.0, 0)

    def claim(self, key: str, value: bytes, instead_of: bytes = b"") -> bytes:
        return self._client.compare_set(self._prefix + key, instead_of, value)

    def set(self, key: str, value: bytes) -> None:
        self._client.set(self._prefix + key, value)

    def get(self, key: str) -> bytes | None:
        return self._client.get(self._prefix + key)

    def count(self) -> None:
        self._client.add(self._prefix + _COUNT, 1)

    def counted(self) -> int:
        return int(self._client.get(self._prefix + _COUNT) or b"0")

    def count_others(self) -> int:
        # Those ranks join before they wait; ours join only afterwards.
        if self._others == "clients":
            return self._client.count_clients() or 0
        return self._count_addresses() if self._others == "addresses" else 0

    def _count_addresses(self) -> int:
        listed, count = self._listed
        if time.monotonic() - listed > LIST_EVERY_S:
            keys = self._client.list_keys()
            count = sum(GLOO_ADDRESS.fullmatch(key) is not None for key in keys)
            self._listed = (time.monotonic(), count)
        return count

    def below(self, name: str) -> StoreKeyValues:
        return StoreKeyValues(self._client, f"{self._prefix}{name}", self._others)

    def close(self) -> None:
        self._client.close()


class FileKeyValues(KeyValueStore):
    """In a folder beside a FileStore's file, on the disk that the ranks share anyway."""

    def __init__(self, path: str, prefix: str) -> None:
        """
        Raises:
            OSError: the folder cannot be created.
        """
        self._file = path
        self._folder = f"{path}.distwatch"
        self._prefix = prefix.replace("/", ".")
        make_private(self._folder)

    def claim(self, key: str, value: bytes, instead_of: bytes = b"") -> bytes:
        path = self._path(key)
        if instead_of and self.get(key) == instead_of:
            self.set(key, value)
            return value
        own = f"{path}.{secrets.token_hex(4)}"
        with os.fdopen(open_ours(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
            file.write(value)
        try:
            # A hard link appears with its whole content, or not at all.
            os.link(own, path)
        except FileExistsError:
            return self.get(key) or b""
        finally:
            os.unlink(own)
        return value

    def set(self, key: str, value: bytes) -> None:
        write_whole(self._path(key), value)

    def get(self, key: str) -> bytes | None:
        try:
            return read_ours(self._path(key), _LARGEST)
        except FileNotFoundError:
            return None

    def remove(self) -> None:
        """Removes the files of this world."""
        for name in os.listdir(self._folder):
            if name.startswith(f"{self._prefix}."):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(self._folder, name))
        with contextlib.suppress(OSError):
            os.rmdir(self._folder)  # other worlds may have files here

    def counted(self) -> int:
        mine = f"{self._prefix}.counted."
        return sum(
            name.startswith(mine) and name.removeprefix(mine).isdigit()
            for name in os.listdir(self._folder)
        )

    def below(self, name: str) -> FileKeyValues:
        return FileKeyValues(self._file, f"{self._prefix}.{name}")

    def _path(self, key: str) -> str:
        return os.path.join(self._folder, f"{self._prefix}.{key.replace('/', '.')}")


class OwnKeyValues(KeyValueStore):
    """In memory: a world of one rank."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}

    def claim(self, key: str, value: bytes, instead_of: bytes = b"") -> bytes:
        if self._values.get(key, b"") == instead_of:
            self._values[key] = value
        return self._values[key]

    def set(self, key: str, value: bytes) -> None:
        self._values[key] = value

    def get(self, key: str) -> bytes | None:
        return self._values.get(key)

    def below(self, name: str) -> OwnKeyValues:
        return OwnKeyValues()
