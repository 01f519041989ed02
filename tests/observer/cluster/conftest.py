"""Observers that `distwatch up` starts end with their test."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator

import pytest

from distwatch.observer.lock import lock_holder
from distwatch.runfolder import RunFolder, generations
from tests.support.leftovers import wait_gone


@pytest.fixture
def observers(folder: RunFolder) -> Iterator[Callable[[RunFolder], int]]:
    """Pids of observers of this node, which end with the test."""
    known: set[int] = set()

    def pid_of(one: RunFolder) -> int:
        pid = lock_holder(one)
        assert pid
        known.add(pid)
        return pid

    yield pid_of
    for one in generations(os.path.dirname(folder.path), folder.run_id):
        if pid := lock_holder(one):
            known.add(pid)
    for pid in known:
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            continue
        assert wait_gone(pid, 30)
    for later in generations(os.path.dirname(folder.path), folder.run_id)[1:]:
        shutil.rmtree(later.volatile, ignore_errors=True)
