"""`distwatch doctor`: is this machine fit for a job, and for watching one?"""

from __future__ import annotations

from collections.abc import Mapping

from distwatch.preflight import capacity as room
from distwatch.preflight import installed, network
from distwatch.preflight import permissions as sight
from distwatch.preflight.check_result import Checked, Look, warned


def examine(environ: Mapping[str, str], root: str) -> list[Checked]:
    """Looks at everything, each thing by itself: what cannot be looked at is said, too.

    Args:
        root: of the run folders.
    """
    looks: list[tuple[str, Look]] = [
        ("right to read processes", sight.ptrace_rights),
        ("py-spy", sight.stack_of_a_child),
        ("GPUs (NVML)", sight.nvml),
        ("run folder", lambda: room.run_folder(root)),
        ("memory for journals", lambda: room.journal_memory(root)),
        ("/dev/shm", room.shared_memory),
        ("memory", room.memory_limit),
        ("open files", room.open_files),
        ("loopback", network.loopback),
        ("host name", network.host_name),
        ("interfaces", network.interfaces),
        ("ports", lambda: network.ports(environ)),
    ]
    return [*(_look(what, look) for what, look in looks), *installed.versions()]


def _look(what: str, look: Look) -> Checked:
    try:
        return look()
    except Exception as error:
        detail = f"could not be looked at: {type(error).__name__}: {error}"
        return warned(what, detail, "Please report it with this line.")
