"""Whether this machine has room for journals, shared memory and the ranks."""

from __future__ import annotations

import os
import resource
import stat

from distwatch.preflight.check_result import Checked, failed, passed, warned
from distwatch.preflight.container import container_kind, how_to_share_memory
from distwatch.probes.host import sample_host
from distwatch.runfolder import SHM, RunFolder, filesystem_of, why_unsafe
from distwatch.state.events import HostSampled
from distwatch.state.quantities import bytes_text

_DOCKERS_DEFAULT = 64 << 20
_LITTLE = 1 << 30
_FULL = 0.9
_FEW_FILES = 4096
_JOURNALS_BYTES = 64 << 20


def run_folder(root: str) -> Checked:
    """Whether run folders can be made here, safe from other users."""
    what, set_dir = "run folder", "Set DISTWATCH_DIR to a folder of your own."
    place = _existing(root)
    if not os.path.isdir(place):
        return failed(what, f"{place} is not a folder", set_dir)
    status = os.stat(place)
    if not os.access(place, os.W_OK | os.X_OK):
        return failed(what, f"{place} cannot be written by uid {os.geteuid()}", set_dir)
    if place == root and (why := why_unsafe(root)):
        shared = status.st_uid != os.getuid() or status.st_mode & stat.S_ISVTX
        return failed(what, why, set_dir if shared else f"chmod 700 {root}")
    room = _room(place)
    mode = f"mode {stat.S_IMODE(status.st_mode):04o}" if place == root else "not made yet"
    detail = (
        f"{root} ({mode}, {filesystem_of(place) or 'unknown file system'}, {bytes_text(room)} free)"
    )
    if room < _JOURNALS_BYTES:
        return warned(
            what, detail, f"Free some space: journals need about {bytes_text(_JOURNALS_BYTES)}."
        )
    return passed(what, detail)


def journal_memory(root: str) -> Checked:
    """Whether the ranks' journals have the tmpfs that they are written to."""
    what = "memory for journals"
    volatile = RunFolder(os.path.join(root, "doctor")).volatile
    if not volatile:
        fix = f"Mount a tmpfs on {SHM}, or set DISTWATCH_DIR to a folder on one."
        return failed(what, f"neither {root} nor {SHM} is a tmpfs: ranks cannot be recorded", fix)
    place = SHM if volatile.startswith(f"{SHM}/") else _existing(volatile)
    if not os.access(place, os.W_OK | os.X_OK):
        return failed(
            what, f"{place} cannot be written", "Set DISTWATCH_DIR to a folder on a tmpfs."
        )
    room = _room(place)
    if room < _JOURNALS_BYTES:
        fix = f"Free space on {place}: a rank without room for its journal is not recorded."
        return warned(what, f"{bytes_text(room)} left on {place}", fix)
    return passed(what, f"{bytes_text(room)} left on {place}")


def shared_memory() -> Checked:
    """/dev/shm, which dataloader workers and NCCL share tensors through."""
    if not os.path.isdir(SHM):
        return judge_shared_memory(None, None, container_kind())
    size = os.statvfs(SHM)
    return judge_shared_memory(size.f_blocks * size.f_frsize, _room(SHM), container_kind())


def judge_shared_memory(total: int | None, free: int | None, container: str) -> Checked:
    """The rule behind `shared_memory`."""
    what, fix = "/dev/shm", how_to_share_memory(container)
    if total is None or free is None:
        return failed(what, "it does not exist: dataloader workers and NCCL need it", fix)
    detail = f"{bytes_text(free)} free of {bytes_text(total)}"
    if total <= _DOCKERS_DEFAULT:
        return warned(
            what, f"{detail}, a container's default: dataloader workers die with a bus error", fix
        )
    if free < min(_LITTLE, total // 10):
        full = f"{detail}: files of ended jobs stay there until someone removes them"
        return warned(what, full, f"Look for leftovers: ls -lS {SHM}")
    if total < _LITTLE:
        return warned(what, f"{detail}: little for dataloader workers with large batches", fix)
    return passed(what, detail)


def memory_limit() -> Checked:
    """The cgroup's limit against what the host has and what is used."""
    return judge_memory(sample_host("here"))


def judge_memory(host: HostSampled) -> Checked:
    """The rule behind `memory_limit`."""
    what = "memory"
    total, available = host.memory_total, host.memory_available
    detail = f"host {bytes_text(available)} available of {bytes_text(total)}"
    limit, used = host.cgroup_limit, host.cgroup_used
    if limit is None:
        detail += ", no cgroup limit"
        if total and available is not None and available < (1 - _FULL) * total:
            return warned(
                what,
                detail,
                "Find what uses it before you start ranks: the kernel kills the largest process.",
            )
        return passed(what, detail)
    detail += f"; cgroup limit {bytes_text(limit)}, {bytes_text(used)} used"
    if used is not None and used > _FULL * limit:
        fix = "Raise the limit (docker --memory, Kubernetes resources.limits.memory, Slurm --mem), or free some."
        return warned(what, f"{detail}: nearly full; the kernel kills what exceeds it", fix)
    return passed(what, detail)


def open_files() -> Checked:
    """How many files a process may have open; each peer of a rank is one or more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return judge_open_files(soft, hard)


def judge_open_files(soft: int, hard: int) -> Checked:
    """The rule behind `open_files`."""
    more = f" (may be raised to {_limit(hard)})" if hard != soft else ""
    detail = f"{_limit(soft)}{more}"
    if soft == resource.RLIM_INFINITY or soft >= _FEW_FILES:
        return passed("open files", detail)
    fix = f"ulimit -n {_FEW_FILES if hard == resource.RLIM_INFINITY else min(hard, 65536)}"
    if hard != resource.RLIM_INFINITY and hard < _FEW_FILES:
        fix = "Raise nofile in /etc/security/limits.conf (docker: --ulimit nofile=65536)."
    return warned(
        "open files", f"{detail}: few for the connections and workers of a large world", fix
    )


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else str(value)


def _room(place: str) -> int:
    free = os.statvfs(place)
    return free.f_bavail * free.f_frsize


def _existing(path: str) -> str:
    while not os.path.exists(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    return path
