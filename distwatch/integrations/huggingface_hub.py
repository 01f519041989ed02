"""huggingface_hub: the requests, downloads and cache locks of a load.

Hooks what every version uses: the HTTP client's `send` (requests in 0.x, httpx and its successor
later), the functions that write a body to a file, and `filelock`, whose locks guard the cache.
Nothing is recorded outside a load.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from distwatch.hooks.call_hook import argument
from distwatch.hooks.patch import PatchSet
from distwatch.integrations.load_hooks import WaitHook, hook_function, hook_method
from distwatch.integrations.load_waits import Wait
from distwatch.integrations.loads import Load

_CLIENTS = (("httpx2", "Client"), ("httpx", "Client"), ("requests", "Session"))


def apply(module: ModuleType, patches: PatchSet) -> str:
    """Hooks `huggingface_hub.file_download` and its HTTP client."""
    http = sys.modules.get("huggingface_hub.utils._http")
    clients = [getattr(getattr(http, name, None), kind, None) for name, kind in _CLIENTS]
    client = next((client for client in clients if client is not None), None)
    absent = []
    if client is None or not hook_method(patches, client, "send", Request()):
        absent.append("requests")
    if not hook_function(patches, module, "http_get", Download(1, "temp_file")):
        absent.append("downloads")
    hook_function(patches, module, "xet_get", Download(0, "incomplete_path"))
    lock = getattr(sys.modules.get("filelock"), "BaseFileLock", None)
    if lock is None or not hook_method(patches, lock, "acquire", Locked()):
        absent.append("locks")
    return f"not seen in this version: {', '.join(absent)}" if absent else ""


def shown_url(url: object) -> str:
    """A URL without its query, which may hold a signature, and without credentials."""
    parts = urlsplit(str(url))
    host = parts.hostname or "?"
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}{parts.path}"[:300]


class Request(WaitHook):
    """One HTTP request of a load, until the response headers arrive."""

    def wait(self, load: Load, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Wait:
        request = argument(args, kwargs, 1, "request")
        url = shown_url(getattr(request, "url", ""))
        return Wait("request", f"{getattr(request, 'method', '?')} {url}")

    def after(self, token: Any, result: Any, error: BaseException | None) -> None:
        status = getattr(result, "status_code", 0)
        failed = ConnectionError(f"HTTP {status}") if status >= 500 or status == 429 else None
        super().after(token, result, error or failed)


class Download(WaitHook):
    """The body of a file, on its way into the cache."""

    def __init__(self, position: int, name: str) -> None:
        """
        Args:
            position: of the argument with the destination of the body: a file or its path.
            name: of that argument.
        """
        self._position = position
        self._name = name

    def wait(self, load: Load, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Wait | None:
        target = argument(args, kwargs, self._position, self._name)
        name = kwargs.get("displayed_filename") or argument(args, kwargs, 0, "url") or "a file"
        what = shown_url(name) if "://" in str(name) else str(name)
        if load.waits.is_downloading(what):
            return None  # http_get calls itself again after a timeout
        size = kwargs.get("expected_size")
        size = size if isinstance(size, int) else 0
        if isinstance(target, (str, os.PathLike)):
            return Wait("download", what, path=os.fspath(target), size=size)
        descriptor = int(target.fileno()) if hasattr(target, "fileno") else -1
        return Wait("download", what, descriptor=descriptor, size=size)


class Locked(WaitHook):
    """A lock file of the cache: its holder may be gone."""

    def wait(self, load: Load, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Wait | None:
        if not args or getattr(args[0], "is_locked", False):
            return None
        return Wait("lock", str(getattr(args[0], "lock_file", "?")))
