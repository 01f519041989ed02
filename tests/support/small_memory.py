"""A /dev/shm of a few MiB, as containers have it, for one program and what it starts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.environment import inherited_environment

HOME = Path(__file__).resolve().parents[2]
_UNSHARE = ["unshare", "--mount"] if os.getuid() == 0 else ["unshare", "--mount", "--map-root-user"]
_MOUNT = 'mount -t tmpfs -o size="$1" tmpfs /dev/shm && shift && exec "$@"'


def run_in_small_memory(mib: int, module: str, *arguments: str) -> str:
    """What a module of the tests prints that runs there; skips where no namespace can be had."""
    mounting = [*_UNSHARE, "sh", "-c", _MOUNT, "sh", f"{mib}m"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*mounting, "true"], check=False).returncode
    ):
        pytest.skip("a mount namespace of one's own takes unshare, and the right to use it")
    done = subprocess.run(
        [*mounting, sys.executable, "-m", module, *arguments],
        env={**inherited_environment(), "PYTHONPATH": str(HOME)},
        cwd=HOME,
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
