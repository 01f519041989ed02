"""The tests end wherever they are started: a pytest plugin, loaded by tests/conftest.py.

A test that hangs is failed at its deadline by pytest-timeout, in its own process. Where that does
not help, since its main thread never comes back to Python, the process is ended a little later. A
worker of pytest-xdist that is gone, for whatever reason, is a failure and ends the run.
"""

from __future__ import annotations

import faulthandler
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

GRACE = "seconds after a test's deadline in which it may end by itself"
_STARTED_BY_TESTS = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD)
_errors = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("grace", GRACE, default="60")


def pytest_configure(config: pytest.Config) -> None:
    _take_signals()
    # Under capture, 2 is a file that nobody reads once this process is gone.
    config.stash[_errors] = os.dup(2)
    if getattr(config.option, "numprocesses", None):
        # xdist gives what a dead worker has left to others, who wait for ever where all of it is done.
        config.option.maxworkerrestart = "0"
    if hasattr(config, "workerinput"):
        _keep_pipes_from_forks()


def pytest_unconfigure(config: pytest.Config) -> None:
    os.close(config.stash[_errors])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[Any]:
    limit_s = _limit_of(item)
    if limit_s:
        # Its thread needs no GIL: whatever the test is in, it ends.
        faulthandler.dump_traceback_later(
            limit_s + float(item.config.getini("grace")), exit=True, file=item.config.stash[_errors]
        )
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _limit_of(item: pytest.Item) -> float:
    """Seconds; 0 where a person looks at it with a debugger, or has asked for no deadline."""
    if item.config.getoption("usepdb"):
        return 0.0
    marker = item.get_closest_marker("timeout")
    asked = item.config.getoption("timeout")
    if marker is not None:
        return float(marker.args[0] if marker.args else marker.kwargs["timeout"])
    return float(item.config.getini("timeout") or 0 if asked is None else asked)


def _take_signals() -> None:
    """What is ignored here is ignored by every program that a test starts, and a handler is not.

    `nohup make test &` ignores SIGINT, SIGQUIT and SIGHUP. This process goes on ignoring them.
    """
    for number in _STARTED_BY_TESTS:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def _keep_pipes_from_forks() -> None:
    """A child that a test forks must not keep up the connection of a worker that is dead."""
    pipes = [fd for fd in map(int, os.listdir("/proc/self/fd")) if fd > 2 and _is_pipe(fd)]

    def let_go() -> None:
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in pipes:
            os.dup2(nothing, descriptor, inheritable=False)
        os.close(nothing)

    os.register_at_fork(after_in_child=let_go)


def _is_pipe(descriptor: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}").startswith("pipe:")
    except OSError:
        return False
