"""The command line in a process that gets no more memory than it is given."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

MIB = 1 << 20
_CODE = """
import resource, sys
resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv.pop(1)),) * 2)
from distwatch.cli.__main__ import main
main()
"""


def distwatch_within(
    most_bytes: int, *arguments: str, root: Path
) -> subprocess.CompletedProcess[str]:
    """As `distwatch` of the tests; what it allocates beyond `most_bytes` is a MemoryError."""
    return subprocess.run(
        [sys.executable, "-c", _CODE, str(most_bytes), *arguments],
        env={**os.environ, "DISTWATCH_DIR": str(root)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd="/",
    )
