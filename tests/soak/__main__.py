"""`make soak`: every trial in full, one after the other; each prints its figures."""

from __future__ import annotations

import subprocess
import sys

TRIALS = ("kills", "fuzz", "sockets", "life", "injections")


def main() -> None:
    """Ends with 1 where one of them failed; the others run nevertheless."""
    failed = [
        name
        for name in TRIALS
        if subprocess.run([sys.executable, "-m", f"tests.soak.{name}"], check=False).returncode
    ]
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
