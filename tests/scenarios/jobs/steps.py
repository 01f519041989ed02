"""What a rank tells its test: named steps, and gates that the test opens."""

from __future__ import annotations

import os

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
    if not os.path.exists(path):
        os.mkfifo(path)
    return path


def gate(name: str) -> None:
    """Blocks until the test calls `open_gate(name, rank)`."""
    path = os.path.join(WORK, f"gate-{name}-{RANK}")
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    step(f"gate {name}")
    os.read(descriptor, 1)
    os.close(descriptor)
