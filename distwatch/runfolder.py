"""The run folder: the files that a run's processes, observers and viewers share on one node.

    <root>/<run id>/            0700, outlives its processes
        <host>-<pid>.start      a process that started here (written before torch loads)
        <host>-<pid>.journal    that process's events, copied to disk by the observer
        <host>-<pid>.pulse      its last pulse, likewise
        observer.sock · observer.lock · incidents/<n>/
    <volatile>/<run id>/        the same folder where it is on tmpfs, else under /dev/shm
        <host>-<pid>.ring       the journal that the process itself writes
        <host>-<pid>.pulse      the live page
        Both go once the process has ended and all of it is on disk.

Memory maps live on tmpfs only: on a disk, a full or truncated file kills its writer by SIGBUS.
Nothing below the root is read before the root is known to be ours: in /tmp anybody can create it.
Imports nothing but os: it runs at the start of every process of a job.
"""

from __future__ import annotations

import os
import stat

from distwatch.foreign_files import open_ours, read_ours

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SHM = "/dev/shm"
START_VARIABLES = (
    "RANK LOCAL_RANK GROUP_RANK NODE_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT "
    "TORCHELASTIC_RUN_ID TORCHELASTIC_RESTART_COUNT TORCHELASTIC_USE_AGENT_STORE SLURM_JOB_ID "
    "SLURM_STEP_ID SLURM_PROCID SLURM_LOCALID SLURM_NODEID SLURM_NTASKS SLURM_NTASKS_PER_NODE "
    "SLURM_RESTART_COUNT OMPI_COMM_WORLD_RANK OMPI_COMM_WORLD_LOCAL_RANK OMPI_COMM_WORLD_SIZE "
    "OMPI_COMM_WORLD_LOCAL_SIZE OMPI_COMM_WORLD_NODE_RANK PMI_RANK PMI_SIZE PMIX_RANK PMIX_SIZE "
    "MPI_LOCALRANKID MPI_LOCALNRANKS CROSS_RANK CROSS_SIZE LOCAL_SIZE RAY_RAYLET_PID RAY_JOB_ID "
    "ACCELERATE_MIXED_PRECISION PET_NNODES PET_NODE_RANK DISTWATCH_RUN_ID "
    "DISTWATCH_DEADLINES"
).split()
RANK_VARIABLES = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK")
_FORGOTTEN_AFTER_S = 120.0
_START_LONGEST = 16 * 1024


_HOST_LENGTH = 253


def host_name() -> str:
    """This host's name in its runs: DISTWATCH_HOST, for hosts that share a host name, else its own."""
    given = os.environ.get("DISTWATCH_HOST", "")
    # It becomes part of file names.
    sound = given[:1].isalnum() and given.isascii() and len(given) <= _HOST_LENGTH
    if sound and all(c.isalnum() or c in "._-" for c in given):
        return given
    return os.uname().nodename


def boot_id() -> str:
    """The id of the machine's current boot; '' where /proc does not have it."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


class FolderDenied(OSError):
    """The folder is not private: another user could read or plant files in it."""


def memory_place() -> str:
    """The folder of this user's rings and pulses whose run folders are on a disk."""
    return f"{SHM}/distwatch-{os.getuid()}"


def name_in_memory(root: str) -> str:
    """A root's name in that folder: runs of one name in two roots must have separate rings."""
    return root.strip("/").replace("%", "%25").replace(":", "%3A").replace("/", ":")


def root_in_memory(name: str) -> str:
    """The root with that name in that folder."""
    return "/" + name.replace(":", "/").replace("%3A", ":").replace("%25", "%")


def start_ticks(pid: int) -> int:
    """Start time of a process in clock ticks since boot, unique together with its pid; 0: gone."""
    return int(_stat(pid)[19])


def parent_pid(pid: int) -> int:
    """The parent's pid; 0 where the process is gone."""
    return int(_stat(pid)[1])


def ancestors(pid: int, most: int = 16) -> Iterator[int]:
    """The processes above one, its parent first; without init."""
    for _ in range(most):
        pid = parent_pid(pid)
        if pid <= 1:
            return
        yield pid


def is_alive(pid: int, ticks: int) -> bool:
    """Whether that same process still runs (a zombie does not)."""
    fields = _stat(pid)
    return int(fields[19]) == ticks and fields[0] not in (b"Z", b"X")


def _stat(pid: int) -> list[bytes]:
    """The fields of /proc/pid/stat after the command's name; those of an ended process if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The command's name is in parentheses and may contain anything: count from the last one.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        fields = []
    return fields if len(fields) > 19 else [b"X", *[b"0"] * 19]


def make_private(path: str) -> None:
    """Creates a folder that only this user can access, with its parents.

    Raises:
        FolderDenied: it exists, and is a link, another user's, or open to others.
    """
    os.makedirs(path, mode=0o700, exist_ok=True)
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise FolderDenied(f"{path} is not a folder of uid {os.getuid()}; set DISTWATCH_DIR")
    if status.st_mode & 0o077:
        os.chmod(path, 0o700)


def is_private(path: str) -> bool:
    """Whether it is a private folder, as `make_private` creates it."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    return ours and not status.st_mode & 0o077


def require_safe_root(path: str) -> None:
    """Creates the folder that holds run folders; an existing one is not changed.

    Raises:
        FolderDenied: it is not safe, as `why_unsafe` says.
    """
    os.makedirs(path, mode=0o700, exist_ok=True)
    if why := why_unsafe(path):
        raise FolderDenied(f"{why}; set DISTWATCH_DIR to a folder of your own")


def why_unsafe(path: str) -> str:
    """Why a folder must not hold run folders; '' where it may.

    Where others can create files, a run's name may be their link, and its files may be FIFOs. So /tmp
    itself is not allowed either: its sticky bit only prevents them from removing our files.
    """
    for status in (os.lstat(path), os.stat(path)):
        if status.st_uid not in (os.getuid(), 0):
            return f"{path} belongs to uid {status.st_uid}"
    return f"others may write to {path}" if status.st_mode & 0o022 else ""


def filesystem_of(path: str) -> str:
    """The type of the file system that holds `path`; '' where /proc does not have it."""
    best, kind = "", ""
    path = os.path.realpath(path)
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                fields, _, tail = line.partition(" - ")
                mount = fields.split()[4]
                inside = path == mount or path.startswith(mount.rstrip("/") + "/")
                if inside and len(mount) >= len(best):
                    best, kind = mount, tail.split()[0]
    except (OSError, IndexError):
        return ""
    return kind


def names_in(folder: str) -> list[str]:
    """The names in a folder; [] where it cannot be read."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


class RunFolder:
    """Paths of one run. Constructing it touches nothing."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self.run_id = os.path.basename(self.path)

    @property
    def volatile(self) -> str:
        """The folder of rings and live pulses: on tmpfs, or '' where the machine has none."""
        existing = self.path if os.path.isdir(self.path) else os.path.dirname(self.path)
        if filesystem_of(existing) == "tmpfs":
            return self.path
        if filesystem_of(SHM) != "tmpfs":
            return ""
        return f"{memory_place()}/{name_in_memory(os.path.dirname(self.path))}/{self.run_id}"

    def create(self) -> None:
        """Creates both folders, private to this user; raises as `require_safe_root` does."""
        require_safe_root(os.path.dirname(self.path))
        make_private(self.path)
        if (volatile := self.volatile) and volatile != self.path:
            make_private(memory_place())
            make_private(os.path.dirname(volatile))
            make_private(volatile)

    def journal(self, stem: str) -> str:
        return os.path.join(self.path, f"{stem}.journal")

    def kept_pulse(self, stem: str) -> str:
        return os.path.join(self.path, f"{stem}.pulse")

    @property
    def socket(self) -> str:
        return os.path.join(self.path, "observer.sock")

    @property
    def lock(self) -> str:
        return os.path.join(self.path, "observer.lock")

    @property
    def attached(self) -> str:
        """The keys of the processes that an `attach` found, in a run that it made for a job without distwatch."""
        return os.path.join(self.path, "attached")

    @property
    def incidents(self) -> str:
        return os.path.join(self.path, "incidents")

    def stems(self, suffix: str, folder: str | None = None) -> list[str]:
        """Stems of the files with that suffix; default: in the run folder."""
        names = names_in(folder or self.path)
        return sorted(name[: -len(suffix)] for name in names if name.endswith(suffix))

    def starts(self) -> list[dict[str, str]]:
        """The start records: `pid`, `ticks`, `ppid`, `role`, `host`, and launcher variables."""
        return [self.start(stem) for stem in self.stems(".start")]

    def start(self, stem: str) -> dict[str, str]:
        """The start record of one stem; {} where there is none."""
        return _read_start(os.path.join(self.path, f"{stem}.start"))


def _read_start(path: str) -> dict[str, str]:
    try:
        lines = read_ours(path, _START_LONGEST).decode("utf-8", "replace").splitlines()
    except OSError:
        return {}
    start = dict(line.split("=", 1) for line in lines if "=" in line)
    numbers = (start.get(name, "0") for name in ("pid", "ticks", "ppid"))
    return start if all(one.isdecimal() and len(one) < 20 for one in numbers) else {}


def write_start(
    folder: RunFolder, role: str, environ: Mapping[str, str], pid: int | None = None
) -> str:
    """Writes a process's start record, by default this one's; returns the stem of its files."""
    pid, host = os.getpid() if pid is None else pid, host_name()
    stem = f"{host}-{pid}"
    lines = [
        f"pid={pid}",
        f"ticks={start_ticks(pid)}",
        f"ppid={parent_pid(pid)}",
        f"host={host}",
        f"role={role}",
    ]
    lines += [f"{name}={environ[name]}" for name in START_VARIABLES if environ.get(name)]
    descriptor = open_ours(os.path.join(folder.path, f"{stem}.start"), os.O_WRONLY | os.O_CREAT)
    try:
        # A record of an earlier process with our pid would be someone else's history.
        os.ftruncate(descriptor, 0)
        os.write(descriptor, "\n".join(lines).encode("utf-8", "replace") + b"\n")
    finally:
        os.close(descriptor)
    return stem


def is_child_of_rank(folder: RunFolder) -> bool:
    """Whether an ancestor has a start record as a rank here: then this is the rank's child."""
    ranks = {(r.get("pid"), r.get("ticks")) for r in folder.starts() if r.get("role") == "rank"}
    above = ancestors(os.getpid())
    return any((str(pid), str(start_ticks(pid))) in ranks for pid in above)


def folder_name(name: str) -> str:
    """A run's name as a folder name, which cannot lead out of the root."""
    return "".join(c if c.isalnum() or c in "._-:" else "_" for c in name).lstrip(".") or "run"


def join(root: str, name: str, environ: Mapping[str, str]) -> RunFolder:
    """The folder of this launch of the run: the newest of that name, or a new one.

    A name may be used again (torchrun without --rdzv-id, a fixed port): a launch whose processes have
    all ended is not joined when it is old, or when this process's rank existed in it.
    Later launches get `name~2`, `name~3`, ….

    Raises:
        OSError: the folder cannot be created, or the root is not safe.
    """
    require_safe_root(root)
    name = folder_name(name)
    generation = 1
    while os.path.isdir(os.path.join(root, _generation(name, generation + 1))):
        generation += 1
    folder = RunFolder(os.path.join(root, _generation(name, generation)))
    while os.path.isdir(folder.path) and not _joinable(folder, environ):
        generation += 1
        folder = RunFolder(os.path.join(root, _generation(name, generation)))
    folder.create()
    return folder


def _generation(name: str, generation: int) -> str:
    return name if generation == 1 else f"{name}~{generation}"


def generations(root: str, name: str) -> list[RunFolder]:
    """The folders of all launches of a run's name, the oldest first; possibly none."""
    found: list[RunFolder] = []
    while os.path.isdir(path := os.path.join(root, _generation(name, len(found) + 1))):
        found.append(RunFolder(path))
    return found


def next_generation(root: str, name: str) -> RunFolder:
    """The folder for the next launch of that name; it is not created."""
    return RunFolder(os.path.join(root, _generation(name, len(generations(root, name)) + 1)))


def name_of(run_id: str) -> str:
    """A run's name without the number of its launch, which each host counts separately."""
    name, tilde, number = run_id.rpartition("~")
    return name if tilde and number.isdigit() else run_id


def is_named(run_id: str, word: str) -> bool:
    """Whether a word is the run's id or its name, or `ray-<job id>` of its Ray job."""
    # The user need not know the cluster's start time, which ends such a run's id.
    of_ray_job = word.startswith("ray-") and run_id.startswith(f"{word}-")
    return of_ray_job or word in (run_id, name_of(run_id))


def _joinable(folder: RunFolder, environ: Mapping[str, str]) -> bool:
    starts = [start for start in folder.starts() if start.get("role") in ("rank", "other")]
    me = (str(os.getpid()), str(start_ticks(os.getpid())))
    others = [start for start in starts if (start.get("pid"), start.get("ticks")) != me]
    if len(others) < len(starts) or not others:
        return True
    if any(is_alive(int(s.get("pid", 0)), int(s.get("ticks", 0))) for s in others):
        return True
    if any(_claim(start) == _claim(environ) for start in others if _claim(environ)[1]):
        return False
    return _age_s(folder) < _FORGOTTEN_AFTER_S


def _claim(variables: Mapping[str, str]) -> tuple[str, str]:
    rank = next((variables[name] for name in RANK_VARIABLES if variables.get(name)), "")
    return variables.get("TORCHELASTIC_RESTART_COUNT", "0"), rank


def _age_s(folder: RunFolder) -> float:
    import time

    newest = 0.0
    for stem in folder.stems(".start"):
        try:
            newest = max(newest, os.stat(os.path.join(folder.path, f"{stem}.start")).st_mtime)
        except OSError:
            continue
    return time.time() - newest
