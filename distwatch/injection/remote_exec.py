"""Python 3.14's `sys.remote_exec`, for a process that computes in Python and has no thread that waits.

It runs its script when the main thread comes to its next bytecode, so never in a rank that waits in C++.
"""

from __future__ import annotations

import os
import sys

from distwatch.foreign_files import open_ours


def run_at_next_bytecode(pid: int, path: str, text: str) -> bool:
    """Has a process run a Python text in its main thread; False where this or its Python cannot.

    Args:
        path: the script's file. It must stay: Python complains in the process if it is gone by then.

    Raises:
        OSError: the file cannot be written.
    """
    remote_exec = getattr(sys, "remote_exec", None)
    if remote_exec is None:
        return False
    descriptor = open_ours(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
    try:
        remote_exec(pid, path)
    except (OSError, RuntimeError, ValueError):
        # Another minor version, PYTHON_DISABLE_REMOTE_DEBUG, or no right.
        os.unlink(path)
        return False
    return True
