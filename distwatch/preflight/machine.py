"""`distwatch doctor`: is this machine fit for a job, and for watching one?"""

from __future__ import annotations

from collections.abc import Mapping

from distwatch.preflight import capacity, installed, network, permissions
from distwatch.preflight.check_result import Checked, Look, warned


def examine(environ: Mapping[str, str], root: str) -> list[Checked]:
    """Checks everything, each item by itself; an item that cannot be checked says so.

    Args:
        root: of the run folders.
    """
    looks: list[tuple[str, Look]] = [
        ("right to read processes", permissions.ptrace_rights),
        ("py-spy", permissions.stack_of_a_child),
        ("GPUs (NVML)", permissions.nvml),
        ("run folder", lambda: capacity.run_folder(root)),
        ("memory for journals", lambda: capacity.journal_memory(root)),
        ("/dev/shm", capacity.shared_memory),
        ("memory", capacity.memory_limit),
        ("open files", capacity.open_files),
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
        detail = f"could not be checked: {type(error).__name__}: {error}"
        return warned(what, detail, "Please report it with this line.")
