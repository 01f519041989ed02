"""`python -m distwatch`, and the command `distwatch`."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line; Ctrl-C while it is still being loaded is no traceback, either."""
    try:
        from distwatch.cli.__main__ import main as command_line
    except KeyboardInterrupt:
        sys.exit(130)
    command_line()


if __name__ == "__main__":
    main()
