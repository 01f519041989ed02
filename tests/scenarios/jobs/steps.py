"""What a rank tells its test: named steps, and gates that the test opens."""

from __future__ import annotations

import contextlib
import os
from typing import BinaryIO

RANK = int(os.environ.get("RANK", "0"))
WORK = os.environ["TEST_WORK"]


def step(name: str) -> None:
    """Reports that this rank has come here."""
    descriptor = os.open(os.environ["TEST_STEPS"], os.O_WRONLY | os.O_CLOEXEC)
    os.write(descriptor, f"{RANK}:{name}\n".encode())
    os.close(descriptor)


def silent_pipe(name: str) -> str:
    """A FIFO that nobody ever writes."""
    path = os.path.join(WORK, name)
    with contextlib.suppress(FileExistsError):
        os.mkfifo(path)
    return path


def gate(name: str) -> BinaryIO:
    """A pipe whose `read(1)` blocks until the test calls `open_gate(name, rank)`.

    The script reads it itself, so that the function in which it is stuck is its own.
    """
    path = os.path.join(WORK, f"gate-{name}-{RANK}")
    os.mkfifo(path)
    pipe = os.fdopen(os.open(path, os.O_RDWR | os.O_CLOEXEC), "rb", buffering=0)
    step(f"gate {name}")
    return pipe
