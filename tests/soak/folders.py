"""Run folders of the trials: on a disk, with their rings on tmpfs, and gone afterwards."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from distwatch.runfolder import RunFolder


@contextlib.contextmanager
def run_folder() -> Iterator[RunFolder]:
    """An empty one. A Unix socket's path holds 107 bytes: hence a short name."""
    with tempfile.TemporaryDirectory(prefix="dw-", dir="/tmp") as place:
        made = RunFolder(f"{place}/runs/r")
        made.create()
        try:
            yield made
        finally:
            shutil.rmtree(made.volatile, ignore_errors=True)
            with contextlib.suppress(OSError):
                Path(made.volatile).parent.rmdir()
